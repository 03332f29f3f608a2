//! New versions beside old ones, and ways back.

use super::*;

#[test]
fn an_update_replaces_a_share_at_a_time_and_never_goes_below_the_target() {
    for (percentage, surge, beside) in [(0.2, 0, 2), (0.5, 0, 5), (0.2, 40, 4), (0.01, 0, 1)] {
        let mut sim = settled(fixed(10));
        let mut changed = fixed(10);
        changed.rollout.rolling_update_percentage = percentage;
        changed.rollout.max_surge_percent = surge;
        model(&mut changed).path = "/models/better".into();
        let actions = sim.deploy(changed).to_vec();
        assert_eq!(starts(&actions).len(), beside, "{percentage} {surge}");
        settle_with(&mut sim, actions, |sim, _| {
            assert!(sim.routed().len() >= 10, "never fewer than the target");
            let details = sim.details();
            let is_active = |r: &&ReplicaDetails| r.state != ReplicaState::Stopping;
            assert!(details.replicas.iter().filter(is_active).count() <= 10 + beside);
        });
        assert_eq!(sim.status().0, DeploymentStatus::Healthy);
        assert!(sim.details().replicas.iter().all(|replica| replica.version == 2));
    }
}

fn rolled_back(actions: &[Action]) -> Option<(u64, u64)> {
    actions.iter().find_map(|action| match action {
        Action::RolledBack { version, to, .. } => Some((*version, *to)),
        _ => None,
    })
}

#[test]
fn a_version_that_cannot_start_gives_way_to_the_one_before() {
    let mut sim = settled(fixed(1));
    let old = sim.routed();
    let mut broken = fixed(1);
    model(&mut broken).path = "/models/broken".into();
    let mut actions = sim.deploy(broken.clone()).to_vec();
    for _ in 0..3 {
        let [new] = starts(&actions).try_into().unwrap();
        sim.failed(&new, "truncated weights");
        assert_eq!(sim.routed(), old);
        let mut after = sim.last.clone();
        after.extend(sim.exited(&new).to_vec());
        if rolled_back(&after).is_none() {
            after.extend(sim.wait(8.0));
        }
        actions = after;
    }
    assert_eq!(rolled_back(&actions), Some((3, 1)));
    assert_eq!((starts(&actions), sim.routed()), (vec![], old.clone()));
    let details = sim.state.details(sim.now);
    let app = &details.applications["org/demo"];
    assert_eq!((app.status, app.version), (ApplicationStatus::Running, 3));
    let told = "version 2 was rolled back to version 1: org/demo: ";
    assert!(app.message.starts_with(told) && app.message.ends_with("truncated weights"));
    assert_eq!(starts(&sim.wait(1000.0)), []);

    // Where it must not, the old one serves on and nothing is tried again.
    broken.rollout.is_automatic_rollback = false;
    let mut actions = sim.deploy(broken).to_vec();
    for _ in 0..3 {
        let [new] = starts(&actions).try_into().unwrap();
        sim.failed(&new, "truncated weights");
        sim.exited(&new);
        actions = sim.wait(8.0);
    }
    assert_eq!((rolled_back(&actions), starts(&sim.wait(1000.0))), (None, vec![]));
    assert_eq!(sim.status(), (DeploymentStatus::DeployFailed, "REPLICA_STARTUP_FAILED".into()));
    assert_eq!(sim.routed(), old);
}

#[test]
fn a_version_that_fails_at_its_first_wake_gives_way_too() {
    let (mut sim, replica) = Sim::running(config());
    sim.demand(0, 0);
    sim.wait(31.0);
    sim.exited(&replica);
    let mut broken = config();
    model(&mut broken).path = "/models/broken".into();
    sim.deploy(broken);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    let mut actions = sim.demand(1, 0).to_vec();
    for _ in 0..3 {
        let [new] = starts(&actions).try_into().unwrap();
        sim.failed(&new, "truncated weights");
        actions = sim.last.clone();
        actions.extend(sim.exited(&new).to_vec());
        if rolled_back(&actions).is_none() {
            actions.extend(sim.wait(8.0));
        }
    }
    assert_eq!(rolled_back(&actions), Some((3, 1)));
    let [good] = starts(&actions).try_into().unwrap();
    sim.ready(&good);
    assert_eq!((sim.routed(), sim.status().0), (vec![good], DeploymentStatus::Healthy));
}

#[test]
fn a_new_version_that_keeps_dying_beside_the_old_one_is_given_up() {
    let mut sim = settled(fixed(1));
    let old = sim.routed();
    let mut broken = fixed(1);
    broken.graceful_shutdown_timeout_s = 1e6;
    model(&mut broken).path = "/models/broken".into();
    sim.deploy(broken);
    let [new] = sim.started().try_into().unwrap();
    sim.ready(&new);
    assert_eq!(sim.routed(), std::slice::from_ref(&new), "it took over");
    // Nothing old is left to serve: this is an illness, and no failed update.
    sim.exited(&old[0]);
    sim.exited(&new);
    assert_eq!(sim.status().0, DeploymentStatus::Unhealthy);
}
