use super::*;
use tyndall_types::protocol::{AutoscalingConfig, ScalingPolicy};

mod asked;
mod delays;
mod policies;
mod properties;
mod shares;
mod windows;

fn config() -> AutoscalingConfig {
    AutoscalingConfig {
        min_replicas: 0,
        initial_replicas: None,
        max_replicas: 10,
        target_ongoing_requests: 2.0,
        look_back_period_s: 0.0,
        aggregation_function: Default::default(),
        upscale_delay_s: 3.0,
        downscale_delay_s: 60.0,
        downscale_to_zero_delay_s: 300.0,
        upscaling_factor: 1.0,
        downscaling_factor: 1.0,
        policy: ScalingPolicy::OngoingRequests,
        python_policy: None,
    }
}

fn bounds(config: &AutoscalingConfig) -> Bounds {
    Bounds::new(config, None, None)
}

fn load(num_ongoing: u32, num_running: u32) -> Load {
    Load { num_ongoing, num_running, ..Load::default() }
}

fn at(s: f64) -> Instant {
    seconds(s)
}

/// What one load makes of `target` replicas that all run, without delays.
fn asked(config: &AutoscalingConfig, target: u32, load: Load) -> u32 {
    Autoscaler::at(target).wanted(config, load, at(0.0))
}

/// Changes of the target, `(time, target)`, where replicas come and go at once. `loads` are times
/// and what the load is from then on, by the number of replicas.
fn run_with(
    config: &AutoscalingConfig,
    start: u32,
    loads: &[(f64, &dyn Fn(u32) -> Load)],
) -> Vec<(f64, u32)> {
    let mut autoscaler = Autoscaler::at(start);
    let mut changes = Vec::new();
    for (i, (time, load)) in loads.iter().enumerate() {
        let mut now = at(*time);
        let until = loads.get(i + 1).map_or(at(1e7), |&(next, _)| at(next));
        for round in 0.. {
            assert!(round < 5000, "never steady: {:?}", &changes[changes.len().min(20)..]);
            let before = autoscaler.target();
            let decision = autoscaler.decide(config, bounds(config), load(before), now);
            assert_eq!(decision.target, autoscaler.target());
            assert!(decision.deadline.is_none_or(|deadline| deadline > now));
            if decision.target != before {
                // That replicas came or went is an event of its own.
                changes.push((now.as_secs_f64(), decision.target));
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

/// [`run_with`] of ongoing requests.
fn run(config: &AutoscalingConfig, start: u32, loads: &[(f64, u32)]) -> Vec<(f64, u32)> {
    let loads: Vec<_> =
        loads.iter().map(|&(time, n)| (time, move |running| load(n, running))).collect();
    let loads: Vec<_> = loads.iter().map(|(time, f)| (*time, f as &dyn Fn(u32) -> Load)).collect();
    run_with(config, start, &loads)
}
