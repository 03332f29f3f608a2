use super::*;
use tyndall_types::protocol::EngineLoad;

#[test]
fn ongoing_requests_by_ray_s_examples() {
    let plain = config();
    assert_eq!(asked(&plain, 2, load(10, 2)), 5);
    assert_eq!(asked(&plain, 5, load(1, 5)), 1);
    let half = AutoscalingConfig { downscaling_factor: 0.5, ..config() };
    assert_eq!(asked(&half, 10, load(10, 10)), 8);
    // The stuck case.
    let slow = AutoscalingConfig { downscaling_factor: 0.1, ..config() };
    assert_eq!(asked(&slow, 2, load(2, 2)), 1);
    let up = AutoscalingConfig { upscaling_factor: 0.5, ..config() };
    assert_eq!(asked(&up, 2, load(20, 2)), 6);
    // The factor counts from what runs; delays compare with the target.
    assert_eq!(asked(&up, 6, load(20, 3)), 7);
    let eager = AutoscalingConfig { upscaling_factor: 10.0, ..config() };
    assert_eq!(asked(&eager, 1, load(4, 1)), 11);
    assert_eq!(asked(&eager, 0, load(1, 0)), 10);
    assert_eq!(run(&plain, 5, &[(0.0, 1)]), [(60.0, 1)]);
    assert_eq!(run(&half, 10, &[(0.0, 10)]), [(60.0, 8), (120.0, 7), (180.0, 6), (240.0, 5)]);
}

#[test]
fn queued_requests_are_ongoing_ones_to_ray_s_policy() {
    assert_eq!(asked(&config(), 2, Load { num_queued: 6, ..load(4, 2) }), 5);
}

#[test]
fn queue_length() {
    let config = AutoscalingConfig {
        target_ongoing_requests: 4.0,
        policy: ScalingPolicy::QueueLength { target_queued_requests: 10.0 },
        ..config()
    };
    for (num_queued, num_ongoing, expected) in
        [(0, 0, 0), (1, 0, 1), (0, 1, 1), (0, 8, 2), (5, 8, 3), (10, 8, 3), (11, 8, 4), (95, 8, 12)]
    {
        let load = Load { num_queued, ..load(num_ongoing, 2) };
        assert_eq!(asked(&config, 2, load), expected, "{load:?}");
    }
}

#[test]
fn tokens_and_cache() {
    let config = AutoscalingConfig {
        policy: ScalingPolicy::Tokens { target_tokens: 1000.0, max_kv_use: 0.8 },
        ..config()
    };
    for (running_tokens, waiting_tokens, kv_use, expected) in [
        (0, 0, 0.0, 1),
        (900, 100, 0.1, 1),
        (900, 101, 0.1, 2),
        (100, 5000, 0.1, 6),
        (100, 0, 0.8, 3),
        (100, 0, 0.9, 4),
        (100, 0, 7.0, 4),
        (100, 0, 0.5, 2),
        (100, 0, f64::NAN, 1),
        (u64::MAX, u64::MAX, f64::INFINITY, u32::MAX),
    ] {
        let engine = Some(EngineLoad { running_tokens, waiting_tokens, kv_use, ttft_s: None });
        let load = Load { engine, ..load(3, 3) };
        assert_eq!(asked(&config, 3, load), expected, "{load:?}");
    }
    // An engine that says nothing changes nothing; where there is no request, what it said is old.
    assert_eq!(asked(&config, 7, load(3, 3)), 7);
    assert_eq!(asked(&config, 7, load(0, 3)), 0);
    let engine = Some(EngineLoad { running_tokens: 9000, kv_use: 0.9, ..EngineLoad::default() });
    assert_eq!(asked(&config, 3, Load { engine, ..load(0, 3) }), 0);
}

#[test]
fn time_to_first_token() {
    let config = AutoscalingConfig {
        policy: ScalingPolicy::TimeToFirstToken { target_s: 2.0, idle_threshold: 1.0 },
        ..config()
    };
    // Target, running, ongoing, seconds, expected.
    for (target, running, ongoing, ttft_s, expected) in [
        (3, 3, 9, Some(2.5), 4),
        (3, 3, 9, Some(2.0), 3),
        (3, 3, 9, Some(1.0), 3),
        (3, 3, 3, Some(1.0), 3),
        (3, 3, 2, Some(1.0), 2),
        (3, 3, 2, Some(2.0), 3),
        // No data.
        (3, 3, 2, None, 3),
        (3, 3, 9, Some(f64::NAN), 3),
        // What was decided is not there yet, or not gone yet.
        (4, 3, 9, Some(2.5), 4),
        (2, 3, 9, Some(2.5), 2),
        (4, 3, 2, Some(1.0), 2),
        (2, 3, 2, Some(1.0), 2),
        // Nobody asks, so an old time says nothing.
        (3, 3, 0, Some(9.0), 2),
        (3, 3, 0, None, 2),
    ] {
        let engine = Some(EngineLoad { ttft_s, ..EngineLoad::default() });
        let load = Load { engine, ..load(ongoing, running) };
        assert_eq!(asked(&config, target, load), expected, "{target} {load:?}");
    }
    assert_eq!(asked(&config, 3, load(9, 3)), 3);
    let engine = Some(EngineLoad { ttft_s: Some(3.0), ..EngineLoad::default() });
    let slow = |running| Load { engine, ..load(9, running) };
    let three = AutoscalingConfig { max_replicas: 3, ..config.clone() };
    assert_eq!(run_with(&three, 0, &[(0.0, &slow)]), [(0.0, 1), (3.0, 2), (6.0, 3)]);
    // Nobody asks: one by one, then the rest when it is time.
    assert_eq!(
        run(&config, 8, &[(0.0, 0)]),
        [(60.0, 7), (120.0, 6), (180.0, 5), (240.0, 4), (300.0, 0)]
    );
}

#[test]
fn odd_targets_ask_for_nothing_more() {
    for target_ongoing_requests in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = AutoscalingConfig { target_ongoing_requests, ..config() };
        assert_eq!(asked(&config, 3, load(50, 3)), 1);
        assert_eq!(asked(&config, 3, load(0, 3)), 0);
    }
    let exact = AutoscalingConfig { target_ongoing_requests: 0.1, ..config() };
    assert_eq!(asked(&exact, 1, load(3, 1)), 30);
    let tiny = AutoscalingConfig { target_ongoing_requests: 1e-9, ..config() };
    assert_eq!(asked(&tiny, 1, load(u32::MAX, 1)), u32::MAX);
    let huge = AutoscalingConfig { target_ongoing_requests: 1e9, ..config() };
    assert_eq!(asked(&huge, 1, load(1, 1)), 1);
    for factor in [0.0, -2.0, f64::NAN] {
        let config =
            AutoscalingConfig { upscaling_factor: factor, downscaling_factor: factor, ..config() };
        assert_eq!((asked(&config, 2, load(10, 2)), asked(&config, 9, load(10, 9))), (5, 5));
    }
    let all = AutoscalingConfig {
        upscaling_factor: f64::INFINITY,
        downscaling_factor: f64::INFINITY,
        ..config()
    };
    assert_eq!(asked(&all, 5, load(10, 5)), 5);
    assert_eq!(asked(&all, 5, load(11, 5)), u32::MAX);
    assert_eq!(asked(&all, 5, load(1, 5)), 1);
}
