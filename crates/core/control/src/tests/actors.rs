//! Actors: before, beside and after the replicas that share them.

use super::*;
use tyndall_types::protocol::{ActorDetails, DeploymentActor, ProgramConfig, Resources};

/// A deployment of a program with so many replicas and these actors.
fn with_actors(code: &str, replicas: u32, actors: &[&str]) -> DeploymentConfig {
    let mut config = with_min(replicas);
    config.workload = Workload::Program(ProgramConfig::default());
    config.code_version = code.into();
    config.deployment_actors = actors_called(actors);
    config
}

pub(crate) fn actors_called(names: &[&str]) -> Vec<DeploymentActor> {
    let actor = |name: &&str| DeploymentActor {
        name: (*name).to_owned(),
        actor_class: "m:C".into(),
        env_vars: [("A".to_owned(), "b".to_owned())].into(),
        ..DeploymentActor::default()
    };
    names.iter().map(actor).collect()
}

/// The actors that these actions start, by name.
fn actors(actions: &[Action]) -> Vec<(String, ReplicaId)> {
    let one = |action: &Action| match action {
        Action::StartSidecar { process, config, .. } => {
            assert_eq!(config.role, "actor");
            let name = config.told["actor"]["name"].as_str().unwrap().to_owned();
            Some((name, process.clone()))
        }
        _ => None,
    };
    actions.iter().filter_map(one).collect()
}

fn actor(actions: &[Action]) -> ReplicaId {
    let [(_, process)] = actors(actions).try_into().unwrap();
    process
}

impl Sim {
    /// A deployment whose actor and only replica are ready.
    fn acting(code: &str) -> (Self, ReplicaId, ReplicaId) {
        let mut sim = Self::deployed(with_actors(code, 1, &["a"]));
        let process = actor(&sim.last);
        let [replica] = starts(sim.ready(&process)).try_into().unwrap();
        sim.ready(&replica);
        assert_eq!(sim.status().0, DeploymentStatus::Healthy);
        (sim, process, replica)
    }
}

#[test]
fn no_replica_starts_before_all_actors_are_ready() {
    let mut sim = Sim::deployed(with_actors("1", 2, &["a", "b"]));
    let [a, b] = actors(&sim.last).try_into().unwrap();
    assert_eq!((a.0.as_str(), b.0.as_str(), sim.started()), ("a", "b", vec![]));
    assert_eq!(sim.details().message, "replicas wait for the deployment actors a, b");
    assert!(sim.state.knows(&a.1) && sim.state.knows(&b.1));
    assert_eq!(starts(sim.ready(&a.1)), []);
    assert_eq!(sim.status().0, DeploymentStatus::Updating);
    assert_eq!(sim.details().message, "replicas wait for the deployment actor b");
    let replicas = starts(sim.ready(&b.1));
    assert_eq!((replicas.len(), sim.details().message), (2, String::new()));
    for replica in &replicas {
        sim.ready(replica);
    }
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "CONFIG_UPDATE_COMPLETED".into()));
}

#[test]
fn an_actor_is_told_what_it_is() {
    let sim = Sim::deployed(with_actors("v1", 1, &["a"]));
    let Action::StartSidecar { config, .. } = &sim.last[0] else { panic!("{:?}", sim.last) };
    let env: Vec<_> = config.env_vars.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let own = "RAY_SERVE_INTERNAL_DEPLOYMENT_";
    let expected = [
        ("A".to_owned(), "b"),
        (format!("{own}ACTOR_NAME"), "a"),
        (format!("{own}APP_NAME"), "org/demo"),
        (format!("{own}CODE_VERSION"), "v1"),
        (format!("{own}NAME"), "org/demo"),
    ];
    assert_eq!(env, expected.each_ref().map(|(k, v)| (k.as_str(), *v)));
    assert_eq!(config.told["code_version"], "v1");
}

#[test]
fn what_becomes_of_an_actor_is_told() {
    use ReplicaState::{Recovering, Running, Starting, Stopped, Stopping};
    let told = |sim: &Sim| {
        let details = sim.details().actors;
        let shown = |one: ActorDetails| (one.name, one.version, one.state, one.pid, one.deadline_s);
        details.into_iter().map(shown).collect::<Vec<_>>()
    };
    let a = || "a".to_owned();
    let mut sim = Sim::deployed(with_actors("1", 1, &["a"]));
    let first = actor(&sim.last);
    sim.wait(20.0);
    assert_eq!(told(&sim), [(a(), 1, Starting, None, Some(100.0))]);
    sim.apply(Event::ProcessStarted { replica: first.clone(), pid: 7 });
    assert_eq!(told(&sim), [(a(), 1, Starting, Some(7), Some(100.0))]);
    assert_eq!(sim.details().actors[0].since_s, Some(20.0));
    sim.failed(&first, "no luck");
    sim.exited(&first);
    assert_eq!(told(&sim), [(a(), 1, Stopped, None, Some(1.0))]);
    assert_eq!(sim.details().actors[0].message, "no luck");
    let second = actor(&sim.wait(1.0));
    sim.apply(Event::ProcessStarted { replica: second.clone(), pid: 8 });
    let [replica] = starts(sim.ready(&second)).try_into().unwrap();
    sim.ready(&replica);
    assert_eq!(told(&sim), [(a(), 1, Running, Some(8), None)]);
    assert_eq!(sim.details().actors[0].message, "");
    // A new version has its own beside it.
    sim.deploy(with_actors("2", 1, &["a"]));
    let third = actor(&sim.last);
    let [next] = starts(sim.ready(&third)).try_into().unwrap();
    assert_eq!(told(&sim).iter().map(|one| one.2).collect::<Vec<_>>(), [Running; 2]);
    sim.ready(&next);
    sim.exited(&replica);
    assert_eq!(told(&sim)[0], (a(), 1, Stopping, None, None));
    sim.exited(&second);
    assert_eq!(told(&sim), [(a(), 2, Running, None, None)]);
    // A new controller asks the one that it has found.
    let mut sim = Sim::new();
    sim.deploy(with_actors("2", 1, &["a"]));
    let actor = FoundActor { deployment: name(), actor: a(), code_version: "2".into() };
    sim.apply(Event::Snapshot(vec![FoundReplica {
        replica: third,
        pid: 9,
        config: None,
        gpus: Vec::new(),
        gang: None,
        actor: Some(actor),
    }]));
    assert_eq!(told(&sim), [(a(), 1, Recovering, Some(9), Some(120.0))]);
}

#[test]
fn actors_stay_at_zero_replicas_and_go_with_the_deployment() {
    let mut sim = Sim::deployed(with_actors("1", 0, &["a"]));
    let process = actor(&sim.last);
    sim.ready(&process);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    sim.ready(&replica);
    sim.demand(0, 0);
    sim.wait(31.0);
    sim.exited(&replica);
    assert!(sim.details().replicas.is_empty() && sim.state.knows(&process));
    sim.apply(Event::Delete(name().application));
    assert_eq!(stops(&sim.last), [(process.clone(), 1)]);
    sim.exited(&process);
    assert!(!sim.state.knows(&process) && sim.state.application_names().is_empty());
    assert_eq!(sim.state.next_deadline(), None);
}

#[test]
fn actors_outlive_the_replicas_that_end_with_their_deployment() {
    let (mut sim, process, replica) = Sim::acting("1");
    sim.apply(Event::Delete(name().application));
    assert_eq!(stops(&sim.last), [(replica.clone(), 20)]);
    assert_eq!(stops(sim.exited(&replica)), [(process.clone(), 1)]);
    sim.exited(&process);
    assert_eq!(sim.state.next_deadline(), None);
}

#[test]
fn a_deployment_that_is_back_before_its_actor_has_ended_gets_another() {
    let mut sim = Sim::deployed(with_actors("1", 0, &["a"]));
    let old = actor(&sim.last);
    sim.ready(&old);
    sim.apply(Event::Delete(name().application));
    sim.deploy(with_actors("1", 1, &["a"]));
    let new = actor(&sim.last);
    sim.exited(&old);
    assert_eq!((actors(&sim.last), sim.started()), (vec![], vec![]));
    assert_eq!(starts(sim.ready(&new)).len(), 1);
}

#[test]
fn a_constructor_that_fails_is_the_end_of_an_unproven_version() {
    let mut sim = Sim::deployed(with_actors("1", 1, &["a"]));
    for nth in 1..=3 {
        let process = actor(&sim.last);
        sim.failed(&process, "Traceback: no luck");
        sim.exited(&process);
        assert_eq!(sim.started(), []);
        assert!(sim.details().message.contains(&format!("{nth} in a row: Traceback: no luck")));
        sim.last = sim.wait(4.0);
    }
    assert_eq!(sim.status(), (DeploymentStatus::DeployFailed, "DEPLOYMENT_ACTOR_FAILED".into()));
    assert_eq!((actors(&sim.last), sim.state.next_deadline()), (vec![], None));
    // As with replicas, a request still tries, and hears why where that fails.
    sim.demand(1, 0);
    let process = actor(&sim.last);
    sim.failed(&process, "no luck again");
    sim.exited(&process);
    assert_eq!(sim.unavailable().unwrap(), "no luck again");
    // A deploy starts anew.
    sim.demand(0, 0);
    sim.deploy(with_actors("1", 1, &["a"]));
    let process = actor(&sim.last);
    assert_eq!(starts(sim.ready(&process)).len(), 1);
}

#[test]
fn fewer_tries_are_enough_where_the_deployment_says_so() {
    let once = DeploymentConfig { max_constructor_retry_count: 1, ..with_actors("1", 1, &["a"]) };
    let mut sim = Sim::deployed(once);
    let process = actor(&sim.last);
    sim.failed(&process, "no luck");
    sim.exited(&process);
    assert_eq!(sim.status().0, DeploymentStatus::DeployFailed);
}

#[test]
fn one_that_dies_is_started_again_while_replicas_serve_on() {
    let (mut sim, process, replica) = Sim::acting("1");
    let actions = sim.exited(&process).to_vec();
    let next = actor(&actions);
    assert_eq!(sim.status(), (DeploymentStatus::Unhealthy, "HEALTH_CHECK_FAILED".into()));
    let message = sim.details().message;
    assert!(message.contains("\"a\" was lost: it was killed by signal 9"), "{message}");
    assert_eq!((sim.routed(), stops(&actions)), (vec![replica.clone()], vec![]));
    // No replica starts meanwhile.
    assert_eq!(starts(sim.exited(&replica)), []);
    let back = sim.ready(&next).to_vec();
    let [replica] = starts(&back).try_into().unwrap();
    let is_told = |action: &Action| matches!(action, Action::Notice(Notice::Actor { trouble, .. }) if trouble.is_empty());
    assert!(back.iter().any(is_told), "{back:?}");
    sim.ready(&replica);
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "UNSPECIFIED".into()));
    // One that dies again and again waits longer, and is not given up: the version has proven itself.
    let mut process = next;
    for _ in 0..6 {
        sim.exited(&process);
        sim.last = [std::mem::take(&mut sim.last), sim.wait(60.0)].concat();
        process = actor(&sim.last);
        sim.failed(&process, "no luck");
    }
    assert_eq!(sim.status().0, DeploymentStatus::Unhealthy);
    assert_eq!(sim.routed(), [replica]);
}

#[test]
fn one_that_dies_now_and_then_is_started_again_also_where_no_replica_was() {
    let mut sim = Sim::deployed(with_actors("1", 0, &["a"]));
    let mut process = actor(&sim.last);
    for _ in 0..5 {
        sim.ready(&process);
        assert_eq!(sim.status().0, DeploymentStatus::Healthy);
        sim.wait(100.0);
        process = actor(sim.exited(&process));
        assert_eq!(sim.status().0, DeploymentStatus::Unhealthy);
    }
    // One that never stays is the end of a version that nobody has seen serve.
    for _ in 0..2 {
        sim.ready(&process);
        sim.last = [sim.exited(&process).to_vec(), sim.wait(1.0)].concat();
        process = actors(&sim.last).pop().map_or(process, |(_, next)| next);
    }
    assert_eq!(sim.status(), (DeploymentStatus::DeployFailed, "DEPLOYMENT_ACTOR_FAILED".into()));
}

#[test]
fn a_rollout_has_actors_of_its_own_and_the_old_ones_end_with_the_old_replicas() {
    let (mut sim, old, replica) = Sim::acting("1");
    sim.deploy(with_actors("2", 1, &["a"]));
    let new = actor(&sim.last);
    assert_eq!((sim.started(), stops(&sim.last)), (vec![], vec![]));
    let [second] = starts(sim.ready(&new)).try_into().unwrap();
    assert_eq!(stops(sim.ready(&second)), [(replica.clone(), 20)]);
    assert!(sim.state.knows(&old), "the old replica still has requests");
    assert_eq!(stops(sim.exited(&replica)), [(old.clone(), 1)]);
    sim.exited(&old);
    assert!(!sim.state.knows(&old) && sim.state.knows(&new));
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    // What is no code leaves them as they are.
    sim.deploy(DeploymentConfig { max_queued_requests: 7, ..with_actors("2", 1, &["a"]) });
    assert_eq!((actors(&sim.last), stops(&sim.last)), (vec![], vec![]));
    // A version without actors needs none.
    sim.deploy(with_actors("3", 1, &[]));
    let [third] = sim.started().try_into().unwrap();
    sim.ready(&third);
    assert_eq!(stops(sim.exited(&second)), [(new, 1)]);
}

#[test]
fn a_rollout_whose_actor_fails_is_rolled_back() {
    let (mut sim, old, replica) = Sim::acting("1");
    sim.deploy(with_actors("2", 1, &["a"]));
    let mut actions = sim.last.clone();
    for _ in 0..3 {
        let process = actor(&actions);
        sim.failed(&process, "no luck");
        actions = sim.exited(&process).to_vec();
        actions.extend(sim.wait(4.0));
    }
    let reason = actions.iter().find_map(|action| match action {
        Action::RolledBack { to: 1, reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.unwrap().ends_with("no luck"));
    assert_eq!((sim.routed(), actors(&actions), stops(&actions)), (vec![replica], vec![], vec![]));
    assert!(sim.state.knows(&old));
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
}

#[test]
fn an_old_actor_is_started_again_for_the_replicas_that_have_it() {
    let (mut sim, old, _) = Sim::acting("1");
    sim.deploy(with_actors("2", 1, &["a"]));
    let again = actor(sim.exited(&old));
    assert_eq!(sim.status().0, DeploymentStatus::Updating);
    sim.ready(&again);
    assert_eq!(starts(&sim.last), []);
}

#[test]
fn what_an_actor_takes_of_the_machine_is_taken() {
    let mut sim = Sim::new();
    let capacity = Capacity { num_cpus: Some(4.0), gpus: vec!["0".into()], ..Capacity::default() };
    sim.apply(Event::Capacity(capacity));
    sim.apply(Event::Snapshot(Vec::new()));
    sim.apply(Event::ProxyConnected("proxy-0".into()));
    let mut config = with_actors("1", 0, &["a"]);
    config.deployment_actors[0].resources =
        Resources { num_cpus: 3.0, num_gpus: 1.0, ..Resources::default() };
    config.resources.num_cpus = 2.0;
    sim.deploy(config.clone());
    let process = actor(&sim.last);
    let Action::StartSidecar { gpus, .. } = &sim.last[0] else { panic!("{:?}", sim.last) };
    assert_eq!(gpus, &["0"]);
    sim.ready(&process);
    sim.demand(1, 0);
    assert_eq!(
        (sim.started(), sim.details().message),
        (vec![], "needs 2 CPUs, 1 of 4 are free".into())
    );
    // What ends gives it back: a smaller actor leaves room.
    config.code_version = "2".into();
    config.deployment_actors[0].resources = Resources { num_cpus: 1.0, ..Resources::default() };
    sim.deploy(config);
    let small = actor(&sim.last);
    sim.ready(&small);
    assert_eq!(starts(sim.exited(&process)).len(), 1);
    // One that fits nowhere is waited for by nobody.
    let mut config = with_actors("3", 0, &["a"]);
    config.deployment_actors[0].resources.num_cpus = 5.0;
    sim.deploy(config);
    assert_eq!(actors(&sim.last), []);
    assert!(sim.details().message.starts_with("needs 5 CPUs"), "{}", sim.details().message);
}

#[test]
fn one_that_does_not_answer_is_replaced() {
    let (mut sim, process, _) = Sim::acting("1");
    let probe = Action::Probe { replica: process.clone(), timeout: Duration::from_secs(30) };
    let answer = |status| Event::Probed { replica: process.clone(), status };
    let good = ReplicaStatus::new(process.clone(), ReplicaState::Running);
    for status in [None, None, Some(good), None, None] {
        assert!(sim.wait(10.0).contains(&probe));
        assert!(!sim.wait(60.0).contains(&probe), "one at a time");
        sim.apply(answer(status));
        assert_eq!(actors(&sim.last), []);
    }
    assert!(sim.wait(10.0).contains(&probe));
    let actions = sim.apply(answer(None)).to_vec();
    assert_eq!(stops(&actions), [(process.clone(), 1)]);
    let next = actor(&actions);
    assert_eq!(sim.status().0, DeploymentStatus::Unhealthy);
    sim.exited(&process);
    sim.ready(&next);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
}

#[test]
fn a_new_controller_takes_over_the_actors_that_run() {
    let mut sim = Sim::new();
    sim.deploy(with_actors("2", 1, &["a", "b"]));
    assert_eq!(actors(&sim.last), []);
    let of = |id: &str, name: &str, code: &str, deployment: DeploymentId| FoundReplica {
        replica: ReplicaId::new(id),
        pid: 7,
        config: None,
        gpus: Vec::new(),
        gang: None,
        actor: Some(FoundActor { deployment, actor: name.into(), code_version: code.into() }),
    };
    let replica = |id: &str, code: &str| FoundReplica {
        config: Some(Box::new(with_actors(code, 1, &["a"]))),
        actor: None,
        ..of(id, "", code, name())
    };
    let other = DeploymentId::single(DeploymentName::new("other").unwrap());
    sim.apply(Event::Snapshot(vec![
        of("a-2", "a", "2", name()),
        of("a-1", "a", "1", name()),
        replica("old", "1"),
        of("a-0", "a", "0", name()),
        of("c-2", "c", "2", name()),
        of("a-2-again", "a", "2", name()),
        of("a-1-again", "a", "1", name()),
        of("stray", "a", "2", other),
    ]));
    // One of no deployment, those that are not wanted, and those that were there twice. What is old stays while old replicas do, and
    // the one that is missing is started.
    let mut ended = stops(&sim.last);
    ended.sort();
    assert_eq!(ended, ["a-1-again", "a-2-again", "c-2", "stray"].map(|id| (ReplicaId::new(id), 5)));
    let [(missing, b)] = actors(&sim.last).try_into().unwrap();
    assert_eq!(missing, "b");
    let asked = Action::Probe { replica: ReplicaId::new("a-2"), timeout: Duration::from_secs(2) };
    assert!(sim.last.contains(&asked));
    assert!(sim.wait(0.5).contains(&asked), "until it answers");
    sim.ready(&b);
    assert_eq!(sim.started(), []);
    let ready = |id: &str| {
        let replica = ReplicaId::new(id);
        let status = Some(ReplicaStatus::new(replica.clone(), ReplicaState::Running));
        Event::Probed { replica, status }
    };
    sim.apply(ready("old"));
    let [new] = starts(sim.apply(ready("a-2"))).try_into().unwrap();
    sim.ready(&new);
    let ended = stops(sim.exited(&ReplicaId::new("old")));
    assert!(ended.contains(&(ReplicaId::new("a-1"), 1)), "{ended:?}");
}
