use super::*;
use proptest::prelude::*;

fn config() -> AutoscalingConfig {
    AutoscalingConfig {
        min_replicas: 0,
        max_replicas: 10,
        target_ongoing_requests: 2.0,
        upscale_delay_s: 3.0,
        downscale_delay_s: 60.0,
        downscale_to_zero_delay_s: 300.0,
    }
}

fn at(s: f64) -> Instant {
    seconds(s)
}

/// Runs `(time, requests)` with as many replicas running as wanted; `(time, target)` of changes.
fn run(config: &AutoscalingConfig, start: u32, loads: &[(f64, u64)]) -> Vec<(f64, u32)> {
    let mut scaling = Scaling::new(start);
    let mut changes = Vec::new();
    for (i, &(time, num_requests)) in loads.iter().enumerate() {
        let mut now = at(time);
        let until = loads.get(i + 1).map_or(at(1e6), |&(next, _)| at(next));
        loop {
            let load = Load { num_requests, num_running: scaling.target };
            let decision = decide(config, scaling, load, now);
            let changed = decision.scaling.target != scaling.target;
            scaling = decision.scaling;
            if changed {
                // Replicas come and go at once here, which is an event of its own.
                changes.push((now.as_secs_f64(), scaling.target));
                continue;
            }
            match decision.deadline {
                Some(deadline) if deadline < until => now = deadline,
                Some(_) | None => break,
            }
        }
    }
    changes
}

#[test]
fn a_life_from_zero_to_zero() {
    // One request wakes one at once; ten more must last; then fewer; then none.
    let changes = run(&config(), 0, &[(5.0, 1), (6.0, 10), (20.0, 3), (100.0, 0)]);
    assert_eq!(changes, [(5.0, 1), (9.0, 5), (80.0, 2), (160.0, 1), (400.0, 0)]);
}

#[test]
fn a_break_starts_the_delay_again() {
    let changes = run(&config(), 1, &[(0.0, 6), (2.0, 2), (2.5, 6), (5.0, 6), (5.5, 6)]);
    assert_eq!(changes, [(5.5, 3)]);
    let flips = run(&config(), 3, &[(0.0, 8), (2.0, 1), (3.0, 8), (5.0, 1), (6.0, 6)]);
    assert_eq!(flips, []);
}

#[test]
fn a_burst_at_zero_wakes_one_and_more_follow_when_it_runs() {
    let starting = Load { num_requests: 100, num_running: 0 };
    let first = decide(&config(), Scaling::new(0), starting, at(1.0));
    assert_eq!((first.scaling.target, first.deadline), (1, None));
    let still = decide(&config(), first.scaling, starting, at(50.0));
    assert_eq!(still.scaling.target, 1);
    let ready = Load { num_running: 1, ..starting };
    let more = decide(&config(), still.scaling, ready, at(51.0));
    assert_eq!((more.scaling.target, more.deadline), (1, Some(at(54.0))));
    assert_eq!(decide(&config(), more.scaling, ready, at(54.0)).scaling.target, 10);
}

#[test]
fn bounds_hold_at_once_and_odd_numbers_do_no_harm() {
    let bounded = AutoscalingConfig { min_replicas: 2, max_replicas: 3, ..config() };
    for (previous, expected) in [(0, 2), (9, 3), (2, 2)] {
        let load = Load { num_requests: 5, num_running: 2 };
        assert_eq!(
            decide(&bounded, Scaling::new(previous), load, at(0.0)).scaling.target,
            expected
        );
    }
    assert_eq!(run(&bounded, 3, &[(0.0, 0)]), [(60.0, 2)]);
    let eager = AutoscalingConfig { downscale_to_zero_delay_s: 0.0, ..config() };
    assert_eq!(run(&eager, 4, &[(1.0, 1), (2.0, 0)]), [(2.0, 0)]);
    assert_eq!(seconds(f64::NAN), Duration::ZERO);
    assert_eq!(seconds(f64::INFINITY), Duration::MAX);
    assert_eq!(seconds(-1.0), Duration::ZERO);
    assert_eq!(wanted(3, 0.1), 30);
    assert_eq!(wanted(u64::MAX, 1e-9), u32::MAX);
    assert_eq!(wanted(0, 2.0), 0);
}

fn configs() -> impl Strategy<Value = AutoscalingConfig> {
    (0u32..4, 0u32..6, 0.5f64..8.0, 0.0f64..20.0, 0.0f64..20.0, 0.0f64..20.0).prop_map(
        |(min, more, target, up, down, zero)| AutoscalingConfig {
            min_replicas: min,
            max_replicas: (min + more).max(1),
            target_ongoing_requests: target,
            upscale_delay_s: up,
            downscale_delay_s: down,
            downscale_to_zero_delay_s: zero,
        },
    )
}

proptest! {
    #[test]
    fn any_history_keeps_the_promises(
        config in configs(),
        start in 0u32..8,
        steps in prop::collection::vec((0u64..2000, 0u64..40, any::<bool>()), 1..60),
    ) {
        let mut scaling = Scaling::new(start);
        let mut now = Duration::ZERO;
        let mut last_request = Duration::ZERO;
        for (wait_ms, num_requests, all_run) in steps {
            now += Duration::from_millis(wait_ms);
            if num_requests > 0 {
                last_request = now;
            }
            let num_running = if all_run { scaling.target } else { 0 };
            let load = Load { num_requests, num_running };
            let before = scaling;
            let decision = decide(&config, before, load, now);
            scaling = decision.scaling;
            let target = scaling.target;
            prop_assert!(target >= config.min_replicas && target <= config.max_replicas);
            prop_assert!(decision.deadline.is_none_or(|at| at > now));
            prop_assert!(num_requests == 0 || target > 0, "a request without a replica");
            // Deciding again at the same time changes nothing.
            prop_assert_eq!(decide(&config, scaling, load, now).scaling.target, target);
            let bounded = before.target.clamp(config.min_replicas, config.max_replicas);
            if target > bounded && bounded > 0 {
                let since = before.pending.filter(|(d, _)| *d == Direction::Up).map_or(now, |p| p.1);
                prop_assert!(now - since >= seconds(config.upscale_delay_s), "up too early");
            }
            if target < bounded && target > 0 {
                let since = before.pending.filter(|(d, _)| *d == Direction::Down).map_or(now, |p| p.1);
                prop_assert!(now - since >= seconds(config.downscale_delay_s), "down too early");
            }
            if target == 0 && bounded > 0 {
                prop_assert!(now - last_request >= seconds(config.downscale_to_zero_delay_s));
            }
        }
    }

    #[test]
    fn a_steady_load_reaches_its_target_in_bounded_time(
        config in configs(), start in 0u32..8, num_requests in 0u64..60,
    ) {
        let wanted = wanted(num_requests, config.target_ongoing_requests);
        let expected = wanted.min(config.max_replicas).max(config.min_replicas);
        let changes = run(&config, start, &[(0.0, num_requests)]);
        let reached = changes.last().map_or(start.min(config.max_replicas).max(config.min_replicas), |c| c.1);
        prop_assert_eq!(reached, expected);
        let slowest = config.upscale_delay_s + config.downscale_delay_s + config.downscale_to_zero_delay_s;
        prop_assert!(changes.iter().all(|change| change.0 <= slowest + 1e-6));
    }
}
