use super::*;
use proptest::prelude::*;
use tyndall_types::protocol::{Aggregation, EngineLoad};

fn policies() -> impl Strategy<Value = ScalingPolicy> {
    prop_oneof![
        2 => Just(ScalingPolicy::OngoingRequests),
        1 => (0.5f64..20.0)
            .prop_map(|n| ScalingPolicy::QueueLength { target_queued_requests: n }),
        1 => (10.0f64..2000.0, 0.1f64..1.0).prop_map(|(target_tokens, max_kv_use)| {
            ScalingPolicy::Tokens { target_tokens, max_kv_use }
        }),
        1 => (0.1f64..4.0, 0.0f64..4.0).prop_map(|(target_s, idle_threshold)| {
            ScalingPolicy::TimeToFirstToken { target_s, idle_threshold }
        }),
    ]
}

fn aggregations() -> impl Strategy<Value = Aggregation> {
    prop::sample::select(vec![Aggregation::Mean, Aggregation::Max, Aggregation::Min])
}

prop_compose! {
    fn configs()(
        (min, more) in (0u32..4, 0u32..12),
        target in 0.5f64..8.0,
        (up, down, zero) in (0.0f64..20.0, 0.0f64..20.0, 0.0f64..40.0),
        look_back in prop_oneof![Just(0.0), 0.0f64..30.0],
        aggregation_function in aggregations(),
        (upscaling_factor, downscaling_factor) in (0.05f64..=1.0, 0.05f64..=1.0),
        policy in policies(),
    ) -> AutoscalingConfig {
        AutoscalingConfig {
            min_replicas: min,
            initial_replicas: None,
            max_replicas: (min + more).max(1),
            target_ongoing_requests: target,
            look_back_period_s: look_back,
            aggregation_function,
            upscale_delay_s: up,
            downscale_delay_s: down,
            downscale_to_zero_delay_s: zero,
            upscaling_factor,
            downscaling_factor,
            policy,
            python_policy: None,
        }
    }
}

prop_compose! {
    fn engines()(
        running_tokens in 0u64..20_000,
        waiting_tokens in 0u64..20_000,
        kv_use in 0.0f64..=1.0,
        ttft_s in prop::option::of(0.0f64..8.0),
    ) -> EngineLoad {
        EngineLoad { running_tokens, waiting_tokens, kv_use, ttft_s }
    }
}

prop_compose! {
    fn loads()(
        num_queued in prop_oneof![Just(0), 0u32..40],
        num_ongoing in prop_oneof![Just(0), 0u32..40],
        engine in prop::option::of(engines()),
    ) -> Load {
        Load { num_queued, num_ongoing, num_running: 0, engine }
    }
}

fn odd_numbers() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        -2.0f64..40.0,
        prop::sample::select(vec![
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.0,
            -0.0,
            f64::MIN_POSITIVE,
            5e-324
        ]),
    ]
}

fn odd_policies() -> impl Strategy<Value = ScalingPolicy> {
    (0..4, odd_numbers(), odd_numbers()).prop_map(|(which, a, b)| match which {
        0 => ScalingPolicy::OngoingRequests,
        1 => ScalingPolicy::QueueLength { target_queued_requests: a },
        2 => ScalingPolicy::Tokens { target_tokens: a, max_kv_use: b },
        _ => ScalingPolicy::TimeToFirstToken { target_s: a, idle_threshold: b },
    })
}

prop_compose! {
    fn odd_configs()(
        (min_replicas, initial_replicas, max_replicas) in any::<(u32, Option<u32>, u32)>(),
        numbers in prop::collection::vec(odd_numbers(), 7),
        aggregation_function in aggregations(),
        policy in odd_policies(),
    ) -> AutoscalingConfig {
        AutoscalingConfig {
            min_replicas,
            initial_replicas,
            max_replicas,
            target_ongoing_requests: numbers[0],
            look_back_period_s: numbers[1],
            aggregation_function,
            upscale_delay_s: numbers[2],
            downscale_delay_s: numbers[3],
            downscale_to_zero_delay_s: numbers[4],
            upscaling_factor: numbers[5],
            downscaling_factor: numbers[6],
            policy,
            python_policy: None,
        }
    }
}

prop_compose! {
    fn odd_loads()(
        (num_queued, num_ongoing, num_running) in any::<(u32, u32, u32)>(),
        small in any::<bool>(),
        tokens in any::<(u64, u64)>(),
        kv_use in odd_numbers(),
        ttft_s in prop::option::of(odd_numbers()),
    ) -> Load {
        let limit = if small { 5 } else { u32::MAX };
        let engine = EngineLoad {
            running_tokens: tokens.0, waiting_tokens: tokens.1, kv_use, ttft_s
        };
        Load {
            num_queued: num_queued % limit,
            num_ongoing: num_ongoing % limit,
            num_running: num_running % limit,
            engine: Some(engine),
        }
    }
}

/// How often the way changes between `start` and the last of `changes`.
fn reversals(start: u32, changes: &[(f64, u32)]) -> usize {
    let targets: Vec<u32> =
        std::iter::once(start).chain(changes.iter().map(|change| change.1)).collect();
    let ups: Vec<bool> = targets.windows(2).map(|two| two[1] > two[0]).collect();
    ups.windows(2).filter(|two| two[0] != two[1]).count()
}

proptest! {
    #[test]
    fn any_history_keeps_the_promises(
        config in configs(),
        start in 0u32..8,
        steps in prop::collection::vec((0u64..2000, loads(), 0u32..3), 1..60),
    ) {
        let bounds = bounds(&config);
        let mut autoscaler = Autoscaler::at(start);
        let mut now = Duration::ZERO;
        let mut last_request = Duration::ZERO;
        // Since when each way was asked for, by the reasons that were told.
        let mut pending: Option<(Direction, Instant)> = None;
        for (wait_ms, load, not_running) in steps {
            now += Duration::from_millis(wait_ms);
            let before = bounds.clamp(autoscaler.target());
            let load = Load { num_running: before.saturating_sub(not_running), ..load };
            let has_requests = load.num_requests() > 0;
            if has_requests {
                last_request = now;
            }
            let decision = autoscaler.decide(&config, bounds, load, now);
            let target = decision.target;
            prop_assert_eq!(target, autoscaler.target());
            prop_assert!(target >= bounds.lower && target <= bounds.upper);
            prop_assert!(decision.deadline.is_none_or(|at| at > now));
            prop_assert!(!has_requests || target > 0, "a request without a replica");
            if target == 0 && before > 0 {
                prop_assert_eq!(decision.reason, Reason::Idle);
                prop_assert!(now - last_request >= seconds(config.downscale_to_zero_delay_s));
            }
            let tolerance = Duration::from_micros(1);
            let since = |way| pending.filter(|(before, _)| *before == way).map_or(now, |one| one.1);
            match decision.reason {
                Reason::MoreLoad => {
                    prop_assert!(target > before && load.num_running > 0);
                    let waited = now - since(Direction::Up) + tolerance;
                    prop_assert!(waited >= seconds(config.upscale_delay_s), "up too early");
                }
                Reason::LessLoad => {
                    prop_assert!(target < before && target > 0 && load.num_running > 0);
                    let waited = now - since(Direction::Down) + tolerance;
                    prop_assert!(waited >= seconds(config.downscale_delay_s), "down too early");
                }
                Reason::FirstRequest => prop_assert!(has_requests && target >= before),
                Reason::Steady | Reason::Waiting { .. } | Reason::Bounds => {
                    prop_assert_eq!(target, before);
                }
                Reason::Idle => prop_assert_eq!(target, 0),
            }
            pending = match decision.reason {
                Reason::Waiting { direction, .. } => Some((direction, since(direction))),
                _ => None,
            };
            // With the same load at the same time there is nothing more to decide.
            prop_assert_eq!(autoscaler.decide(&config, bounds, load, now).target, target);
        }
    }

    #[test]
    fn a_constant_load_moves_one_way_and_then_nothing_moves(
        config in configs(), start in 0u32..12, load in loads(),
    ) {
        let start = bounds(&config).clamp(start);
        // `run_with` fails where deadlines go on for ever.
        let changes = run_with(&config, start, &[(0.0, &|num_running| Load { num_running, ..load })]);
        prop_assert_eq!(reversals(start, &changes), 0, "{:?}", changes);
    }

    #[test]
    fn a_constant_load_is_served_by_what_ray_calculates(
        config in configs(), start in 0u32..12, num_requests in 0u32..60,
    ) {
        let config = AutoscalingConfig { policy: ScalingPolicy::OngoingRequests, ..config };
        let wanted = (f64::from(num_requests) / config.target_ongoing_requests - 1e-9).ceil() as u32;
        let expected = bounds(&config).clamp(wanted);
        let start = bounds(&config).clamp(start);
        let changes = run(&config, start, &[(0.0, num_requests)]);
        prop_assert_eq!(changes.last().map_or(start, |change| change.1), expected);
    }

    #[test]
    fn it_takes_the_delay_and_no_more(
        config in configs(), start in 1u32..12, num_requests in 1u32..60,
    ) {
        let config = AutoscalingConfig {
            policy: ScalingPolicy::OngoingRequests,
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
            ..config
        };
        let start = bounds(&config).clamp(start);
        let changes = run(&config, start, &[(7.0, num_requests)]);
        prop_assert!(changes.len() <= 1);
        if let Some(&(time, target)) = changes.first() {
            let up = target > start;
            let delay = if up { config.upscale_delay_s } else { config.downscale_delay_s };
            prop_assert!((time - 7.0 - delay).abs() < 3e-6, "{time}");
        }
    }

    #[test]
    fn after_a_step_it_takes_the_delay_and_the_window(
        config in configs(), before in 1u32..60, after in 1u32..60,
    ) {
        let config = AutoscalingConfig { policy: ScalingPolicy::OngoingRequests,
            upscaling_factor: 1.0, downscaling_factor: 1.0, ..config };
        let of = |n: u32| bounds(&config)
            .clamp((f64::from(n) / config.target_ongoing_requests - 1e-9).ceil() as u32);
        let changes = run(&config, of(before), &[(0.0, before), (1000.0, after)]);
        prop_assert_eq!(changes.last().map_or(of(before), |change| change.1), of(after));
        prop_assert_eq!(reversals(of(before), &changes), 0);
        let delay = config.upscale_delay_s.max(config.downscale_delay_s);
        let longest = 1000.0 + delay + config.look_back_period_s;
        // A change that a later part of the window asks for waits for its own delay.
        let steps = changes.len().max(1) as f64;
        prop_assert!(changes.iter().all(|one| one.0 >= 1000.0));
        prop_assert!(changes.iter().all(|one| one.0 <= longest + delay * (steps - 1.0) + 1e-5));
    }

    #[test]
    fn idle_is_zero_exactly_when_it_is_due(
        config in configs(), start in 1u32..12, load in loads(), wait in 0.0f64..50.0,
    ) {
        let config = AutoscalingConfig { min_replicas: 0, ..config };
        let busy = move |num_running| Load { num_ongoing: load.num_ongoing.max(1), num_running, ..load };
        let idle = |num_running| Load { num_ongoing: 0, num_queued: 0, num_running, ..load };
        let changes = run_with(&config, start, &[(0.0, &busy), (wait, &idle)]);
        let (time, target) = changes[changes.len() - 1];
        prop_assert_eq!(target, 0);
        let due = seconds(wait) + seconds(config.downscale_to_zero_delay_s);
        prop_assert_eq!(time, due.as_secs_f64());
        prop_assert!(changes[..changes.len() - 1].iter().all(|one| one.1 > 0));
    }

    /// Whatever a policy outside asks for: bounds hold, what has requests has a replica, deadlines
    /// lie ahead, and it comes to rest at what is asked for.
    #[test]
    fn what_a_policy_outside_asks_for_is_reached(
        config in configs(),
        start in 0u32..12,
        asked in prop::option::of(0.0f64..20.0),
        num_requests in 0u32..4,
    ) {
        let config = AutoscalingConfig { upscaling_factor: 1.0, downscaling_factor: 1.0, ..config };
        let bounds = bounds(&config);
        let start = bounds.clamp(start);
        let mut autoscaler = Autoscaler::at(start);
        let (mut now, mut num_running) = (at(0.0), start);
        for _ in 0..100 {
            let load = load(num_requests, num_running);
            let decision = autoscaler.decide_asked(&config, bounds, asked, load, now);
            prop_assert_eq!(bounds.clamp(decision.target), decision.target);
            prop_assert!(num_requests == 0 || decision.target > 0);
            prop_assert!(decision.deadline.is_none_or(|deadline| deadline > now));
            match decision.deadline {
                None if decision.target == num_running => break,
                deadline => now = deadline.unwrap_or(now),
            }
            num_running = decision.target;
        }
        let expected = match asked {
            None if start == 0 && num_requests > 0 => 1,
            None => start,
            Some(asked) => ((asked - 1e-9).ceil() as u32).max(u32::from(num_requests > 0)),
        };
        prop_assert_eq!(autoscaler.target(), bounds.clamp(expected));
    }

    #[test]
    fn no_answer_of_a_policy_is_too_odd(
        config in odd_configs(), load in odd_loads(), asked in prop::option::of(odd_numbers()),
        start in any::<u32>(),
    ) {
        let bounds = bounds(&config);
        let mut autoscaler = Autoscaler::at(start);
        for now in [0.0, 1.0, 1e6] {
            let decision = autoscaler.decide_asked(&config, bounds, asked, load, at(now));
            prop_assert_eq!(bounds.clamp(decision.target), decision.target);
            prop_assert!(decision.deadline.is_none_or(|deadline| deadline > at(now)));
            let (total, queued) = autoscaler.observed(&config, load, at(now));
            prop_assert!(total.is_finite() && queued.is_finite() && total >= queued);
        }
    }

    /// Replicas of room for `max_ongoing` serve a constant demand; the rest waits. The number may
    /// first be too large, for a queue that is then gone, but it comes to rest.
    #[test]
    fn a_queue_that_is_served_does_not_come_back(
        config in configs(),
        start in 0u32..12,
        demand in 1u32..80,
        target_queued_requests in 0.5f64..20.0,
        more_room in 0u32..6,
    ) {
        let config = AutoscalingConfig {
            policy: ScalingPolicy::QueueLength { target_queued_requests },
            ..config
        };
        let max_ongoing = config.target_ongoing_requests.ceil() as u32 + more_room;
        let start = bounds(&config).clamp(start);
        let changes = run_with(&config, start, &[(0.0, &|num_running| {
            let num_ongoing = demand.min(max_ongoing * num_running);
            Load { num_queued: demand - num_ongoing, num_ongoing, num_running, engine: None }
        })]);
        prop_assert!(reversals(start, &changes) <= 1, "{:?}", changes);
    }

    /// Caches fill by the number of replicas that share the tokens.
    #[test]
    fn tokens_that_spread_do_not_make_it_swing(
        config in configs(), start in 1u32..12, kv_tokens in 100u64..20_000, max_kv_use in 0.1f64..1.0,
    ) {
        let policy = ScalingPolicy::Tokens { target_tokens: 1e6, max_kv_use };
        let config = AutoscalingConfig { policy, ..config };
        let start = bounds(&config).clamp(start).max(1);
        let changes = run_with(&config, start, &[(0.0, &|num_running| {
            let share = kv_tokens as f64 / f64::from(num_running.max(1));
            let engine = EngineLoad {
                running_tokens: kv_tokens, kv_use: (share / 2000.0).min(1.0), ..EngineLoad::default()
            };
            Load { engine: Some(engine), ..load(5, num_running) }
        })]);
        prop_assert_eq!(reversals(start, &changes), 0, "{:?}", changes);
    }

    #[test]
    fn nothing_makes_it_panic(
        configs in prop::collection::vec((odd_configs(), prop::option::of(odd_numbers())), 1..3),
        start in any::<u32>(),
        steps in prop::collection::vec((any::<u64>(), any::<bool>(), odd_loads(), any::<u32>()), 1..30),
    ) {
        let mut autoscaler = Autoscaler::new(&configs[0].0, configs[0].1);
        autoscaler.set_target(start);
        for (config, capacity) in &configs {
            let direction = capacity.map(|_| CapacityDirection::Up);
            autoscaler.configure(config, *capacity, direction);
            let bounds = Bounds::new(config, *capacity, direction);
            for (time, is_large, load, wanted) in &steps {
                let now = if *is_large {
                    Duration::from_secs(*time)
                } else {
                    Duration::from_millis(*time % 100_000)
                };
                let decision = autoscaler.decide(config, bounds, *load, now);
                prop_assert_eq!(bounds.clamp(decision.target), decision.target);
                prop_assert!(decision.deadline.is_none_or(|at| at > now));
                let decision = autoscaler.decide_for(config, bounds, *wanted, *load, now);
                prop_assert_eq!(bounds.clamp(decision.target), decision.target);
            }
        }
    }
}
