//! Replicas that do not start, that die, and that are ill.

use super::*;

#[test]
fn a_model_that_cannot_start_fails_its_requests_and_is_tried_again_on_demand() {
    let mut sim = Sim::deployed(config());
    sim.demand(3, 0);
    let [first] = sim.started().try_into().unwrap();
    let actions = sim.failed(&first, "no config.json in /models/demo").to_vec();
    assert_eq!(stops(&actions), [(first.clone(), 1)]);
    assert_eq!(sim.unavailable().unwrap(), "no config.json in /models/demo");
    assert_eq!(sim.status(), (DeploymentStatus::Upscaling, "AUTOSCALING".into()));
    sim.exited(&first);
    // The proxies have failed what waited: nothing is started without a request.
    sim.demand(0, 0);
    let later = sim.wait(100.0);
    assert_eq!((starts(&later), sim.unavailable()), (vec![], None));
    assert!(sim.details().message.contains("1 in a row: no config.json"));
    // The next request tries again, and a second failure waits longer, also a silent one.
    sim.demand(1, 0);
    let [second] = sim.started().try_into().unwrap();
    sim.exited(&second);
    assert!(sim.unavailable().unwrap().contains("killed by signal 9"));
    assert_eq!(starts(&sim.wait(1.9)), []);
    assert_eq!(starts(&sim.wait(0.2)).len(), 1);
    // Success clears it.
    let third = sim.details().replicas[0].replica_id.clone();
    sim.ready(&third);
    assert_eq!(sim.unavailable(), None);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    assert_eq!(sim.details().message, "");
}

#[test]
fn a_start_that_was_killed_once_is_tried_again_at_once() {
    let mut sim = Sim::deployed(config());
    sim.demand(3, 0);
    let [first] = sim.started().try_into().unwrap();
    let [second] = starts(sim.exited(&first)).try_into().unwrap();
    assert_eq!(sim.unavailable(), None, "the waiting requests go on waiting");
    assert_eq!(starts(sim.exited(&second)), []);
    assert!(sim.unavailable().unwrap().contains("killed by signal 9"));
}

#[test]
fn starts_that_are_killed_refuse_nobody_where_others_have_started() {
    let (mut sim, replica) = Sim::running(config());
    sim.demand(3, 0);
    let [mut next] = starts(sim.exited(&replica)).try_into().unwrap();
    for wait in [0.0, 0.0, 0.25, 0.5, 1.0] {
        let actions = sim.exited(&next).to_vec();
        let [another] = match wait {
            0.0 => starts(&actions),
            wait => starts(&sim.wait(wait)),
        }
        .try_into()
        .unwrap();
        next = another;
        assert_eq!(sim.unavailable(), None, "after a wait of {wait} s");
    }
    assert!(sim.details().message.contains("5 in a row: its process was killed by signal 9"));
    sim.exited(&next);
    assert!(sim.unavailable().unwrap().contains("killed by signal 9"));
    // What says why fails as any start does.
    let (mut sim, replica) = Sim::running(config());
    sim.demand(3, 0);
    let [next] = starts(sim.exited(&replica)).try_into().unwrap();
    sim.failed(&next, "the disk is gone");
    assert_eq!(sim.unavailable().unwrap(), "the disk is gone");
}

#[test]
fn a_minimum_is_tried_again_with_growing_waits_and_not_for_ever() {
    let mut sim = Sim::deployed(with_min(1));
    let mut tries = 0;
    while let Some(replica) = sim.details().replicas.first().map(|r| r.replica_id.clone()) {
        tries += 1;
        sim.exited(&replica);
        let before = sim.now;
        if tries > 20 {
            break;
        }
        if let Some(at) = sim.state.next_deadline() {
            sim.wait((at - before).as_secs_f64());
        }
    }
    assert_eq!(tries, 3);
    assert_eq!(sim.status(), (DeploymentStatus::DeployFailed, "REPLICA_STARTUP_FAILED".into()));
    assert_eq!(sim.state.next_deadline(), None);
    sim.demand(1, 0);
    assert_eq!(sim.started().len(), 1, "a request still tries");
    let failing = sim.started().remove(0);
    sim.exited(&failing);
    sim.deploy(with_min(1));
    assert_eq!(sim.started().len(), 1, "a deploy starts anew");
}

#[test]
fn a_start_that_takes_too_long_fails() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    assert_eq!(sim.details().replicas[0].deadline_s, Some(120.0));
    let actions = sim.wait(120.0);
    assert_eq!(stops(&actions), [(replica.clone(), 1)]);
    assert!(sim.unavailable().unwrap().starts_with("not ready within 120 s"));
    // One that does not end is killed again and again.
    sim.demand(0, 0);
    assert_eq!(stops(&sim.wait(6.0)), [(replica.clone(), 0)]);
    assert_eq!(stops(&sim.wait(5.0)), [(replica.clone(), 0)]);
    sim.exited(&replica);
    let actions = sim.wait(1000.0);
    assert_eq!((starts(&actions), stops(&actions)), (vec![], vec![]));
}

#[test]
fn a_start_that_is_refused_fails() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    sim.apply(Event::StartRefused { replica, reason: "no memory".into() });
    assert_eq!(sim.unavailable().unwrap(), "no memory");
    assert!(sim.details().replicas.is_empty());
}

#[test]
fn a_replica_that_dies_is_replaced_while_it_is_wanted() {
    let (mut sim, replica) = Sim::running(config());
    sim.demand(0, 1);
    let actions = sim.exited(&replica).to_vec();
    let [next] = starts(&actions).try_into().unwrap();
    assert_eq!(sim.status(), (DeploymentStatus::Unhealthy, "HEALTH_CHECK_FAILED".into()));
    assert_eq!((sim.routed(), sim.unavailable()), (vec![], None));
    sim.ready(&next);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    // The third one in a row has to wait.
    let [third] = starts(sim.exited(&next)).try_into().unwrap();
    sim.ready(&third);
    assert_eq!(starts(sim.exited(&third)), []);
    assert_eq!(starts(&sim.wait(0.25)).len(), 1);
    // Nobody asks: nothing is replaced.
    let (mut sim, replica) = Sim::running(config());
    sim.demand(0, 0);
    assert_eq!(starts(sim.exited(&replica)), []);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    assert_eq!(starts(&sim.wait(100.0)), []);
}

#[test]
fn a_crash_while_nobody_asks_changes_no_target_and_no_time() {
    let mut config = config();
    config.autoscaling.min_replicas = 1;
    config.autoscaling.initial_replicas = Some(3);
    config.num_replicas = None;
    let mut sim = settled(config.clone());
    sim.demand(0, 6);
    sim.demand(0, 0);
    // A moment without requests is no reason to have fewer.
    let lost = sim.routed()[0].clone();
    let actions = sim.exited(&lost).to_vec();
    assert_eq!((starts(&actions), sim.details().target_num_replicas), (vec![], 3));
    assert_eq!(starts(sim.demand(0, 6)).len(), 1);
    // The minimum is kept.
    let mut sim = settled(with_min(2));
    let lost = sim.routed()[0].clone();
    assert_eq!(starts(sim.exited(&lost)).len(), 1);
    // One that dies every ten seconds does not put off the way to zero.
    config.autoscaling.min_replicas = 0;
    config.autoscaling.downscale_delay_s = 1e9;
    let mut sim = settled(config);
    sim.demand(0, 6);
    sim.demand(0, 0);
    for _ in 0..2 {
        sim.wait(10.0);
        let lost = sim.routed()[0].clone();
        assert_eq!(starts(sim.exited(&lost)), []);
    }
    let actions = sim.wait(10.0);
    let gone = Notice::Scaled { deployment: name(), from: 3, to: 0 };
    assert!(actions.contains(&Action::Notice(gone)), "{actions:?}");
    assert_eq!(stops(&actions).len(), 1);
}

#[test]
fn one_that_is_told_to_end_from_outside_is_replaced_before_it_has_ended() {
    let mut config = fixed(1);
    config.graceful_shutdown_timeout_s = 20.0;
    let mut sim = settled(config);
    let replica = sim.routed()[0].clone();
    let leaving = Event::Report { replica: replica.clone(), report: ReplicaReport::Leaving };
    let actions = sim.apply(leaving.clone()).to_vec();
    let [next] = starts(&actions).try_into().unwrap();
    assert_eq!(sim.routed(), []);
    // It keeps the time that it has for what it works on.
    let grace = Duration::from_secs(20);
    assert!(actions.contains(&Action::Stop { replica: replica.clone(), grace }), "{actions:?}");
    assert_eq!(sim.apply(leaving).to_vec(), []);
    sim.ready(&next);
    assert_eq!(sim.routed(), std::slice::from_ref(&next));
    assert_eq!(starts(sim.exited(&replica)), []);
    let dead = sim.details().dead_replicas[0].clone();
    assert!(dead.reason.contains("was told to end, and not by the server"), "{}", dead.reason);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
}

#[test]
fn replicas_that_serve_before_they_die_are_replaced_without_end() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    for round in 0..50 {
        let replica = sim.details().replicas[0].replica_id.clone();
        sim.ready(&replica);
        let phases = ColdStartPhases::default();
        let report = match round % 2 {
            0 => ReplicaReport::FirstToken { phases },
            _ => ReplicaReport::Answered,
        };
        sim.apply(Event::Report { replica: replica.clone(), report });
        assert_eq!(starts(sim.exited(&replica)).len(), 1);
        assert_eq!(sim.unavailable(), None);
    }
}

#[test]
fn a_replica_that_keeps_dying_makes_requests_fail_with_the_reason() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    for round in 0.. {
        assert!(round < 10, "never gave up");
        let replica = sim.details().replicas[0].replica_id.clone();
        sim.ready(&replica);
        sim.exited(&replica);
        if sim.unavailable().is_some() {
            assert_eq!(round, 5);
            break;
        }
        sim.wait(1.0);
    }
    sim.wait(2.0);
    assert_eq!(sim.unavailable(), None);
    assert_eq!(sim.details().replicas.len(), 1);
}

fn check(sim: &mut Sim, replica: &ReplicaId, step_age_s: Option<f64>) -> Vec<Action> {
    let status = ReplicaStatus {
        ongoing: 1,
        step_age_s,
        ..ReplicaStatus::new(replica.clone(), ReplicaState::Running)
    };
    sim.apply(Event::Probed { replica: replica.clone(), status: Some(status) }).to_vec()
}

#[test]
fn three_silent_checks_end_a_replica_and_a_busy_one_is_left_alone() {
    let mut config = fixed(1);
    config.health_check = HealthCheck { period_s: 10.0, timeout_s: 30.0 };
    let mut sim = settled(config);
    let replica = sim.routed()[0].clone();
    let asked = sim.wait(10.0);
    let timeout = Duration::from_secs(30);
    assert_eq!(asked, [Action::Probe { replica: replica.clone(), timeout }]);
    assert_eq!(sim.wait(100.0), [], "one question at a time");
    assert_eq!(check(&mut sim, &replica, Some(29.0)), []);
    for round in 1..=3 {
        assert_eq!(sim.wait(10.0).len(), 1);
        sim.apply(Event::Probed { replica: replica.clone(), status: None });
        assert_eq!(stops(&sim.last).len(), usize::from(round == 3), "{round}");
    }
    assert_eq!(sim.status(), (DeploymentStatus::Unhealthy, "HEALTH_CHECK_FAILED".into()));
    assert_eq!(sim.started().len(), 1, "another one takes its place");
    let second = sim.started()[0].clone();
    sim.ready(&second);
    sim.exited(&replica);
    let dead = sim.details().dead_replicas[0].clone();
    assert!(dead.reason.contains("3 health checks in a row failed"), "{}", dead.reason);
    // An engine that stands still is not waited for three times.
    sim.wait(10.0);
    let actions = check(&mut sim, &second, Some(31.0));
    assert_eq!(stops(&actions).len(), 1);
    assert!(sim.details().replicas[0].message.contains("has not finished a step for 31 s"));
}
