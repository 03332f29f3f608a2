//! What a new controller makes of what runs.

use super::*;

fn probe(id: &str) -> Action {
    Action::Probe { replica: ReplicaId::new(id), timeout: Duration::from_secs(2) }
}

#[test]
fn a_new_controller_finds_what_runs() {
    let mut sim = Sim::new();
    sim.deploy(with_min(2));
    assert_eq!((sim.started(), sim.state.routes(None)), (vec![], None));
    let found = |id: &str, config: Option<DeploymentConfig>| FoundReplica {
        replica: ReplicaId::new(id),
        pid: 7,
        config: config.map(Box::new),
    };
    let mut other = config();
    other.id = DeploymentId::single(DeploymentName::new("other").unwrap());
    let mut old = config();
    model(&mut old).path = "/models/old".into();
    let snapshot = vec![
        found("good", Some(config())),
        found("slow", Some(config())),
        found("old", Some(old)),
        found("stray", Some(other)),
        found("garbled", None),
    ];
    let actions = sim.apply(Event::Snapshot(snapshot)).to_vec();
    let stray = [(ReplicaId::new("stray"), 5), (ReplicaId::new("garbled"), 5)];
    assert_eq!(stops(&actions), stray);
    assert!(actions.contains(&probe("good")));
    assert_eq!((starts(&actions), sim.state.routes(None)), (vec![], None));
    let status = |id: &str, state, card| {
        let replica = ReplicaId::new(id);
        let replica_id = replica.clone();
        let status = ReplicaStatus { replica_id, state, ongoing: 1, card, step_age_s: None };
        Event::Probed { replica, status: Some(status) }
    };
    sim.apply(status("good", ReplicaState::Starting, None));
    let again = sim.wait(0.5);
    assert!(again.contains(&probe("good")), "{again:?}");
    sim.apply(status("good", ReplicaState::Running, Some(card())));
    assert_eq!(sim.state.routes(None), None);
    // Another one does not answer: routes are not held back for it longer than this.
    assert!(sim.wait(2.0).contains(&Action::Publish));
    assert_eq!(sim.routed(), [ReplicaId::new("good")]);
    assert_eq!((starts(&sim.wait(10.0)), sim.details().target_num_replicas), (vec![], 2));
}

#[test]
fn reports_about_unknown_replicas_change_nothing() {
    let mut sim = Sim::deployed(config());
    let stranger = ReplicaId::new("stranger");
    assert_eq!(sim.ready(&stranger), []);
    assert_eq!(sim.exited(&stranger), []);
    let pid = Event::ProcessStarted { replica: stranger.clone(), pid: 1 };
    assert_eq!(sim.apply(pid), []);
    assert_eq!(sim.apply(Event::Probed { replica: stranger, status: None }), []);
}
