//! Replicas that start, stop and fail in whole gangs.

use super::*;
use std::collections::BTreeMap;
use tyndall_types::protocol::{GangContext, GangScheduling};

/// So many replicas in gangs of two.
fn pairs(number: u32) -> DeploymentConfig {
    in_gangs(fixed(number), 2)
}

fn in_gangs(config: DeploymentConfig, gang_size: u32) -> DeploymentConfig {
    DeploymentConfig { gang_scheduling: Some(gangs_of(gang_size)), ..config }
}

pub(crate) fn gangs_of(gang_size: u32) -> GangScheduling {
    GangScheduling {
        gang_size,
        gang_placement_strategy: Default::default(),
        runtime_failure_policy: Default::default(),
    }
}

/// What the members that were started are told.
fn told(actions: &[Action]) -> Vec<(ReplicaId, Arc<GangContext>)> {
    let gang = |action: &Action| match action {
        Action::Start { replica, gang, .. } => Some((replica.clone(), gang.clone().unwrap())),
        _ => None,
    };
    actions.iter().filter_map(gang).collect()
}

fn members(sim: &Sim, replica: &ReplicaId) -> Vec<ReplicaId> {
    let details = sim.details();
    let of = |id: &ReplicaId| details.replicas.iter().find(|r| r.replica_id == *id).unwrap();
    let gang = of(replica).gang_id.clone().unwrap();
    let same = details.replicas.iter().filter(|r| r.gang_id.as_ref() == Some(&gang));
    same.map(|r| r.replica_id.clone()).collect()
}

fn stopped(actions: &[Action]) -> Vec<ReplicaId> {
    stops(actions).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn members_start_together_and_know_each_other() {
    let sim = Sim::deployed(in_gangs(fixed(6), 3));
    let all = told(&sim.last);
    assert_eq!(all.len(), 6);
    let ids: Vec<ReplicaId> = all.iter().map(|(id, _)| id.clone()).collect();
    for (place, (id, gang)) in all.iter().enumerate() {
        let first = place / 3 * 3;
        assert_eq!(gang.member_replica_ids, ids[first..first + 3]);
        assert_eq!((gang.world_size, gang.rank as usize), (3, place - first));
        assert_eq!(gang.member_replica_ids[gang.rank as usize], *id);
        assert_eq!(gang.gang_id, all[first].1.gang_id);
        let name = format!("SERVE_GANG::org/demo_org/demo_{}_{}", place / 3, gang.gang_id);
        assert_eq!(gang.pg_name, name);
    }
    assert_ne!(all[0].1.gang_id, all[3].1.gang_id);
    // Where there are no gangs nobody is told of one; where they are of one, that is a gang.
    let single = Sim::deployed(in_gangs(fixed(1), 1));
    assert_eq!(told(&single.last)[0].1.member_replica_ids, single.started());
    let plain = Sim::deployed(fixed(1));
    assert!(matches!(&plain.last[0], Action::Start { gang: None, .. }), "{:?}", plain.last);
    assert_eq!(plain.details().replicas[0].gang_id, None);
}

#[test]
fn a_member_takes_requests_when_it_is_ready_itself() {
    let mut sim = Sim::deployed(pairs(2));
    let [first, second] = sim.started().try_into().unwrap();
    sim.ready(&first);
    assert_eq!(sim.routed(), std::slice::from_ref(&first));
    assert_eq!(sim.status().0, DeploymentStatus::Updating);
    sim.ready(&second);
    assert_eq!((sim.routed().len(), sim.status().0), (2, DeploymentStatus::Healthy));
}

#[test]
fn a_member_that_dies_takes_its_gang_with_it_and_no_other() {
    let mut sim = settled(pairs(4));
    let before = sim.routed();
    let gang = members(&sim, &before[0]);
    let mate = gang[1].clone();
    let actions = sim.exited(&gang[0]).to_vec();
    assert_eq!(stops(&actions), [(mate.clone(), 1)], "the rest of it, and soon");
    let new = told(&actions);
    assert_eq!(new.len(), 2, "a whole gang takes its place");
    assert!(new.iter().all(|(_, gang)| !gang.member_replica_ids.contains(&mate)));
    assert_eq!(sim.routed().len(), 2, "no request goes to what is left of it");
    let (status, trigger) = sim.status();
    assert_eq!((status, trigger.as_str()), (DeploymentStatus::Unhealthy, "HEALTH_CHECK_FAILED"));
    let details = sim.details();
    assert!(details.message.starts_with("a replica of a gang of 2 was lost: "), "{details:?}");
    let message = &details.replicas.iter().find(|r| r.replica_id == mate).unwrap().message;
    let expected = format!("its gang ends as a whole, because {} was lost: its process", gang[0]);
    assert!(message.starts_with(&expected), "{message}");
    // That its mate ends now, by itself or not, is no news.
    sim.exited(&mate);
    assert_eq!((starts(&sim.last), sim.details().dead_replicas.len()), (vec![], 2));
    for (id, _) in new {
        sim.ready(&id);
    }
    assert_eq!((sim.routed().len(), sim.status().0), (4, DeploymentStatus::Healthy));
    let mut ranks: Vec<_> = sim.details().replicas.iter().filter_map(|r| r.rank).collect();
    ranks.sort_unstable();
    assert_eq!(ranks, [0, 1, 2, 3]);
}

#[test]
fn a_member_that_is_ill_takes_its_gang_with_it() {
    let mut sim = settled(pairs(2));
    let [ill, mate] = sim.routed().try_into().unwrap();
    for _ in 0..3 {
        sim.apply(Event::Probed { replica: ill.clone(), status: None });
    }
    let mut ended = stopped(&sim.last);
    ended.sort();
    let mut both = vec![ill, mate];
    both.sort();
    assert_eq!((ended, sim.started().len()), (both, 2));
}

#[test]
fn a_member_that_cannot_start_counts_once_and_fails_its_gang() {
    let mut sim = Sim::deployed(pairs(2));
    for times in 1..=6 {
        let details = sim.details();
        let is_starting = |r: &&ReplicaDetails| r.state == ReplicaState::Starting;
        let trying: Vec<_> = details.replicas.iter().filter(is_starting).collect();
        let [first, second] = trying.try_into().unwrap();
        // One of them was ready: that is no start that went well.
        sim.ready(&first.replica_id);
        sim.failed(&second.replica_id, "no master");
        assert_eq!(stopped(&sim.last).len(), 2, "{:?}", sim.last);
        assert_eq!(sim.routed(), []);
        let message = sim.details().message;
        let told = format!("a replica of a gang of 2 failed to start, {times} in a row: no master");
        assert_eq!(message, told);
        sim.exited(&first.replica_id);
        sim.exited(&second.replica_id);
        assert_eq!(sim.details().replicas.len(), 0);
        if times < 6 {
            let gang = starts(&sim.wait(61.0));
            assert_eq!(gang.len(), 2, "whole gangs are tried");
        }
    }
    // Ray's limit, three for each replica of the target, of gangs that failed.
    assert_eq!(sim.status(), (DeploymentStatus::DeployFailed, "REPLICA_STARTUP_FAILED".into()));
    assert_eq!(starts(&sim.wait(1000.0)), []);
}

#[test]
fn a_member_that_dies_before_the_others_are_ready_is_a_failed_start() {
    let mut sim = Sim::deployed(pairs(2));
    let [first, second] = sim.started().try_into().unwrap();
    sim.ready(&first);
    sim.failed(&first, "lost its peers");
    assert_eq!(stopped(&sim.last), [first, second]);
    assert_eq!(sim.started(), [], "it has to wait");
    assert_eq!(sim.status().0, DeploymentStatus::Updating);
    let told = "a replica of a gang of 2 failed to start, 1 in a row: lost its peers";
    assert_eq!(sim.details().message, told);
}

#[test]
fn members_that_fail_at_the_same_time_are_one_failure() {
    let mut sim = Sim::deployed(pairs(2));
    let actions = sim.wait(120.0);
    assert_eq!(stopped(&actions).len(), 2, "neither was ready in time");
    assert!(sim.details().message.contains("1 in a row: not ready within 120 s"));
}

#[test]
fn counts_are_whole_gangs() {
    let mut sim = settled(pairs(4));
    let before = sim.routed();
    let actions = sim.deploy(pairs(2)).to_vec();
    let mut gone = stopped(&actions);
    gone.sort();
    let mut gang = members(&sim, &gone[0]);
    gang.sort();
    assert_eq!((gone, sim.routed().len()), (gang, 2), "of {before:?} a whole gang goes");
    settle(&mut sim, actions);
    // What somebody asks for is rounded up.
    let actions = sim.apply(Event::Scale { deployment: name(), target: 3 }).to_vec();
    assert_eq!((starts(&actions).len(), sim.details().target_num_replicas), (2, 4));
    settle(&mut sim, actions);
    // So is a share of it.
    sim.deploy(in_gangs(fixed(6), 3));
    let actions = sim.last.clone();
    settle(&mut sim, actions);
    let half = Event::TargetCapacity { capacity: Some(10.0), direction: None };
    let actions = sim.apply(half).to_vec();
    settle(&mut sim, actions);
    assert_eq!((sim.routed().len(), sim.details().target_num_replicas), (3, 3));
}

#[test]
fn load_brings_whole_gangs_and_takes_them_away() {
    let mut config = in_gangs(config(), 2);
    config.autoscaling.max_replicas = 6;
    let mut sim = Sim::deployed(config);
    assert_eq!((sim.started(), sim.status().0), (vec![], DeploymentStatus::Healthy));
    let actions = sim.demand(1, 0).to_vec();
    assert_eq!(starts(&actions).len(), 2, "a whole gang wakes");
    assert_eq!(sim.details().target_num_replicas, 2);
    let is_waking = |a: &&Action| matches!(a, Action::Notice(Notice::Waking { .. }));
    assert_eq!(actions.iter().filter(is_waking).count(), 1);
    settle(&mut sim, actions);
    // Two requests for each: five need three replicas, which are two gangs.
    sim.demand(0, 5);
    let actions = sim.wait(1.0);
    assert_eq!(starts(&actions).len(), 2);
    settle(&mut sim, actions);
    assert_eq!((sim.routed().len(), sim.details().target_num_replicas), (4, 4));
    sim.demand(0, 4);
    let actions = sim.wait(10.0);
    assert_eq!(stopped(&actions).len(), 2);
    settle(&mut sim, actions);
    // One replica would do: the gang stays.
    sim.demand(0, 1);
    assert_eq!((stopped(&sim.wait(100.0)), sim.routed().len()), (vec![], 2));
    sim.demand(0, 0);
    let actions = sim.wait(30.0);
    assert_eq!(stopped(&actions).len(), 2, "the last gang goes as the last replica does");
    settle(&mut sim, actions);
    assert_eq!((sim.routed(), sim.details().target_num_replicas), (vec![], 0));
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "DOWNSCALE_COMPLETED".into()));
}

#[test]
fn a_gang_that_is_lost_while_nobody_asks_is_not_missed() {
    let mut sim = Sim::deployed(in_gangs(config(), 2));
    let actions = sim.demand(1, 0).to_vec();
    settle(&mut sim, actions);
    sim.demand(0, 0);
    let [first, mate] = sim.routed().try_into().unwrap();
    sim.exited(&first);
    assert_eq!((starts(&sim.last), stopped(&sim.last)), (vec![], vec![mate.clone()]));
    sim.exited(&mate);
    assert_eq!((sim.status().0, starts(&sim.wait(1.0))), (DeploymentStatus::Healthy, vec![]));
    assert_eq!(sim.demand(1, 0).iter().filter(|a| matches!(a, Action::Start { .. })).count(), 2);
}

#[test]
fn an_update_replaces_whole_gangs() {
    for (replicas, size, percentage, surge, beside) in
        [(4, 2, 0.2, 0, 2), (8, 2, 0.5, 0, 4), (8, 2, 0.2, 40, 4), (9, 3, 0.2, 0, 3)]
    {
        let mut sim = settled(in_gangs(fixed(replicas), size));
        let mut changed = in_gangs(fixed(replicas), size);
        changed.rollout.rolling_update_percentage = percentage;
        changed.rollout.max_surge_percent = surge;
        model(&mut changed).path = "/models/better".into();
        let actions = sim.deploy(changed).to_vec();
        assert_eq!(told(&actions).len(), beside, "{percentage} {surge}");
        settle_with(&mut sim, actions, |sim, _| {
            assert!(sim.routed().len() >= replicas as usize, "never fewer than the target");
            assert_whole(sim);
        });
        assert_eq!(
            (sim.status().0, sim.routed().len()),
            (DeploymentStatus::Healthy, replicas as usize)
        );
        assert!(sim.details().replicas.iter().all(|replica| replica.version == 2));
    }
}

/// Of every gang all members are wanted, or none.
fn assert_whole(sim: &Sim) {
    let mut gangs: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for replica in sim.details().replicas {
        let is_active = replica.state != ReplicaState::Stopping;
        gangs.entry(replica.gang_id.unwrap_or_default()).or_default().push(is_active);
    }
    for members in gangs.values() {
        assert!(members.iter().all(|one| *one == members[0]), "{gangs:?}");
    }
}

#[test]
fn half_a_new_gang_replaces_nobody() {
    let mut sim = settled(pairs(4));
    let old = sim.routed();
    let mut changed = pairs(4);
    changed.rollout.max_surge_percent = 100;
    model(&mut changed).path = "/models/better".into();
    let new = starts(sim.deploy(changed));
    assert_eq!(new.len(), 4);
    // One of each new gang is ready: together as many as a gang, and none of them whole.
    sim.ready(&new[0]);
    sim.ready(&new[2]);
    assert!(old.iter().all(|id| sim.routed().contains(id)));
    sim.ready(&new[1]);
    assert_eq!(stopped(&sim.last).len(), 2);
}

#[test]
fn gangs_of_another_size_replace_the_old_ones() {
    for (from, to) in [(1, 2), (2, 1), (2, 4), (4, 2), (2, 8), (8, 2), (8, 1), (8, 4)] {
        let mut sim = settled(in_gangs(fixed(8), from));
        let actions = sim.deploy(in_gangs(fixed(8), to)).to_vec();
        settle_with(&mut sim, actions, |sim, _| {
            assert!(sim.routed().len() >= 8, "never fewer than the target");
        });
        assert_eq!((sim.status().0, sim.routed().len()), (DeploymentStatus::Healthy, 8));
        let details = sim.details();
        assert!(details.replicas.iter().all(|r| r.version == 2), "{from} to {to}: {details:?}");
    }
    // Also where neither divides the other, and where the number changes as well.
    for (from, (number, to)) in [((6, 3), (8, 4)), ((9, 3), (4, 2)), ((4, 2), (9, 3))] {
        let mut sim = settled(in_gangs(fixed(from.0), from.1));
        let actions = sim.deploy(in_gangs(fixed(number), to)).to_vec();
        settle(&mut sim, actions);
        let details = sim.details();
        assert_eq!(
            (sim.status().0, sim.routed().len()),
            (DeploymentStatus::Healthy, number as usize)
        );
        assert!(details.replicas.iter().all(|r| r.version == 2), "{details:?}");
    }
}

#[test]
fn a_gang_starts_where_there_is_room_for_all_of_it() {
    let mut sim = Sim::new();
    let capacity = Capacity { num_cpus: Some(5.0), ..Capacity::default() };
    sim.apply(Event::Capacity(capacity));
    sim.apply(Event::Snapshot(Vec::new()));
    sim.apply(Event::ProxyConnected("proxy-0".into()));
    let mut config = pairs(4);
    config.resources.num_cpus = 1.5;
    sim.deploy(config);
    let [first, second] = sim.started().try_into().unwrap();
    let told = "a gang of 2 needs 3 CPUs, 2 of 5 are free";
    assert_eq!(sim.details().message, told, "one more would fit, and is not started");
    sim.ready(&first);
    sim.ready(&second);
    // The first one's end is not enough for another gang; that of both is.
    sim.exited(&first);
    assert_eq!(stopped(&sim.last), std::slice::from_ref(&second));
    assert_eq!((sim.started().len(), sim.details().replicas.len()), (2, 3));
    sim.exited(&second);
    assert_eq!((sim.started(), sim.details().message.as_str()), (vec![], told));
    let larger = Capacity { num_cpus: Some(6.0), ..Capacity::default() };
    sim.apply(Event::Capacity(larger));
    assert_eq!(sim.started().len(), 2);
    // What never fits is told at once.
    let mut config = in_gangs(fixed(6), 6);
    config.resources.num_cpus = 1.5;
    sim.deploy(config);
    assert!(sim.details().message.starts_with("a gang of 6 needs 9 CPUs"));
}

#[test]
fn others_give_way_for_a_whole_gang() {
    let mut sim = crowded(&["a", "b"]);
    for name in ["a", "b"] {
        let actions = ask(&mut sim, &[(name, 1)]);
        settle(&mut sim, actions);
        ask(&mut sim, &[]);
    }
    let mut config = in_gangs(config(), 2);
    config.id = DeploymentId::single(DeploymentName::new("c").unwrap());
    model(&mut config).memory_budget_bytes = Some(4);
    sim.deploy(config);
    sim.now += Duration::from_secs(100);
    // Beside one of them half of it would fit.
    let actions = ask(&mut sim, &[("c", 1)]);
    assert_eq!((starts(&actions), stopped(&actions).len()), (vec![], 2));
    let [first, second] = stopped(&actions).try_into().unwrap();
    assert_eq!(starts(sim.exited(&first)), []);
    assert_eq!(starts(sim.exited(&second)).len(), 2);
}

fn found(id: &ReplicaId, config: DeploymentConfig, gang: &Arc<GangContext>) -> FoundReplica {
    FoundReplica {
        replica: id.clone(),
        pid: 7,
        config: Some(Box::new(config)),
        gpus: Vec::new(),
        gang: Some(gang.clone()),
        actor: None,
    }
}

#[test]
fn a_new_controller_adopts_gangs_and_ends_what_is_left_of_one() {
    let before = Sim::deployed(pairs(4));
    let all = told(&before.last);
    let mut sim = Sim::new();
    sim.state = State::new(RuntimeDir("/tmp/t".into()), 1_700_000_100_000);
    sim.deploy(pairs(4));
    // The last one died while there was no controller.
    let snapshot = all[..3].iter().map(|(id, gang)| found(id, pairs(4), gang)).collect();
    let actions = sim.apply(Event::Snapshot(snapshot)).to_vec();
    assert_eq!(stops(&actions), [(all[2].0.clone(), 1)]);
    let new = told(&actions);
    assert_eq!(new.len(), 2, "a whole gang for the one that is lost");
    assert_eq!(members(&sim, &all[0].0), [all[0].0.clone(), all[1].0.clone()]);
    let details = sim.details();
    let left = details.replicas.iter().find(|r| r.replica_id == all[2].0).unwrap();
    assert!(left.message.contains("did not find all of it"), "{left:?}");
    // It is a gang for the new controller too.
    for (id, _) in all[..2].iter().chain(&new) {
        sim.ready(id);
    }
    sim.exited(&all[1].0);
    assert_eq!((stopped(&sim.last), sim.started().len()), (vec![all[0].0.clone()], 2));
}

#[test]
fn deleting_takes_time_for_requests_and_all_of_them() {
    let mut sim = settled(pairs(2));
    let both = sim.routed();
    let actions = sim.apply(Event::Delete(name().application)).to_vec();
    assert_eq!(stops(&actions), [(both[0].clone(), 20), (both[1].clone(), 20)]);
    sim.exited(&both[0]);
    assert_eq!(stops(&sim.last), [], "the other has its time");
    assert_eq!(sim.exited(&both[1]).last(), Some(&Action::Forget(name())));
}

#[test]
fn a_user_config_is_handed_to_members_in_place() {
    let mut sim = settled(pairs(4));
    let mut changed = pairs(4);
    changed.user_config = serde_json::json!({"a": 1});
    let actions = sim.deploy(changed).to_vec();
    let asked = |a: &&Action| matches!(a, Action::Reconfigure { .. });
    assert_eq!(actions.iter().filter(asked).count(), 2, "as many as a gang has");
    assert_eq!((starts(&actions), stops(&actions)), (vec![], vec![]));
}
