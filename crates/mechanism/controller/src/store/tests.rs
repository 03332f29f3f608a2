use super::*;
use tyndall_types::protocol::{AutoscalingConfig, GenerateDefaults, ModelConfig};

fn config(name: &str, max_replicas: u32) -> DeploymentConfig {
    DeploymentConfig {
        name: DeploymentName::new(name).unwrap(),
        model: ModelConfig {
            id: name.into(),
            path: "/models/demo".into(),
            max_model_len: None,
            memory_budget_bytes: None,
            max_num_seqs: 8,
            max_num_batched_tokens: 512,
            num_threads: None,
            speculation: true,
            quantization: Default::default(),
            generate: GenerateDefaults { max_new_tokens: 16, temperature: 0.7, top_p: 0.95 },
        },
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            max_replicas,
            target_ongoing_requests: 2.0,
            upscale_delay_s: 1.0,
            downscale_delay_s: 10.0,
            downscale_to_zero_delay_s: 30.5,
        },
        max_ongoing_requests: 4,
        max_queued_requests: 100,
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 120.0,
    }
}

const fn at(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn deployments_survive_in_order_with_their_newest_version() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("deep/er")).unwrap();
    for (name, max, s) in [("a", 1, 1), ("b", 1, 2), ("a", 2, 3), ("a", 2, 4), ("c", 1, 5)] {
        store.deploy(&config(name, max), at(s)).unwrap();
    }
    store.delete(&DeploymentName::new("c").unwrap()).unwrap();
    drop(store);
    let mut store = Store::open(&dir.path().join("deep/er")).unwrap();
    let expected = [(config("a", 2), at(3)), (config("b", 1), at(2))];
    assert_eq!(store.deployments().unwrap(), expected);
    // What was deleted comes back as a version of its own, even if it is the same.
    store.deploy(&config("c", 1), at(6)).unwrap();
    assert_eq!(store.deployments().unwrap()[2], (config("c", 1), at(6)));
    let versions = store.rows("SELECT name, version FROM versions ORDER BY 1, 2", |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    });
    let expected = [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2)];
    assert_eq!(versions.unwrap(), expected.map(|(name, version)| (name.to_owned(), version)));
}

#[test]
fn history_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let name = DeploymentName::new("a").unwrap();
    for i in 0..60 {
        store.deploy(&config("a", i + 1), at(1)).unwrap();
    }
    let count = |store: &Store, sql| store.rows(sql, |row| row.get::<_, i64>(0)).unwrap()[0];
    assert_eq!(count(&store, "SELECT count(*) FROM versions"), MAX_VERSIONS);
    store
        .change(|change| {
            let sql = "INSERT INTO events VALUES (?1, 0, 'a', 'old', '')";
            change.execute(sql, [MAX_EVENTS]).map(drop)
        })
        .unwrap();
    store.record(at(7), &name, "scaled", "from 0 to 1").unwrap();
    store.record(at(8), &name, "woke", "in 9 ms").unwrap();
    assert_eq!(count(&store, "SELECT min(id) FROM events"), MAX_EVENTS);
    store.record(at(9), &name, "scaled", "from 1 to 0").unwrap();
    let kinds = |events: Vec<StoredEvent>| events.into_iter().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds(store.events(2).unwrap()), ["woke", "scaled"]);
    assert_eq!(store.events(1).unwrap()[0].at_ms, 9000);
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

    let garbled = dir.path().join("garbled");
    std::fs::create_dir(&garbled).unwrap();
    std::fs::write(garbled.join("state.db"), "no database ".repeat(1000)).unwrap();
    let error = Store::open(&garbled).unwrap_err();
    assert!(error.to_string().contains("move the file away"), "{error}");
    let file = Store::open(&garbled.join("state.db")).unwrap_err();
    assert!(matches!(file, StoreError::Directory { .. }), "{file}");
}

#[test]
fn an_entry_that_cannot_be_read_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.deploy(&config("a", 1), at(1)).unwrap();
    store.deploy(&config("b", 1), at(1)).unwrap();
    let spoil = "UPDATE versions SET config = '{\"name\":1}' WHERE name = 'a'";
    store.change(|change| change.execute(spoil, []).map(drop)).unwrap();
    assert_eq!(store.deployments().unwrap(), [(config("b", 1), at(1))]);
}
