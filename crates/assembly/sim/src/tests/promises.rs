//! Promises of the product, over random configurations, loads and faults.

use super::*;
use proptest::prelude::*;
use tyndall_types::protocol::GangScheduling;

/// A deployment whose load is `rate * service`, whatever its replicas: no request waits for
/// another, and each takes as long as the next.
fn steady(autoscaling: AutoscalingConfig, service_s: f64, start_s: f64) -> SimConfig {
    let mut config = deployment("a", autoscaling);
    config.max_ongoing_requests = 10_000;
    let mut config = sim(vec![config]);
    config.latency = LatencyModel {
        service: Time::Constant(service_s),
        start: Time::Constant(start_s),
        ..LatencyModel::default()
    };
    config
}

fn delays() -> impl Strategy<Value = AutoscalingConfig> {
    (0.5f64..6.0, 0.0f64..20.0, 1.0f64..20.0, 1.0f64..30.0, 1.0f64..40.0).prop_map(
        |(target, look_back, up, down, zero)| AutoscalingConfig {
            target_ongoing_requests: target,
            look_back_period_s: look_back,
            upscale_delay_s: up,
            downscale_delay_s: down,
            downscale_to_zero_delay_s: zero,
            ..scaling(1, 200)
        },
    )
}

/// What a load of so many requests asks for, give or take one request: spaced requests leave one
/// more or fewer in work at times.
fn wanted(config: &AutoscalingConfig, rate: f64, service_s: f64) -> (u32, u32) {
    let of = |load: f64| {
        let replicas = (load.max(0.0) / config.target_ongoing_requests - 1e-6).ceil() as u32;
        replicas.clamp(config.min_replicas.max(1), config.max_replicas)
    };
    let load = rate * service_s;
    (of(load.floor() - 0.01), of(load.floor() + 1.01))
}

const BEGIN_S: f64 = 11.0;
const BEFORE_S: f64 = 100.0;
const AFTER_S: f64 = 100.0;

/// A few of them; `PROPTEST_CASES` makes them more.
fn few() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.div_ceil(32), ..config }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn a_change_of_load_moves_the_target_one_way_and_in_time(
        config in delays(),
        before in 1u32..8,
        after in 1u32..8,
        service_s in 0.5f64..4.0,
        start_s in 0.1f64..10.0,
    ) {
        let (before, after) = (f64::from(before), f64::from(after));
        // What waits for a start is load as well, so the first replica is there before requests are.
        let first = BEFORE_S - BEGIN_S;
        let trace =
            format!("pause:{BEGIN_S},constant:{before}:{first},constant:{after}:{AFTER_S}");
        let outcome = run(steady(config.clone(), service_s, start_s), &trace);
        let of = |from: f64, until: f64| -> Vec<(f64, u32, u32)> {
            let all = decisions(&outcome, 0).into_iter();
            all.filter(|one| (from..until).contains(&one.0)).collect()
        };
        for (from, until, rate) in [(BEGIN_S, BEFORE_S, before), (BEFORE_S, BEFORE_S + AFTER_S, after)] {
            let (low, high) = wanted(&config, rate, service_s);
            let seen = of(from, until);
            let ways: Vec<bool> = seen.iter().map(|one| one.2 > one.1).collect();
            let is_clear = low == high;
            if is_clear {
                // One way, then steady: no decision after the time it may take.
                prop_assert!(ways.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
                let slowest = config.look_back_period_s + service_s
                    + config.upscale_delay_s.max(config.downscale_delay_s) + 1.0;
                let last = seen.last().map_or(0.0, |one| one.0 - from);
                prop_assert!(last <= slowest + start_s, "{last} > {slowest}: {seen:?}");
                let reached = of(0.0, until).last().map_or(1, |one| one.2);
                prop_assert_eq!(reached, low, "{:?}", of(0.0, until));
            }
            // Running follows in the time of a start.
            let end = outcome.deployments[0].series[until as usize - 1];
            prop_assert_eq!(end.target, end.running + end.starting);
            prop_assert!((low..=high).contains(&end.target), "{low} {high} {end:?}");
        }
    }

    #[test]
    fn decisions_are_no_more_than_their_delays_allow(
        config in delays(), rate in 0.2f64..4.0, seed: u64,
    ) {
        const LONG_S: f64 = 900.0;
        let mut sim = steady(config.clone(), 2.0, 1.0);
        sim.seed = seed;
        let outcome = run(sim, &format!("poisson:{rate}:{LONG_S}"));
        let seen: Vec<_> = decisions(&outcome, 0).into_iter().filter(|d| d.0 < LONG_S).collect();
        let (up, down) = (config.upscale_delay_s, config.downscale_delay_s);
        prop_assert!(seen.len() as f64 <= LONG_S / up.min(down) + 2.0);
        for pair in seen.windows(2) {
            let delay = if pair[1].2 > pair[1].1 { up } else { down };
            prop_assert!(pair[1].0 - pair[0].0 >= delay - 0.002, "{pair:?} within {delay}");
        }
    }

    #[test]
    fn an_idle_deployment_is_gone_when_its_owner_said(
        config in delays(), requests in 1u32..20, service_s in 0.1f64..5.0,
    ) {
        let config = AutoscalingConfig { min_replicas: 0, ..config };
        let delay_s = config.downscale_to_zero_delay_s;
        let trace = format!("constant:2:{}", f64::from(requests) / 2.0);
        let outcome = run(steady(config, service_s, 1.0), &trace);
        let last = outcome.deployments[0].decisions.last().unwrap();
        prop_assert_eq!(last.to, 0);
        let at = last.time_ms as f64 / 1000.0;
        // The last request ends a service after it came, or after the wake.
        let ended = outcome.deployments[0].series.iter().rposition(|p| p.ongoing > 0).unwrap();
        let ended = ended as f64;
        prop_assert!((ended + delay_s - 1.0..=ended + delay_s + 2.0).contains(&at), "{at} {ended}");
        prop_assert_eq!(outcome.deployments[0].series.last().unwrap().running, 0);
        prop_assert_eq!(outcome.totals.answered, outcome.totals.sent);
    }

    #[test]
    fn no_request_is_lost_whatever_breaks(
        seed: u64,
        min in 0u32..3,
        crash in 0.0f64..0.3,
        controller in 0.0f64..0.1,
        node in 0.0f64..0.02,
        begins_after in prop_oneof![Just(1.0), 0.0f64..1.0],
    ) {
        let mut config = sim(vec![
            deployment("a", scaling(min, 12)), deployment("b", scaling(0, 12)),
        ]);
        (config.seed, config.nodes, config.proxies) = (seed, 8, 2);
        config.latency.begins_after = begins_after;
        config.latency.service = Time::LogNormal { mean_s: 1.0, sigma: 0.5 };
        config.faults.rates = [
            (Fault::Crash, crash), (Fault::ControllerRestart, controller), (Fault::NodeLoss, node),
        ].into_iter().filter(|one| one.1 > 0.0).collect();
        let totals = run(config, "0=poisson:4:3m+1=burst:0:20:40:5:3m").totals;
        // An answer that had begun cannot go elsewhere; one that broke three replicas may not; and
        // where five die in a row without an answer, waiting ones are told. Nothing else.
        let told = totals.interrupted + totals.given_up + totals.refused_unavailable;
        prop_assert_eq!(totals.answered + told, totals.sent, "{:?}", totals);
        prop_assert!(begins_after < 1.0 || totals.interrupted == 0, "{:?}", totals);
        prop_assert!(totals.given_up * 20 <= totals.sent, "{:?}", totals);
    }

    #[test]
    fn every_request_ends_with_all_faults_at_once(
        seed: u64, start_failure in 0.0f64..0.5, start_hang in 0.0f64..0.3, gang in 1u32..4,
    ) {
        let gangs = |config: DeploymentConfig| DeploymentConfig {
            gang_scheduling: (gang > 1).then(|| GangScheduling {
                gang_size: gang,
                gang_placement_strategy: Default::default(),
                runtime_failure_policy: Default::default(),
            }),
            ..config
        };
        let mut config = sim(vec![
            gangs(deployment("a", scaling(0, 6))), gangs(deployment("b", scaling(1, 6))),
        ]);
        (config.seed, config.nodes, config.proxies) = (seed, 4, 3);
        config.latency.begins_after = 0.5;
        config.faults = Faults {
            start_failure,
            start_hang,
            ..Faults::parse(
                "crash:0.1/s,node-loss:0.01/s,controller-restart:0.05/s,proxy-restart:0.05/s,\
                 slow-node:1@20",
            ).unwrap()
        };
        // That none is lost, doubled or without an end is asserted by the run.
        let outcome = run(config, "0=poisson:3:2m+1=poisson:5:2m");
        prop_assert_eq!(outcome.totals.ended(), outcome.totals.sent);
        let last = |i: usize| *outcome.deployments[i].series.last().unwrap();
        prop_assert_eq!((last(0).target, last(0).running), (0, 0));
        prop_assert!(last(1).ongoing + last(1).queued == 0);
        prop_assert_eq!(last(1).target % gang, 0);
    }
}

#[test]
fn models_that_do_not_fit_beside_each_other_take_turns() {
    const TURN_S: f64 = 5.0;
    const GIB: u64 = 1 << 30;
    // Those that have a request all the time, and those that have none at times and stay by
    // `min_residency_s`.
    for (rate, service_s, min_residency_s) in [(4.0, 1.0, 0.0), (2.0, 0.2, TURN_S)] {
        let model = |name: &str| {
            let mut config = deployment(name, scaling(0, 1));
            config.max_ongoing_requests = 64;
            config.resources.memory_bytes = Some(6 * GIB);
            config.residency.min_residency_s = min_residency_s;
            config
        };
        let mut config = sim(vec![model("a"), model("b")]);
        config.capacity.memory_bytes = Some(10 * GIB);
        config.latency.service = Time::Constant(service_s);
        let outcome = run(config, &format!("0=constant:{rate}:100+1=constant:{rate}:100"));
        assert_eq!(outcome.totals.answered, outcome.totals.sent);
        let woken = outcome.totals.started as f64;
        assert!((100.0 / (2.0 * TURN_S + 4.0)..=100.0 / TURN_S + 2.0).contains(&woken), "{woken}");
        // Nobody starves: a turn of the other, its drain, and both starts.
        let slowest = outcome.deployments.iter().filter_map(|one| one.latency).map(|l| l.max_s);
        let slowest = slowest.fold(0.0, f64::max);
        assert!(slowest <= 2.0 * TURN_S + 2.0 * 2.0 + 2.0 * service_s, "{slowest}");
    }
}
