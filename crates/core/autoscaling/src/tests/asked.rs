//! A policy outside, and what is made of its word.

use super::*;

/// The target after each look, `(time, asked, requests, running)`.
fn targets(config: &AutoscalingConfig, start: u32, looks: &[(f64, f64, u32, u32)]) -> Vec<u32> {
    let mut autoscaler = Autoscaler::at(start);
    let look = |&(time, asked, requests, running): &(f64, f64, u32, u32)| {
        let load = load(requests, running);
        autoscaler.decide_asked(config, bounds(config), Some(asked), load, at(time)).target
    };
    looks.iter().map(look).collect()
}

#[test]
fn delays_and_bounds_are_laid_over_it() {
    let config = config();
    // Up after 3 s, down after 60 s, and to zero from one replica alone, after 300 s more.
    let looks = [(0.0, 5.0, 0, 1), (2.9, 5.0, 0, 1), (3.0, 5.0, 0, 1), (4.0, 0.0, 0, 5)];
    assert_eq!(targets(&config, 1, &looks), [1, 1, 5, 5]);
    let looks = [
        (0.0, 0.0, 0, 5),
        (60.0, 0.0, 0, 5),
        (60.1, 0.0, 0, 1),
        (360.0, 0.0, 0, 1),
        (360.1, 0.0, 0, 1),
    ];
    assert_eq!(targets(&config, 5, &looks), [5, 1, 1, 1, 0]);
    assert_eq!(targets(&config, 1, &[(0.0, 99.0, 0, 1), (3.0, 99.0, 0, 1)]), [1, 10]);
    // Another direction begins the delay anew.
    let looks =
        [(0.0, 3.0, 0, 2), (2.0, 1.0, 0, 2), (3.0, 3.0, 0, 2), (5.9, 3.0, 0, 2), (6.0, 3.0, 0, 2)];
    assert_eq!(targets(&config, 2, &looks), [2, 2, 2, 2, 3]);
    // Parts of a replica are whole ones, and factors take a part of the way.
    assert_eq!(targets(&config, 1, &[(0.0, 2.2, 0, 1), (3.0, 2.2, 0, 1)]), [1, 3]);
    let half = AutoscalingConfig { upscaling_factor: 0.5, ..config };
    assert_eq!(targets(&half, 2, &[(0.0, 8.0, 0, 2), (3.0, 8.0, 0, 2)]), [2, 5]);
}

#[test]
fn nothing_is_waited_for_where_no_replica_runs() {
    let config = config();
    // It may ask for replicas that nobody asks for, as for the morning.
    assert_eq!(targets(&config, 0, &[(0.0, 4.0, 0, 0), (0.0, 3.0, 0, 0)]), [4, 3]);
    assert_eq!(targets(&config, 0, &[(0.0, 0.0, 0, 0)]), [0]);
    // The first request has its replica whatever it says, and keeps it.
    assert_eq!(
        targets(&config, 0, &[(0.0, 0.0, 1, 0), (1.0, 0.0, 1, 1), (999.0, 0.0, 1, 1)]),
        [1; 3]
    );
    // Without a word of it the target stays, and nobody goes for being idle.
    let mut silent = Autoscaler::at(2);
    for now in [0.0, 1e5] {
        let decision = silent.decide_asked(&config, bounds(&config), None, load(0, 2), at(now));
        assert_eq!((decision.target, decision.deadline), (2, None));
    }
}

#[test]
fn it_is_told_of_the_load_over_the_window() {
    let config = AutoscalingConfig { look_back_period_s: 10.0, ..config() };
    let mut autoscaler = Autoscaler::at(1);
    let queue = |num_queued| Load { num_queued, num_ongoing: 2, num_running: 1, engine: None };
    assert_eq!(autoscaler.observed(&config, queue(4), at(0.0)), (6.0, 4.0));
    assert_eq!(autoscaler.observed(&config, queue(0), at(5.0)), (6.0, 4.0));
    assert_eq!(autoscaler.observed(&config, queue(0), at(10.0)), (4.0, 2.0));
    assert_eq!(autoscaler.observed(&config, queue(0), at(20.0)), (2.0, 0.0));
    let most = AutoscalingConfig {
        aggregation_function: tyndall_types::protocol::Aggregation::Max,
        ..config
    };
    autoscaler.configure(&most, None, None);
    autoscaler.observed(&most, queue(9), at(20.0));
    assert_eq!(autoscaler.observed(&most, queue(0), at(25.0)), (11.0, 9.0));
}
