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
        gpus: Vec::new(),
        gang: None,
        actor: None,
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
        let status = ReplicaStatus { ongoing: 1, card, ..ReplicaStatus::new(replica_id, state) };
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

#[test]
fn the_models_of_a_replica_are_in_its_route_at_once() {
    let (mut sim, replica) = Sim::running(with_min(1));
    let models =
        |sim: &Sim| sim.state.routes(None).unwrap().deployments[0].replicas[0].models.clone();
    let told = |sim: &mut Sim, ids: &[&str]| {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let report = ReplicaReport::Models { ids };
        sim.apply(Event::Report { replica: replica.clone(), report }).contains(&Action::Publish)
    };
    assert!(told(&mut sim, &["a", "b"]));
    assert_eq!(models(&sim), ["a", "b"]);
    assert!(!told(&mut sim, &["a", "b"]), "nothing is new");
    // What it says when it is asked holds as well: a report may have been lost with a controller.
    let status = ReplicaStatus {
        models: vec!["c".to_owned()],
        ..ReplicaStatus::new(replica.clone(), ReplicaState::Running)
    };
    sim.apply(Event::Probed { replica: replica.clone(), status: Some(status) });
    assert_eq!(models(&sim), ["c"]);
    assert_eq!(sim.details().replicas[0].models, ["c"]);
    let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    told(&mut sim, &many);
    assert_eq!(models(&sim).len(), tyndall_types::protocol::MAX_TOLD_MODELS);
}

#[test]
fn the_metadata_of_a_replica_is_in_its_first_route_and_in_that_of_the_next_controller() {
    let metadata = JsonText::from(&serde_json::json!({"zone": "a"}));
    let of_route = |sim: &Sim| {
        let mut routes = sim.state.routes(None).unwrap().deployments;
        routes.remove(0).replicas.first().map(|replica| replica.metadata.clone())
    };
    let mut sim = Sim::deployed(with_min(1));
    let [replica] = sim.started().try_into().unwrap();
    let report = ReplicaReport::Metadata { metadata: metadata.clone() };
    assert!(
        !sim.apply(Event::Report { replica: replica.clone(), report }).contains(&Action::Publish)
    );
    assert!(sim.ready(&replica).contains(&Action::Publish));
    assert_eq!(of_route(&sim), Some(metadata.clone()));
    // A new controller is told when it asks.
    let mut sim = Sim::new();
    sim.deploy(with_min(1));
    let found = FoundReplica {
        replica: replica.clone(),
        pid: 7,
        config: Some(Box::new(with_min(1))),
        gpus: Vec::new(),
        gang: None,
        actor: None,
    };
    sim.apply(Event::Snapshot(vec![found]));
    let status = ReplicaStatus {
        metadata: metadata.clone(),
        ..ReplicaStatus::new(replica.clone(), ReplicaState::Running)
    };
    sim.apply(Event::Probed { replica: replica.clone(), status: Some(status) });
    assert_eq!(of_route(&sim), Some(metadata.clone()));
    // One that is ill says nothing of itself, and is what it was.
    sim.apply(Event::Probed { replica, status: None });
    assert_eq!(of_route(&sim), Some(metadata));
}
