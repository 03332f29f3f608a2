//! Models that do not fit together.

use super::*;

/// A deployment of its own application that takes so many bytes.
fn sized(name: &str, bytes: u64) -> DeploymentConfig {
    let mut config = config();
    config.id = DeploymentId::single(DeploymentName::new(name).unwrap());
    config.autoscaling.max_replicas = 1;
    model(&mut config).memory_budget_bytes = Some(bytes);
    config
}

pub(super) fn ask(sim: &mut Sim, loads: &[(&str, u32)]) -> Vec<Action> {
    sim.sequence += 1;
    let demand = |(name, queued): &(&str, u32)| Demand {
        deployment: DeploymentId::single(DeploymentName::new(*name).unwrap()),
        queued: *queued,
        ongoing: 0,
    };
    let deployments = loads.iter().map(demand).collect();
    let report = DemandReport { sequence: sim.sequence, deployments };
    sim.apply(Event::Demand { proxy: "proxy-0".into(), report }).to_vec()
}

pub(super) fn crowded(names: &[&str]) -> Sim {
    let mut sim = Sim::new();
    sim.apply(Event::Capacity(Capacity { memory_bytes: Some(10), ..Capacity::default() }));
    sim.apply(Event::Snapshot(Vec::new()));
    sim.apply(Event::ProxyConnected("proxy-0".into()));
    for name in names {
        sim.deploy(sized(name, 4));
    }
    sim
}

fn running(sim: &Sim) -> Vec<String> {
    let table = sim.state.routes(None).unwrap();
    let with = table.deployments.iter().filter(|route| !route.replicas.is_empty());
    with.map(|route| route.deployment.to_string()).collect()
}

#[test]
fn idle_models_give_way_the_one_used_longest_ago_first() {
    let mut sim = crowded(&["a", "b", "c"]);
    for name in ["a", "b"] {
        let actions = ask(&mut sim, &[(name, 1)]);
        settle(&mut sim, actions);
        sim.now += Duration::from_secs(1);
        ask(&mut sim, &[]);
    }
    assert_eq!(running(&sim), ["a", "b"]);
    let actions = ask(&mut sim, &[("c", 1)]);
    let [(gone, _)] = stops(&actions).try_into().unwrap();
    assert!(gone.as_str().starts_with("a-"), "{gone}");
    assert!(actions.iter().any(|a| matches!(a, Action::Notice(Notice::Evicted { .. }))));
    assert_eq!(starts(&actions), [], "not before the memory is free");
    let actions = sim.exited(&gone).to_vec();
    settle(&mut sim, actions);
    assert_eq!(running(&sim), ["b", "c"]);
}

#[test]
fn busy_models_take_turns() {
    let mut sim = crowded(&["a", "b", "c"]);
    let both = [("a", 5), ("b", 5)];
    let actions = ask(&mut sim, &both);
    settle(&mut sim, actions);
    let actions = ask(&mut sim, &[("a", 5), ("b", 5), ("c", 5)]);
    assert_eq!(stops(&actions), [], "all are busy");
    assert_eq!(stops(&sim.wait(4.9)), []);
    let actions = sim.wait(0.2);
    assert_eq!(stops(&actions).len(), 1, "then one has had its turn");
    let before = running(&sim).len();
    settle(&mut sim, actions);
    assert_eq!((before, running(&sim).len()), (1, 2));
    assert!(running(&sim).contains(&"c".to_owned()));
    // Over time each has its turns, and nobody wakes more often than once per turn.
    let mut wakes = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        let actions = sim.wait(1.0);
        settle_with(&mut sim, actions, |_, action| {
            for id in starts(std::slice::from_ref(action)) {
                *wakes.entry(id.as_str()[..1].to_owned()).or_default() += 1;
            }
        });
    }
    assert_eq!(wakes.len(), 3, "{wakes:?}");
    assert!(wakes.values().sum::<usize>() <= 2 * 60 / 5, "{wakes:?}");
}

/// Wakes of two models that share the room for one, asked for in alternation: each request takes
/// 50 ms and there are `rate` requests a second, a wake takes a second.
fn wakes_in_alternation(rate: u32) -> usize {
    let step = Duration::from_millis(50);
    let mut sim = Sim::new();
    sim.apply(Event::Capacity(Capacity { memory_bytes: Some(6), ..Capacity::default() }));
    sim.apply(Event::Snapshot(Vec::new()));
    sim.apply(Event::ProxyConnected("proxy-0".into()));
    sim.deploy(sized("a", 4));
    sim.deploy(sized("b", 4));
    let mut waiting = std::collections::BTreeMap::from([("a", 0_u32), ("b", 0)]);
    let mut starting: Vec<(Duration, ReplicaId)> = Vec::new();
    let mut num_wakes = 0;
    for tick in 0..20 * 300_u32 {
        let mut actions = sim.wait(step.as_secs_f64());
        if tick.is_multiple_of(20 / rate) {
            *waiting
                .get_mut(if (tick / (20 / rate)).is_multiple_of(2) { "a" } else { "b" })
                .unwrap() += 1;
        }
        actions.extend(ask(&mut sim, &waiting.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>()));
        let served = running(&sim);
        for (name, queued) in &mut waiting {
            *queued = if served.contains(&(*name).to_owned()) { 0 } else { *queued };
        }
        actions.extend(ask(&mut sim, &waiting.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>()));
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Start { replica, .. } => {
                    num_wakes += 1;
                    starting.push((sim.now + Duration::from_secs(1), replica));
                }
                Action::Stop { replica, .. } => actions.extend(sim.exited(&replica).to_vec()),
                _ => {}
            }
        }
        let now = sim.now;
        for (_, replica) in starting.extract_if(.., |(at, _)| *at <= now) {
            sim.ready(&replica);
        }
    }
    num_wakes
}

#[test]
fn models_in_alternation_wake_for_a_fifth_of_the_time_at_most() {
    for rate in [1, 2, 4, 10] {
        let num_wakes = wakes_in_alternation(rate);
        assert!((30..=62).contains(&num_wakes), "{rate} requests/s: {num_wakes} in 300 s");
    }
}

#[test]
fn pins_priorities_and_residency_are_kept() {
    for (change, gives_way) in [
        ((|c: &mut DeploymentConfig| c.residency.is_pinned = true) as fn(&mut _), false),
        (|c| c.residency.priority = 1, false),
        (|c| c.residency.min_residency_s = 100.0, false),
        (|c| c.autoscaling.min_replicas = 1, false),
        (|c| c.residency.priority = -1, true),
    ] {
        let mut sim = crowded(&["c"]);
        let mut held = sized("held", 8);
        change(&mut held);
        sim.deploy(held);
        let mut actions = sim.last.clone();
        actions.extend(ask(&mut sim, &[("held", 1)]));
        settle(&mut sim, actions);
        sim.now += Duration::from_secs(1);
        ask(&mut sim, &[]);
        let actions = ask(&mut sim, &[("c", 1)]);
        assert_eq!(!stops(&actions).is_empty(), gives_way);
        if !gives_way {
            let details = sim.state.details(sim.now);
            let message = &details.applications["c"].deployments["c"].message;
            assert!(message.contains("GiB are free"), "{message}");
        }
    }
}

#[test]
fn a_model_that_never_fits_is_refused_with_the_arithmetic() {
    let mut sim = Sim::new();
    let capacity = Capacity { memory_bytes: Some(8 << 30), ..Capacity::default() };
    sim.apply(Event::Capacity(capacity));
    sim.apply(Event::Snapshot(Vec::new()));
    sim.apply(Event::ProxyConnected("proxy-0".into()));
    sim.deploy(sized("large", 9 << 30));
    ask(&mut sim, &[("large", 1)]);
    assert!(
        sim.unavailable()
            .unwrap()
            .starts_with("needs 9.00 GiB of memory, 8.00 of 8.00 GiB are free")
    );
}
