use super::*;

#[test]
fn a_life_from_zero_to_zero() {
    // One request wakes one at once; ten more must last; then fewer; then none.
    let changes = run(&config(), 0, &[(5.0, 1), (6.0, 10), (20.0, 3), (100.0, 0)]);
    assert_eq!(changes, [(5.0, 1), (9.0, 5), (80.0, 2), (160.0, 1), (400.0, 0)]);
}

#[test]
fn the_way_to_zero_is_one_delay_from_any_target() {
    let quick = AutoscalingConfig { downscale_to_zero_delay_s: 30.0, ..config() };
    assert_eq!(run(&quick, 7, &[(0.0, 14), (10.0, 0)]), [(40.0, 0)]);
    // Ray's order of steps where downscale comes first.
    assert_eq!(run(&config(), 7, &[(0.0, 14), (10.0, 0)]), [(70.0, 1), (310.0, 0)]);
    let never = AutoscalingConfig { min_replicas: 1, ..config() };
    assert_eq!(run(&never, 7, &[(0.0, 14), (10.0, 0)]), [(70.0, 1)]);
}

#[test]
fn a_break_starts_the_delay_again() {
    // Neutral.
    let changes = run(&config(), 1, &[(0.0, 6), (2.0, 2), (2.5, 6), (5.0, 6), (5.5, 6)]);
    assert_eq!(changes, [(5.5, 3)]);
    // Opposite.
    let flips = run(&config(), 3, &[(0.0, 8), (2.0, 1), (3.0, 8), (5.0, 1), (6.0, 6)]);
    assert_eq!(flips, []);
    // Half the delay, the opposite, then all of the delay again.
    let half = run(&config(), 3, &[(0.0, 8), (1.5, 1), (2.0, 8)]);
    assert_eq!(half, [(5.0, 4)]);
}

#[test]
fn the_delay_is_since_the_first_decision_and_its_last_number_counts() {
    let changes = run(&config(), 1, &[(0.0, 4), (1.0, 20), (2.0, 8)]);
    assert_eq!(changes, [(3.0, 4)]);
}

#[test]
fn a_microsecond_is_forgiven() {
    let mut autoscaler = Autoscaler::at(1);
    let bounds = bounds(&config());
    let first = autoscaler.decide(&config(), bounds, load(8, 1), at(1.0));
    let waiting = Reason::Waiting { direction: Direction::Up, wanted: 4 };
    assert_eq!((first.target, first.deadline, first.reason), (1, Some(at(4.0)), waiting));
    assert_eq!(autoscaler.decide(&config(), bounds, load(8, 1), at(3.999_998)).target, 1);
    let second = autoscaler.decide(&config(), bounds, load(8, 1), at(3.999_999));
    assert_eq!((second.target, second.deadline, second.reason), (4, None, Reason::MoreLoad));
    assert_eq!(autoscaler.last_scale_up(), Some(at(3.999_999)));
    assert_eq!(autoscaler.last_scale_down(), None);
}

#[test]
fn a_burst_at_zero_wakes_one_and_more_follow_when_it_runs() {
    let mut autoscaler = Autoscaler::at(0);
    let bounds = bounds(&config());
    for now in [1.0, 50.0] {
        let decision = autoscaler.decide(&config(), bounds, load(100, 0), at(now));
        let expected = Decision { target: 1, deadline: None, reason: Reason::FirstRequest };
        assert_eq!(decision, expected);
    }
    let more = autoscaler.decide(&config(), bounds, load(100, 1), at(51.0));
    assert_eq!((more.target, more.deadline), (1, Some(at(54.0))));
    assert_eq!(autoscaler.decide(&config(), bounds, load(100, 1), at(54.0)).target, 10);
}

#[test]
fn from_zero_the_factor_says_how_many() {
    for (factor, max_replicas, expected) in
        [(10.0, 100, 10), (10.0, 4, 4), (1.5, 10, 2), (0.3, 10, 1), (f64::NAN, 10, 1)]
    {
        let config = AutoscalingConfig { upscaling_factor: factor, max_replicas, ..config() };
        let mut autoscaler = Autoscaler::at(0);
        let decision = autoscaler.decide(&config, bounds(&config), load(1, 0), at(0.0));
        assert_eq!(decision.target, expected, "factor {factor}");
    }
    // What was started is not stopped before it is there.
    let mut autoscaler = Autoscaler::at(6);
    assert_eq!(autoscaler.decide(&config(), bounds(&config()), load(1, 0), at(0.0)).target, 6);
}

#[test]
fn a_request_wakes_also_while_the_last_replica_stops() {
    let mut autoscaler = Autoscaler::at(0);
    assert_eq!(autoscaler.decide(&config(), bounds(&config()), load(1, 1), at(0.0)).target, 1);
}

#[test]
fn bounds_hold_at_once() {
    let narrow = AutoscalingConfig { min_replicas: 2, max_replicas: 3, ..config() };
    for (before, expected, reason) in
        [(0, 2, Reason::Bounds), (9, 3, Reason::Bounds), (2, 2, Reason::Steady)]
    {
        let mut autoscaler = Autoscaler::at(before);
        let load = load(2 * expected, 2);
        let decision = autoscaler.decide(&narrow, bounds(&narrow), load, at(0.0));
        assert_eq!((decision.target, decision.reason), (expected, reason));
        // It was not within bounds, so it is no scale event.
        assert_eq!((autoscaler.last_scale_up(), autoscaler.last_scale_down()), (None, None));
    }
    assert_eq!(run(&narrow, 3, &[(0.0, 0)]), [(60.0, 2)]);
    // At the bound nothing is waited for.
    let mut full = Autoscaler::at(3);
    let decision = full.decide(&narrow, bounds(&narrow), load(50, 3), at(0.0));
    assert_eq!(decision, Decision { target: 3, deadline: None, reason: Reason::Bounds });
    let eager = AutoscalingConfig { downscale_to_zero_delay_s: 0.0, ..config() };
    assert_eq!(run(&eager, 4, &[(1.0, 1), (2.0, 0)]), [(2.0, 0)]);
}

#[test]
fn initial_replicas_apply_to_new_and_changed_configurations() {
    let six = AutoscalingConfig { initial_replicas: Some(6), min_replicas: 2, ..config() };
    assert_eq!(Autoscaler::new(&six, None).target(), 6);
    assert_eq!(Autoscaler::new(&six, Some(50.0)).target(), 3);
    let none = AutoscalingConfig { initial_replicas: None, ..six.clone() };
    assert_eq!(Autoscaler::new(&none, None).target(), 2);
    assert_eq!(Autoscaler::new(&config(), None).target(), 0);

    let mut autoscaler = Autoscaler::at(9);
    autoscaler.configure(&none, None, None);
    assert_eq!(autoscaler.target(), 9);
    autoscaler.configure(&AutoscalingConfig { max_replicas: 5, ..none }, None, None);
    assert_eq!(autoscaler.target(), 5);
    autoscaler.configure(&six, None, None);
    assert_eq!(autoscaler.target(), 6);
}

#[test]
fn changes_from_outside_begin_the_delays_again() {
    let bounds = bounds(&config());
    let mut autoscaler = Autoscaler::at(1);
    autoscaler.decide(&config(), bounds, load(8, 1), at(0.0));
    autoscaler.configure(&config(), None, None);
    assert_eq!(autoscaler.decide(&config(), bounds, load(8, 1), at(2.0)).deadline, Some(at(5.0)));
    autoscaler.set_target(2);
    assert_eq!(autoscaler.decide(&config(), bounds, load(8, 2), at(4.0)).deadline, Some(at(7.0)));
    // An idle deployment that someone scaled stays as long as any other.
    autoscaler.decide(&config(), bounds, load(0, 2), at(10.0));
    autoscaler.set_target(1);
    let idle = autoscaler.decide(&config(), bounds, load(0, 1), at(200.0));
    assert_eq!(idle.deadline, Some(at(500.0)));
    let gone = autoscaler.decide(&config(), bounds, load(0, 1), at(500.0));
    assert_eq!(gone, Decision { target: 0, deadline: None, reason: Reason::Idle });
    assert_eq!(autoscaler.last_scale_down(), Some(at(500.0)));
}

#[test]
fn capacity_in_percent() {
    for (n, percent, expected) in [
        (6, Some(1.0), 1),
        (2, Some(1.0), 1),
        (6, Some(50.0), 3),
        (2, Some(50.0), 1),
        (6, Some(0.0), 0),
        (2, Some(0.0), 0),
        (6, None, 6),
        (2, None, 2),
        (0, Some(50.0), 0),
        (0, None, 0),
        (5, Some(50.0), 3),
        (5, Some(f64::NAN), 5),
        (5, Some(-3.0), 0),
        (5, Some(f64::INFINITY), u32::MAX),
    ] {
        assert_eq!(adjusted(n, percent), expected, "{n} at {percent:?}");
    }
}

#[test]
fn initial_replicas_are_the_floor_while_capacity_rises() {
    let config = AutoscalingConfig { initial_replicas: Some(6), min_replicas: 2, ..config() };
    let lower = |capacity, direction| Bounds::new(&config, capacity, direction).lower;
    assert_eq!(lower(Some(50.0), Some(CapacityDirection::Up)), 3);
    assert_eq!(lower(Some(50.0), Some(CapacityDirection::Down)), 1);
    assert_eq!(lower(Some(50.0), None), 1);
    assert_eq!(lower(None, None), 2);
    let unset = AutoscalingConfig { initial_replicas: None, ..config.clone() };
    let up = Bounds::new(&unset, Some(50.0), Some(CapacityDirection::Up));
    assert_eq!(up, Bounds { lower: 1, upper: 5, gang_size: 1 });
    // Down to 50 %, with the target at once.
    let mut autoscaler = Autoscaler::at(8);
    let half = Bounds::new(&config, Some(50.0), Some(CapacityDirection::Down));
    assert_eq!(autoscaler.decide(&config, half, load(16, 8), at(0.0)).target, 5);
}

#[test]
fn nothing_runs_at_capacity_zero_and_zero_stays_until_traffic() {
    let none = Bounds::new(&config(), Some(0.0), Some(CapacityDirection::Down));
    let mut autoscaler = Autoscaler::at(4);
    let decision = autoscaler.decide(&config(), none, load(9, 4), at(0.0));
    assert_eq!(decision, Decision { target: 0, deadline: None, reason: Reason::Bounds });
    for capacity in [1.0, 50.0, 100.0] {
        let bounds = Bounds::new(&config(), Some(capacity), Some(CapacityDirection::Up));
        let mut autoscaler = Autoscaler::new(&config(), Some(capacity));
        assert_eq!(autoscaler.decide(&config(), bounds, load(0, 0), at(0.0)).target, 0);
        assert_eq!(autoscaler.decide(&config(), bounds, load(1, 0), at(1.0)).target, 1);
    }
}

#[test]
fn numbers_from_outside_wait_and_neither_end_nor_wake() {
    let config = config();
    let bounds = bounds(&config);
    let mut autoscaler = Autoscaler::at(4);
    let mut decide = |wanted, load, now| {
        let decision = autoscaler.decide_for(&config, bounds, wanted, load, at(now));
        (decision.target, decision.deadline)
    };
    assert_eq!(decide(2, load(9, 4), 0.0), (4, Some(at(60.0))));
    assert_eq!(decide(2, load(9, 4), 60.0), (2, None));
    assert_eq!(decide(0, load(9, 2), 61.0), (2, Some(at(121.0))));
    assert_eq!(decide(0, load(9, 2), 121.0), (1, None));
    assert_eq!(decide(0, load(9, 1), 999.0), (1, None));
    assert_eq!(decide(5, load(0, 1), 1000.0), (1, Some(at(1003.0))));
    assert_eq!(decide(5, load(0, 1), 1300.0), (0, None));
    assert_eq!(decide(5, load(0, 0), 1301.0), (0, None));
    assert_eq!(decide(0, load(1, 0), 1302.0), (0, None));
    assert_eq!(decide(2, load(1, 0), 1302.0), (2, None));
    // Less is wanted of what has not started.
    assert_eq!(decide(1, load(0, 0), 1303.0), (1, Some(at(1603.0))));
}

#[test]
fn odd_delays_do_no_harm() {
    assert_eq!(seconds(f64::NAN), Duration::ZERO);
    assert_eq!(seconds(f64::INFINITY), Duration::MAX);
    assert_eq!(seconds(-1.0), Duration::ZERO);
    let never = AutoscalingConfig {
        upscale_delay_s: f64::INFINITY,
        downscale_to_zero_delay_s: f64::INFINITY,
        ..config()
    };
    let mut autoscaler = Autoscaler::at(1);
    let decision = autoscaler.decide(&never, bounds(&never), load(9, 1), at(5.0));
    assert_eq!((decision.target, decision.deadline), (1, None));
    assert_eq!(autoscaler.decide(&never, bounds(&never), load(0, 1), at(9.0)).deadline, None);
    // Time does not go back.
    let mut late = Autoscaler::at(1);
    late.decide(&config(), bounds(&config()), load(0, 1), at(100.0));
    let early = late.decide(&config(), bounds(&config()), load(0, 1), at(50.0));
    assert_eq!(early.deadline, Some(at(400.0)));
}

#[test]
fn reasons_are_words() {
    let up = Reason::Waiting { direction: Direction::Up, wanted: 5 };
    assert_eq!(up.to_string(), "more load: 5 replicas after upscale_delay_s");
    let down = Reason::Waiting { direction: Direction::Down, wanted: 2 };
    assert_eq!(down.to_string(), "less load: 2 replicas after downscale_delay_s");
    let all = [
        Reason::Steady,
        Reason::FirstRequest,
        Reason::MoreLoad,
        Reason::LessLoad,
        Reason::Idle,
        Reason::Bounds,
    ];
    assert!(all.iter().all(|reason| !reason.to_string().is_empty()));
}

#[test]
fn gangs_are_rounded_up_and_the_last_one_goes_as_the_last_replica_does() {
    assert_eq!([0, 1, 4, 5].map(|n| whole_gangs(n, 4)), [0, 4, 4, 8]);
    assert_eq!((whole_gangs(7, 0), whole_gangs(u32::MAX, 4)), (7, u32::MAX - 3));
    let bounds = Bounds { lower: 1, upper: 10, gang_size: 1 }.of_gangs(4);
    assert_eq!(bounds, Bounds { lower: 4, upper: 12, gang_size: 4 });
    assert_eq!([0, 3, 5, 11, 40].map(|n| bounds.clamp(n)), [4, 4, 8, 12, 12]);
    // A policy outside that asks for less than a gang has all of it, and 0 takes the longer delay.
    let config = AutoscalingConfig {
        min_replicas: 0,
        max_replicas: 8,
        upscale_delay_s: 0.0,
        downscale_delay_s: 10.0,
        downscale_to_zero_delay_s: 50.0,
        ..config()
    };
    let bounds = Bounds::new(&config, None, None).of_gangs(4);
    let load = Load { num_running: 8, ..Load::default() };
    let mut scaler = Autoscaler::at(8);
    let mut asked = |number, s: f64| {
        scaler.decide_asked(&config, bounds, Some(number), load, seconds(s)).target
    };
    assert_eq!((asked(0.0, 0.0), asked(0.0, 10.0)), (8, 4), "not to zero at once");
    assert_eq!([11.0, 60.0, 61.0].map(|s| asked(0.0, s)), [4, 4, 0]);
    assert_eq!(asked(1.0, 62.0), 4);
}
