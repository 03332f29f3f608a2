use super::*;
use crate::window::Window;
use proptest::prelude::*;
use tyndall_types::protocol::Aggregation;

const L: Duration = Duration::from_secs(30);

fn window(points: &[(f64, f64)]) -> Window {
    let mut window = Window::default();
    for &(time, value) in points {
        window.record(value, L, at(time));
    }
    window
}

fn values(window: &Window, now: f64) -> [f64; 3] {
    [Aggregation::Mean, Aggregation::Max, Aggregation::Min].map(|one| window.value(one, L, at(now)))
}

#[test]
fn ray_s_worked_example() {
    // The merged series of Ray's example; its window opens at 0.3.
    let window =
        window(&[(0.3, 10.0), (0.8, 12.0), (0.9, 13.0), (1.0, 14.0), (1.4, 18.0), (1.5, 17.0)]);
    let [mean, max, min] = values(&window, 2.0);
    assert!((mean - 23.4 / 1.7).abs() < 1e-9, "{mean}");
    assert_eq!((max, min), (18.0, 10.0));
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let mut window = window(&[(0.0, 4.0), (10.0, 8.0)]);
    assert_eq!(values(&window, 10.0), [4.0, 8.0, 4.0]);
    assert_eq!(values(&window, 20.0), [6.0, 8.0, 4.0]);
    // [5, 35]: five seconds of 4 and 25 of 8.
    let [mean, _, _] = values(&window, 35.0);
    assert!((mean - 22.0 / 3.0).abs() < 1e-9, "{mean}");
    window.record(8.0, L, at(40.0));
    assert_eq!(values(&window, 40.0), [8.0; 3]);
    assert_eq!(window.num_segments(), 0);
}

#[test]
fn load_after_a_window_without_any_is_not_taken_for_less() {
    // Made at 0; the first request at 5.
    assert_eq!(values(&window(&[(0.0, 0.0), (5.0, 6.0)]), 6.0), [6.0; 3]);
    // Idle for 31 s.
    assert_eq!(values(&window(&[(0.0, 6.0), (1.0, 0.0), (32.0, 6.0)]), 33.0), [6.0; 3]);
    // Idle for 20 s counts.
    let paused = window(&[(0.0, 6.0), (5.0, 0.0), (25.0, 6.0)]);
    assert_eq!(values(&paused, 30.0), [2.0, 6.0, 0.0]);
}

#[test]
fn what_was_in_force_for_no_time_leaves_no_trace() {
    let window = window(&[(0.0, 3.0), (1.0, 9.0), (1.0, 0.0), (1.0, 3.0)]);
    assert_eq!(window.num_segments(), 0);
    assert_eq!(values(&window, 5.0), [3.0; 3]);
    assert_eq!(window.changes_at(Aggregation::Mean, L, at(5.0)), None);
}

#[test]
fn it_says_when_it_changes() {
    let window = window(&[(0.0, 9.0), (4.0, 2.0), (8.0, 5.0)]);
    let changes = |aggregation, now| window.changes_at(aggregation, L, at(now));
    let step = L / 32;
    assert_eq!(changes(Aggregation::Mean, 10.0), Some(at(10.0) + step));
    assert_eq!(changes(Aggregation::Mean, 37.9), Some(at(38.0)));
    assert_eq!(changes(Aggregation::Max, 10.0), Some(at(34.0)));
    assert_eq!(changes(Aggregation::Min, 10.0), Some(at(38.0)));
    assert_eq!(Window::default().changes_at(Aggregation::Mean, L, at(0.0)), None);
    let short = Duration::from_millis(320);
    let mut quick = Window::default();
    quick.record(1.0, short, at(0.0));
    quick.record(2.0, short, at(0.1));
    let soon = quick.changes_at(Aggregation::Mean, short, at(0.2));
    assert_eq!(soon, Some(at(0.25)), "not more often than every 50 ms");
}

#[test]
fn a_mean_that_falls_is_followed_without_events() {
    let config = AutoscalingConfig {
        look_back_period_s: 30.0,
        upscale_delay_s: 0.0,
        downscale_delay_s: 0.0,
        ..config()
    };
    let changes = run(&config, 0, &[(0.0, 20), (100.0, 4)]);
    assert_eq!(changes.first(), Some(&(0.0, 1)));
    assert_eq!(changes[1], (0.0, 10));
    // The last step is exactly when the window has nothing else.
    assert_eq!(changes.last(), Some(&(130.0, 2)));
    assert!(changes.windows(2).all(|two| two[1].1 + 1 == two[0].1 || two[0].1 < 10));
    // 16 requests of difference take 30 s, so 2 of them 3.75 s.
    assert!((changes[2].0 - 103.75).abs() < 1.0 && (changes[3].0 - 107.5).abs() < 1.0);

    let max = AutoscalingConfig { aggregation_function: Aggregation::Max, ..config.clone() };
    assert_eq!(run(&max, 10, &[(0.0, 20), (100.0, 4)]), [(130.0, 2)]);
    let min = AutoscalingConfig { aggregation_function: Aggregation::Min, ..config };
    assert_eq!(run(&min, 2, &[(0.0, 4), (100.0, 20)]), [(130.0, 10)]);
}

#[test]
fn what_is_left_in_the_window_wakes_nobody() {
    let config = AutoscalingConfig {
        look_back_period_s: 30.0,
        downscale_to_zero_delay_s: 2.0,
        upscale_delay_s: 0.0,
        ..config()
    };
    assert_eq!(run(&config, 1, &[(0.0, 1), (10.0, 0)]), [(12.0, 0)]);
    let mut autoscaler = Autoscaler::at(1);
    let bounds = bounds(&config);
    autoscaler.decide(&config, bounds, load(9, 1), at(0.0));
    autoscaler.decide(&config, bounds, load(0, 1), at(10.0));
    // The replica that stops is still counted.
    for running in [1, 0] {
        let gone = autoscaler.decide(&config, bounds, load(0, running), at(12.0));
        assert_eq!((gone.target, gone.deadline), (0, None));
    }
}

proptest! {
    /// Against a window that keeps every point.
    #[test]
    fn it_agrees_with_the_whole_course(
        steps in prop::collection::vec((0u64..3000, 0u32..6), 1..400),
    ) {
        let mut window = Window::default();
        let mut course: Vec<(Duration, f64)> = Vec::new();
        let mut now = Duration::ZERO;
        for (wait_ms, value) in steps {
            now += Duration::from_millis(wait_ms);
            let value = f64::from(value);
            // Never a whole window of zeros here, but at the start; what was in force for no time is none.
            if value == 0.0 && !course.iter().any(|(since, _)| *since < now) {
                continue;
            }
            window.record(value, L, now);
            course.push((now, value));
            let (mean, max, min) = naive(&course, now.saturating_sub(L));
            let [is_mean, is_max, is_min] = [Aggregation::Mean, Aggregation::Max, Aggregation::Min]
                .map(|one| window.value(one, L, now));
            // Segments of up to 1/256 of the window were merged.
            prop_assert!((is_mean - mean).abs() <= 5.0 / 256.0 + 1e-6, "{is_mean} is not {mean}");
            prop_assert!(is_max >= max && is_min <= min);
            let changes = window.changes_at(Aggregation::Mean, L, now);
            prop_assert!(changes.is_none_or(|at| at > now && at <= now + L));
            prop_assert_eq!(changes.is_none(), window.num_segments() == 0);
        }
    }

    #[test]
    fn its_memory_is_bounded(waits_us in prop::collection::vec(0u64..2000, 1..50)) {
        let mut window = Window::default();
        let mut now = Duration::ZERO;
        for i in 0..20_000_usize {
            now += Duration::from_micros(waits_us[i % waits_us.len()] + 1000);
            window.record((i % 7) as f64 + 1.0, Duration::from_secs(2), now);
            prop_assert!(window.num_segments() <= 515);
        }
        let mean = window.value(Aggregation::Mean, Duration::from_secs(2), now);
        prop_assert!((1.0..=7.0).contains(&mean));
    }
}

/// Mean, largest and smallest of a course from `start` to its last point.
fn naive(course: &[(Duration, f64)], start: Duration) -> (f64, f64, f64) {
    let (end, current) = course[course.len() - 1];
    let (mut integral, mut max, mut min) = (0.0, current, current);
    let start = start.max(course[0].0);
    for two in course.windows(2) {
        let (from, to, value) = (two[0].0.max(start), two[1].0, two[0].1);
        if to > from {
            integral += value * (to - from).as_secs_f64();
            max = max.max(value);
            min = min.min(value);
        }
    }
    (if end > start { integral / (end - start).as_secs_f64() } else { current }, max, min)
}
