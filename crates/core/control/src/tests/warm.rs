//! Processes that wait to become replicas.

use super::*;
use tyndall_types::protocol::WarmPool;

fn warm(processes: u32) -> DeploymentConfig {
    DeploymentConfig { warm: WarmPool { processes, preload: vec!["torch".into()] }, ..config() }
}

/// The processes that are to wait from here on.
fn waiting(actions: &[Action]) -> Vec<ReplicaId> {
    let start = |action: &Action| match action {
        Action::StartWaiting { process, .. } => Some(process.clone()),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

/// Which processes replicas were made of.
fn taken(actions: &[Action]) -> Vec<Option<ReplicaId>> {
    let start = |action: &Action| match action {
        Action::Start { waiting, .. } => Some(waiting.clone()),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

fn warm_starts(actions: &[Action]) -> Vec<bool> {
    let notice = |action: &Action| match action {
        Action::Notice(Notice::WarmStart { is_taken, .. }) => Some(*is_taken),
        _ => None,
    };
    actions.iter().filter_map(notice).collect()
}

/// Until the next one, of each death that the actions tell of.
fn deaths(actions: &[Action]) -> Vec<Option<u64>> {
    let notice = |action: &Action| match action {
        Action::Notice(Notice::WaitingDied { retry_in, .. }) => {
            Some(retry_in.map(|wait| wait.as_secs()))
        }
        _ => None,
    };
    actions.iter().filter_map(notice).collect()
}

impl Sim {
    fn prepared(&mut self, process: &ReplicaId) -> &[Action] {
        self.apply(Event::ProcessStarted { replica: process.clone(), pid: 7 });
        self.apply(Event::Prepared { process: process.clone() })
    }

    /// A deployment at zero, with one process that waits and is prepared.
    fn warmed(config: DeploymentConfig) -> (Self, ReplicaId) {
        let mut sim = Self::deployed(config);
        let [process] = waiting(&sim.last).try_into().unwrap();
        sim.prepared(&process);
        (sim, process)
    }
}

#[test]
fn nobody_has_one_unasked() {
    let sim = Sim::deployed(config());
    assert_eq!(waiting(&sim.last), []);
}

#[test]
fn a_wake_takes_the_one_that_waits_and_the_next_comes_when_it_is_ready() {
    let (mut sim, first) = Sim::warmed(warm(1));
    assert!(first.as_str().starts_with("warm-demo-"), "{first}");
    assert_eq!(waiting(sim.demand(1, 0)), []);
    assert_eq!(taken(&sim.last), [Some(first.clone())]);
    let [replica] = sim.started().try_into().unwrap();
    let started = Event::ProcessStarted { replica: replica.clone(), pid: 7 };
    assert_eq!(warm_starts(sim.apply(started.clone())), [true]);
    assert!(warm_starts(sim.apply(started)).is_empty(), "it is told of twice");
    assert_eq!(waiting(&sim.last), []);
    let [second] = waiting(sim.ready(&replica)).try_into().unwrap();
    assert_ne!(first, second);
    // What is told of the one that was taken comes too late to mean anything.
    sim.exited(&first);
    assert_eq!((deaths(&sim.last), waiting(&sim.last)), (vec![], vec![]));
}

#[test]
fn one_that_still_imports_is_not_waited_for() {
    let mut sim = Sim::deployed(warm(1));
    let [process] = waiting(&sim.last).try_into().unwrap();
    sim.demand(1, 0);
    assert_eq!(taken(&sim.last), [None]);
    let [replica] = sim.started().try_into().unwrap();
    let started = Event::ProcessStarted { replica: replica.clone(), pid: 8 };
    assert_eq!(warm_starts(sim.apply(started)), [false]);
    sim.prepared(&process);
    assert_eq!(waiting(sim.ready(&replica)), [], "it is there already");
}

#[test]
fn a_process_that_was_gone_when_it_was_to_be_taken_is_a_start_like_any_other() {
    let (mut sim, _) = Sim::warmed(warm(1));
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    // The supervisor has started another one.
    assert_eq!(warm_starts(sim.apply(Event::ProcessStarted { replica, pid: 9 })), [false]);
}

#[test]
fn the_first_start_has_the_cores_for_itself() {
    let mut config = warm(2);
    config.autoscaling.min_replicas = 1;
    let mut sim = Sim::deployed(config);
    let [replica] = sim.started().try_into().unwrap();
    assert_eq!((taken(&sim.last), waiting(&sim.last)), (vec![None], vec![]));
    let [first] = waiting(sim.ready(&replica)).try_into().unwrap();
    // One after another.
    let [second] = waiting(sim.prepared(&first)).try_into().unwrap();
    assert_eq!(waiting(sim.prepared(&second)), []);
}

#[test]
fn a_version_that_does_not_start_has_none_beside_it() {
    let mut config = warm(1);
    config.autoscaling.min_replicas = 1;
    let mut sim = Sim::deployed(config);
    let [replica] = sim.started().try_into().unwrap();
    let mut actions = sim.failed(&replica, "no such file").to_vec();
    actions.extend(sim.exited(&replica).to_vec());
    assert_eq!(waiting(&actions), []);
}

#[test]
fn another_code_or_list_ends_it_and_starts_another() {
    let changes: [fn(&mut DeploymentConfig); 3] = [
        |config| config.warm.preload.push("numpy".into()),
        |config| model(config).path = "/models/better".into(),
        |config| drop(config.env_vars.insert("A".into(), "b".into())),
    ];
    for change in changes {
        let (mut sim, old) = Sim::warmed(warm(1));
        let mut config = warm(1);
        change(&mut config);
        sim.deploy(config);
        assert_eq!(stops(&sim.last), [(old.clone(), 1)]);
        let [new] = waiting(&sim.last).try_into().unwrap();
        sim.exited(&old);
        assert_eq!((deaths(&sim.last), waiting(&sim.last)), (vec![], vec![]));
        sim.prepared(&new);
        sim.demand(1, 0);
        assert_eq!(taken(&sim.last), [Some(new)]);
    }
    // What does not matter to it changes nothing.
    let (mut sim, _) = Sim::warmed(warm(1));
    let mut config = warm(1);
    config.max_queued_requests = 7;
    sim.deploy(config.clone());
    assert_eq!((stops(&sim.last), waiting(&sim.last)), (vec![], vec![]));
    config.warm.processes = 0;
    assert_eq!(stops(sim.deploy(config)).len(), 1);
}

#[test]
fn one_that_dies_is_started_again_three_times_in_a_row_at_most() {
    let (mut sim, mut process) = Sim::warmed(warm(1));
    for (wait, retry_in) in [(1.0, Some(1)), (2.0, Some(2)), (0.0, None)] {
        let actions = sim.exited(&process).to_vec();
        assert_eq!((deaths(&actions), waiting(&actions)), (vec![retry_in], vec![]));
        assert_eq!(waiting(&sim.wait(wait - 0.1)), []);
        let next = waiting(&sim.wait(0.2));
        assert_eq!(next.len(), usize::from(retry_in.is_some()));
        next.into_iter().for_each(|next| process = next);
    }
    assert_eq!(sim.state.next_deadline(), None);
    assert_eq!(taken(sim.demand(1, 0)), [None], "replicas start without");
    // The next deploy tries again.
    let [replica] = sim.started().try_into().unwrap();
    sim.ready(&replica);
    let [again] = waiting(sim.deploy(warm(1))).try_into().unwrap();
    // One that has waited for long did not die of what it imports.
    sim.exited(&again);
    let [third] = waiting(&sim.wait(1.0)).try_into().unwrap();
    sim.wait(60.0);
    assert_eq!(deaths(sim.exited(&third)), [Some(1)]);
    let refused =
        Event::StartRefused { replica: waiting(&sim.wait(1.0))[0].clone(), reason: "x".into() };
    assert_eq!(deaths(sim.apply(refused)), [Some(2)]);
}

#[test]
fn a_deleted_deployment_is_gone_when_it_is() {
    let (mut sim, process) = Sim::warmed(warm(1));
    sim.apply(Event::Delete(name().application));
    assert_eq!(stops(&sim.last), [(process.clone(), 1)]);
    assert!(sim.state.application(&name().application, sim.now).is_some());
    // It does not end, and is asked again.
    assert_eq!(stops(&sim.wait(7.0)), [(process.clone(), 0)]);
    sim.exited(&process);
    assert!(sim.last.contains(&Action::Forget(name())));
    assert_eq!(sim.state.next_deadline(), None);
}

#[test]
fn no_capacity_has_none() {
    let (mut sim, process) = Sim::warmed(warm(1));
    sim.apply(Event::TargetCapacity { capacity: Some(0.0), direction: None });
    assert_eq!(stops(&sim.last), [(process, 1)]);
}

#[test]
fn a_new_controller_ends_those_of_the_one_before() {
    let mut sim = Sim::new();
    sim.deploy(warm(1));
    assert_eq!(waiting(&sim.last), [], "not before it is known what runs");
    let old = ReplicaId::new("warm-demo-0");
    let found = FoundReplica {
        replica: old.clone(),
        pid: 1,
        config: None,
        gpus: Vec::new(),
        gang: None,
        actor: None,
    };
    sim.apply(Event::Snapshot(vec![found]));
    assert_eq!(stops(&sim.last), [(old, 5)]);
    assert_eq!(waiting(&sim.last).len(), 1);
}
