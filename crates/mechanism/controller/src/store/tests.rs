use super::*;
use std::sync::Arc;
use tyndall_types::protocol::{
    Aggregation, AutoscalingConfig, GenerateDefaults, HealthCheck, KeyUsage, KeyUsageOfDay,
    KeyUsageReport, ModelConfig, ScalingPolicy, Workload,
};

fn deployment(id: DeploymentId, max_replicas: u32) -> DeploymentConfig {
    let model = ModelConfig {
        id: id.to_string(),
        aliases: Vec::new(),
        task: Default::default(),
        sampling: Default::default(),
        path: "/models/demo".into(),
        max_model_len: None,
        memory_budget_bytes: None,
        max_num_seqs: 8,
        max_num_batched_tokens: 512,
        num_threads: None,
        speculation: true,
        quantization: Default::default(),
        chat: Default::default(),
        generate: GenerateDefaults { max_new_tokens: 16, temperature: 0.7, top_p: 0.95 },
    };
    DeploymentConfig {
        id,
        workload: Workload::Model(model),
        code_version: String::new(),
        num_replicas: None,
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            initial_replicas: None,
            max_replicas,
            target_ongoing_requests: 2.0,
            look_back_period_s: 0.0,
            aggregation_function: Aggregation::Mean,
            upscale_delay_s: 1.0,
            downscale_delay_s: 10.0,
            downscale_to_zero_delay_s: 30.5,
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
            policy: ScalingPolicy::OngoingRequests,
            python_policy: None,
        },
        max_ongoing_requests: 4,
        max_queued_requests: 100,
        backpressure: Default::default(),
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 120.0,
        health_check: HealthCheck::default(),
        max_constructor_retry_count: 20,
        rollout: Default::default(),
        resources: Default::default(),
        residency: Default::default(),
        env_vars: Default::default(),
        user_config: Value::Null,
        warm: Default::default(),
        deployment_actors: Vec::new(),
        request_router: None,
        gang_scheduling: None,
        prefix_affinity: None,
    }
}

fn name(name: &str) -> ApplicationName {
    ApplicationName::new(name).unwrap()
}

fn id(application: &str, deployment: &str) -> DeploymentId {
    DeploymentId {
        application: name(application),
        deployment: DeploymentName::new(deployment).unwrap(),
    }
}

fn config(application: &str, max_replicas: u32) -> ApplicationConfig {
    ApplicationConfig {
        name: name(application),
        route_prefix: Some("/".to_owned()),
        source: ApplicationSource::Imperative,
        external_scaler_enabled: false,
        autoscaling_policy: None,
        submitted: Default::default(),
        deployments: vec![Arc::new(deployment(id(application, "d"), max_replicas))],
    }
}

const fn at(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A folder whose store can be opened again.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Store {
        Store::open(self.0.path()).unwrap()
    }
}

fn deploy(store: &mut Store, config: &ApplicationConfig, s: u64) -> u64 {
    store.deploy(config, "", at(s)).unwrap()
}

fn stored(store: &Store, of: &str) -> Option<StoredApplication> {
    store.applications().unwrap().into_iter().find(|application| application.name == name(of))
}

fn submit(store: &mut Store, of: &str, submitted: &Value, gone: &[ApplicationName], s: u64) {
    let of = name(of);
    let applications = vec![(&of, submitted)];
    let shared = &json!({});
    let submission = Submission { applications, gone, target_capacity: None, shared };
    store.submit(&submission, at(s)).unwrap();
}

#[test]
fn what_keys_used_is_added_up_by_day_and_counted_once() {
    let folder = Folder::new();
    let mut store = folder.open();
    let used = |name: &str, n: u64| KeyUsage {
        name: name.to_owned(),
        requests: n,
        refused: 1,
        prompt_tokens: 10 * n,
        cached_tokens: n,
        completion_tokens: 5 * n,
    };
    let report =
        |instance: &str, batch, keys| KeyUsageReport { instance: instance.to_owned(), batch, keys };
    let day = |n: u64| at(n * 86_400 + 7);
    let first = report("x", 1, vec![used("a", 1), used("b", 2)]);
    store.keep_key_usage("p", &first, day(100)).unwrap();
    drop(store);
    // The answer was lost with the controller: the next one gets it again.
    let mut store = folder.open();
    store.keep_key_usage("p", &first, day(100)).unwrap();
    store.keep_key_usage("p", &report("x", 2, vec![used("a", 3)]), day(100)).unwrap();
    // Another process, and another proxy, begin to count anew.
    store.keep_key_usage("p", &report("y", 1, vec![used("a", 1)]), day(101)).unwrap();
    store.keep_key_usage("q", &report("x", 1, vec![used("a", 1)]), day(101)).unwrap();
    let told = |store: &Store, num_days, n| -> Vec<(u64, String, u64, u64, u64)> {
        let usage = store.key_usage(num_days, day(n)).unwrap().into_iter();
        let one = |of: KeyUsageOfDay| {
            let usage = of.usage;
            (of.day, usage.name, usage.requests, usage.refused, usage.completion_tokens)
        };
        usage.map(one).collect()
    };
    let (a, b) = (|| "a".to_owned(), || "b".to_owned());
    assert_eq!(
        told(&store, 2, 101),
        [(100, a(), 4, 2, 20), (100, b(), 2, 1, 10), (101, a(), 2, 2, 10)]
    );
    assert_eq!(told(&store, 1, 101), [(101, a(), 2, 2, 10)]);
    assert_eq!(told(&store, 1000, 101).len(), 3);
    store.keep_key_usage("p", &report("y", 2, vec![used("b", 1)]), day(501)).unwrap();
    assert_eq!(told(&store, 1000, 501), [(101, a(), 2, 2, 10), (501, b(), 1, 1, 5)]);
}

fn event(application: &str, kind: &'static str, s: u64) -> Record {
    Record::Event {
        at: at(s),
        application: application.to_owned(),
        deployment: String::new(),
        kind,
        message: "m".to_owned(),
    }
}

fn kinds(events: Vec<StoredEvent>) -> Vec<String> {
    events.into_iter().map(|event| event.kind).collect()
}

fn count(store: &Store, sql: &str) -> i64 {
    store.rows(sql, [], |row| row.get(0)).unwrap()[0]
}

#[test]
fn applications_survive_in_order_with_their_newest_version() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("deep/er");
    let mut store = Store::open(&deep).unwrap();
    for (of, max, s) in [("a", 1, 1), ("b", 1, 2), ("a", 2, 3), ("a", 2, 4), ("c", 1, 5)] {
        deploy(&mut store, &config(of, max), s);
    }
    store.delete(&name("c")).unwrap();
    drop(store);
    let mut store = Store::open(&deep).unwrap();
    let current = |store: &Store| -> Vec<(ApplicationConfig, u64, Duration)> {
        store.applications().unwrap().into_iter().filter_map(|one| one.current).collect()
    };
    let expected = [(config("a", 2), 2, at(3)), (config("b", 1), 1, at(2))];
    assert_eq!(current(&store), expected);
    // What was deleted comes back as a version of its own, even if it is the same.
    assert_eq!(deploy(&mut store, &config("c", 1), 6), 2);
    assert_eq!(current(&store)[2], (config("c", 1), 2, at(6)));
    let numbers = |of: &str| -> Vec<u64> {
        store.versions(&name(of)).unwrap().iter().map(|version| version.version).collect()
    };
    assert_eq!((numbers("a"), numbers("b"), numbers("c")), (vec![2, 1], vec![1], vec![2, 1]));
}

#[test]
fn a_submission_is_kept_until_it_is_built_or_given_up() {
    let folder = Folder::new();
    let mut store = folder.open();
    let submitted = serde_json::json!({"name": "a", "import_path": "x:y"});
    submit(&mut store, "a", &submitted, &[], 1);
    deploy(&mut store, &config("b", 1), 1);
    submit(&mut store, "b", &submitted, &[], 2);
    drop(store);
    let mut store = folder.open();
    let a = stored(&store, "a").unwrap();
    assert_eq!(a.source, ApplicationSource::Declarative);
    assert_eq!((a.current, a.pending), (None, Some((submitted.clone(), at(1)))));
    let b = stored(&store, "b").unwrap();
    assert_eq!(b.current, Some((config("b", 1), 1, at(1))));
    assert_eq!(b.pending, Some((submitted.clone(), at(2))));

    deploy(&mut store, &config("a", 1), 3);
    assert_eq!(stored(&store, "a").unwrap().pending, None);
    store.give_up(&name("b"), "no such file").unwrap();
    let b = stored(&store, "b").unwrap();
    assert_eq!((b.pending, b.failure), (None, Some(("no such file".to_owned(), at(2)))));
    assert!(b.current.is_some(), "what was carried out goes on");
    // One that was never built is still known by its failure.
    submit(&mut store, "c", &submitted, &[], 4);
    store.give_up(&name("c"), "why").unwrap();
    assert!(stored(&store, "c").unwrap().failure.is_some());
    submit(&mut store, "b", &submitted, &[name("c")], 5);
    assert_eq!(stored(&store, "b").unwrap().failure, None);
    assert_eq!(stored(&store, "c"), None);
}

#[test]
fn the_newest_proven_version_is_the_fallback() {
    let folder = Folder::new();
    let mut store = folder.open();
    let fallback = |store: &Store| stored(store, "a").unwrap().fallback.map(|to| to.version);
    deploy(&mut store, &config("a", 1), 1);
    assert_eq!(fallback(&store), None);
    store.proven(&name("a"), 1).unwrap();
    assert_eq!(fallback(&store), Some(1));
    deploy(&mut store, &config("a", 2), 2);
    assert_eq!(fallback(&store), Some(1));
    store.proven(&name("a"), 2).unwrap();
    deploy(&mut store, &config("a", 3), 3);
    assert_eq!(fallback(&store), Some(2));
    // Back to what 2 was: going back to 2 would change nothing.
    store.deploy(&config("a", 2), ": rolled back", at(4)).unwrap();
    assert_eq!(fallback(&store), None);
    drop(store);
    let versions = folder.open().versions(&name("a")).unwrap();
    let told: Vec<(u64, bool, &str)> =
        versions.iter().map(|v| (v.version, v.is_proven, v.note.as_str())).collect();
    let expected = [(4, false, ": rolled back"), (3, false, ""), (2, true, ""), (1, true, "")];
    assert_eq!(told, expected);
    assert_eq!(versions[0].deployed_at, at(4));
}

#[test]
fn history_is_bounded_and_keeps_the_newest_proven_version() {
    let folder = Folder::new();
    let mut store = folder.open();
    for i in 1..=60 {
        deploy(&mut store, &config("a", i), 1);
        if i <= 3 {
            store.proven(&name("a"), u64::from(i)).unwrap();
        }
    }
    let versions = store.versions(&name("a")).unwrap();
    assert_eq!(versions.len() as u64, MAX_VERSIONS + 1);
    assert_eq!(versions.last().unwrap().version, 3, "what it can go back to stays");
    store
        .change(|change| {
            let sql = "INSERT INTO application_events VALUES (?1, 0, 'a', '', 'old', '')";
            change.execute(sql, [2])?;
            change.execute(sql, [history::MAX_EVENTS]).map(drop)
        })
        .unwrap();
    store.keep(&[event("a", "scaled", 7), event("a", "woke", 8)]).unwrap();
    assert_eq!(count(&store, "SELECT min(id) FROM application_events"), history::MAX_EVENTS);
    store.keep(&[event("a", "scaled", 9)]).unwrap();
    assert_eq!(kinds(store.events(None, 0, 2).unwrap()), ["woke", "scaled"]);
    assert_eq!(store.events(None, 0, 1).unwrap()[0].at_ms, 9000);
}

#[test]
fn events_are_told_by_application_and_from_one_on() {
    let folder = Folder::new();
    let mut store = folder.open();
    store.keep(&[event("a", "one", 1), event("b", "two", 2), event("a", "three", 3)]).unwrap();
    assert_eq!(kinds(store.events(Some("a"), 0, 10).unwrap()), ["one", "three"]);
    assert_eq!(kinds(store.events(None, 1, 10).unwrap()), ["two", "three"]);
    assert_eq!(kinds(store.events(Some("a"), 1, 10).unwrap()), ["three"]);
    assert_eq!(kinds(store.events(None, 0, 0).unwrap()), [""; 0]);
    assert_eq!(kinds(store.events(Some("c"), 0, 10).unwrap()), [""; 0]);
}

#[test]
fn usage_adds_up_by_day_and_old_days_go() {
    let folder = Folder::new();
    let mut store = folder.open();
    let used = |day: u64, wakes, replica_seconds| Record::Use {
        at: at(day * 24 * 3600 + 5),
        id: id("a", "d"),
        wakes,
        replica_seconds,
    };
    store.keep(&[used(10, 1, 0.0), used(10, 0, 2.5), used(11, 1, 0.0)]).unwrap();
    let told = |store: &Store| -> Vec<(u64, u64, f64)> {
        let usage = store.usage().unwrap();
        usage.iter().map(|one| (one.day, one.wakes, one.replica_seconds)).collect()
    };
    assert_eq!(told(&store), [(10, 1, 2.5), (11, 1, 0.0)]);
    store.keep(&[used(411, 1, 0.0)]).unwrap();
    assert_eq!(told(&store), [(11, 1, 0.0), (411, 1, 0.0)]);
}

#[test]
fn the_capacity_and_counts_that_were_set_survive() {
    let folder = Folder::new();
    let mut store = folder.open();
    assert_eq!(store.target_capacity().unwrap(), None);
    let up = Some((12.5, Some(CapacityDirection::Up)));
    let shared = &json!({"logging_config": {"encoding": "JSON"}});
    let submission =
        Submission { applications: Vec::new(), gone: &[], target_capacity: up, shared };
    store.submit(&submission, at(1)).unwrap();
    let mut both = config("a", 1);
    both.deployments.push(Arc::new(deployment(id("a", "e"), 1)));
    deploy(&mut store, &both, 1);
    for (of, target) in [("d", 3), ("e", 4), ("e", 5)] {
        store.scale(&id("a", of), target).unwrap();
    }
    drop(store);
    let mut store = folder.open();
    assert_eq!((store.target_capacity().unwrap(), &store.shared().unwrap()), (up, shared));
    let counts = |store: &Store| -> Vec<(String, u32)> {
        let counts = stored(store, "a").unwrap().replica_counts;
        counts.into_iter().map(|(name, target)| (name.to_string(), target)).collect()
    };
    assert_eq!(counts(&store), [("d".to_owned(), 3), ("e".to_owned(), 5)]);
    deploy(&mut store, &both, 2);
    assert_eq!(counts(&store).len(), 2, "the same again changes nothing");
    Arc::make_mut(&mut both.deployments[0]).max_ongoing_requests += 1;
    deploy(&mut store, &both, 3);
    assert_eq!(counts(&store), [("e".to_owned(), 5)], "a change of a deployment forgets its own");
    store.drop_target_capacity().unwrap();
    store.delete(&name("a")).unwrap();
    deploy(&mut store, &both, 4);
    assert_eq!((counts(&store), store.target_capacity().unwrap()), (Vec::new(), None));
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let locked = Store::open(dir.path()).unwrap_err();
    assert!(matches!(locked, StoreError::Locked { .. }), "{locked}");
    assert!(locked.to_string().contains("in use by another instance"), "{locked}");
    store.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let newer = Store::open(dir.path()).unwrap_err();
    assert!(matches!(newer, StoreError::Newer { found: 99, .. }), "{newer}");
    let again = Store::open(dir.path()).unwrap_err();
    assert!(matches!(again, StoreError::Newer { found: 99, .. }), "it was left as it is: {again}");

    let file = Store::open(&dir.path().join("state.db")).unwrap_err();
    assert!(matches!(file, StoreError::Directory { .. }), "{file}");
}

#[test]
fn a_broken_file_is_left_as_it_is() {
    let folder = Folder::new();
    let mut store = folder.open();
    for i in 0..50 {
        deploy(&mut store, &config(&format!("a{i}"), 1), 1);
    }
    drop(store);
    let path = folder.0.path().join("state.db");
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > 16 << 10, "{}", whole.len());
    let garbled = b"no database ".repeat(1000);
    for broken in [&whole[..whole.len() / 2], &whole[..5000], &whole[..50], &garbled] {
        std::fs::write(&path, broken).unwrap();
        let error = Store::open(folder.0.path()).unwrap_err();
        assert!(error.to_string().contains("move the file away"), "{error}");
        assert!(std::fs::read(&path).unwrap() == broken, "it was changed");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(folder.open().applications().unwrap().len(), 50);
}

#[test]
fn an_entry_that_cannot_be_read_is_left_out() {
    let folder = Folder::new();
    let mut store = folder.open();
    deploy(&mut store, &config("a", 1), 1);
    deploy(&mut store, &config("b", 1), 1);
    let spoil = "UPDATE application_versions SET config = '{\"name\":1}' WHERE application = 'a'";
    store.change(|change| change.execute(spoil, []).map(drop)).unwrap();
    let names: Vec<ApplicationName> =
        store.applications().unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, [name("b")]);
    assert_eq!(store.versions(&name("a")).unwrap(), []);
}

#[test]
fn a_full_disk_changes_nothing() {
    let folder = Folder::new();
    let mut store = folder.open();
    deploy(&mut store, &config("a", 1), 1);
    let pages = count(&store, "PRAGMA page_count");
    store.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let mut large = config("b", 1);
    let long = json!("x".repeat(100_000));
    large.submitted = (&long).into();
    let full = store.deploy(&large, "", at(2)).unwrap_err();
    assert!(full.is_full() && full.to_string().contains("free some space"), "{full}");
    let a = name("a");
    let submission = Submission {
        applications: vec![(&a, &long)],
        gone: &[],
        target_capacity: Some((50.0, None)),
        shared: &json!({}),
    };
    assert!(store.submit(&submission, at(2)).unwrap_err().is_full());
    assert_eq!(store.target_capacity().unwrap(), None, "all of a submission or nothing");
    assert_eq!(stored(&store, "b"), None);
    store.connection.pragma_update(None, "max_page_count", 100_000).unwrap();
    deploy(&mut store, &large, 3);
}

/// A file as the release before wrote it, with a deployment that cannot be read.
fn write_format_1(directory: &Path) {
    let old = Connection::open(directory.join("state.db")).unwrap();
    old.execute_batch(
        "CREATE TABLE deployments (
             position INTEGER PRIMARY KEY AUTOINCREMENT,
             name TEXT NOT NULL UNIQUE,
             version INTEGER NOT NULL
         );
         CREATE TABLE versions (
             name TEXT NOT NULL,
             version INTEGER NOT NULL,
             config TEXT NOT NULL,
             deployed_at_ms INTEGER NOT NULL,
             PRIMARY KEY (name, version)
         );
         CREATE TABLE events (
             id INTEGER PRIMARY KEY AUTOINCREMENT,
             at_ms INTEGER NOT NULL,
             deployment TEXT NOT NULL,
             kind TEXT NOT NULL,
             message TEXT NOT NULL
         );
         INSERT INTO deployments (name, version) VALUES ('org/m', 2), ('broken', 1), ('n', 1);
         INSERT INTO events (at_ms, deployment, kind, message)
             VALUES (1000, 'org/m', 'woke', 'in 9 ms'), (2000, 'n', 'scaled', 'from 0 to 1');
         PRAGMA user_version = 1;",
    )
    .unwrap();
    let config = |name: &str, tokens: u32| {
        serde_json::json!({
            "name": name,
            "model": {
                "id": name, "path": "/m", "max_model_len": 512, "memory_budget_bytes": null,
                "max_num_seqs": 64, "max_num_batched_tokens": 512, "num_threads": null,
                "generate": {"max_new_tokens": tokens, "temperature": 0.8, "top_p": 0.95},
            },
            "autoscaling": {
                "min_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 2.0,
                "upscale_delay_s": 0.0, "downscale_delay_s": 60.0,
                "downscale_to_zero_delay_s": 60.0,
            },
            "max_ongoing_requests": 8, "max_queued_requests": 256, "request_timeout_s": 600.0,
            "graceful_shutdown_timeout_s": 20.0, "startup_timeout_s": 600.0,
        })
        .to_string()
    };
    let broken = "{}".to_owned();
    for (of, version, config, s) in [
        ("org/m", 1, config("org/m", 80), 1),
        ("org/m", 2, config("org/m", 81), 2),
        ("broken", 1, broken, 3),
        ("n", 1, config("n", 82), 4),
    ] {
        let sql = "INSERT INTO versions VALUES (?1, ?2, ?3, ?4)";
        old.execute(sql, params![of, version, config, s * 1000]).unwrap();
    }
}

#[test]
fn state_of_the_release_before_is_taken_over() {
    let folder = Folder::new();
    write_format_1(folder.0.path());
    for _ in 0..2 {
        let store = folder.open();
        let applications = store.applications().unwrap();
        let told: Vec<(&str, u64, Duration)> = applications
            .iter()
            .map(|one| {
                let (_, version, at) = one.current.as_ref().unwrap();
                (one.name.as_str(), *version, *at)
            })
            .collect();
        assert_eq!(told, [("org/m", 2, at(2)), ("n", 1, at(4))]);
        let (config, ..) = applications[0].current.as_ref().unwrap();
        assert_eq!(config.deployments[0].id.to_string(), "org/m");
        let model = config.deployments[0].workload.model().unwrap();
        assert_eq!(model.generate.max_new_tokens, 81);
        assert_eq!(
            (config.source, config.route_prefix.as_deref()),
            (applications[0].source, Some("/"))
        );
        assert_eq!(applications[0].source, ApplicationSource::Imperative);
        let events = store.events(None, 0, 10).unwrap();
        let told: Vec<(i64, &str, &str)> =
            events.iter().map(|e| (e.at_ms, e.application.as_str(), e.kind.as_str())).collect();
        assert_eq!(told, [(1000, "org/m", "woke"), (2000, "n", "scaled")], "once");
    }
    let mut store = folder.open();
    assert_eq!(deploy(&mut store, &super::tests::config("n", 1), 9), 2);
}
