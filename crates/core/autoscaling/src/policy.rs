//! How many replicas a load asks for, before delays and bounds.
//!
//! Configuration is checked elsewhere; here a target that is not a number above zero asks for
//! nothing, and such a factor is 1.

use crate::Load;
use tyndall_types::protocol::{AutoscalingConfig, EngineLoad, ScalingPolicy};

/// What a policy asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wish {
    /// What the target is.
    Hold,
    /// This many; factors apply.
    Replicas(f64),
}

/// What the policy of a deployment with `target` replicas asks for. `num_requests` is the load over
/// the window. At least one replica runs.
pub(crate) fn wish(
    config: &AutoscalingConfig,
    load: &Load,
    num_requests: f64,
    target: u32,
) -> Wish {
    let per_replica = config.target_ongoing_requests;
    match config.policy {
        ScalingPolicy::OngoingRequests => Wish::Replicas(ratio(num_requests, per_replica)),
        // Those that are busy, and enough for those that wait. Both are counted whatever the number
        // of replicas, so the answer does not move because it was followed. Where all requests
        // have found a replica it is `OngoingRequests`: replicas that came for a queue stay as
        // long as they have work, provided that `target_ongoing_requests` is not above
        // `max_ongoing_requests`.
        ScalingPolicy::QueueLength { target_queued_requests } => Wish::Replicas(
            ratio(f64::from(load.num_ongoing), per_replica)
                + ratio(f64::from(load.num_queued), target_queued_requests),
        ),
        ScalingPolicy::Tokens { target_tokens, max_kv_use } => match load.engine {
            // What engines said before the last request ended no longer holds.
            _ if load.num_requests() == 0 => Wish::Replicas(0.0),
            Some(engine) => Wish::Replicas(tokens(&engine, load, target_tokens, max_kv_use)),
            None => Wish::Hold,
        },
        ScalingPolicy::TimeToFirstToken { target_s, idle_threshold } => {
            time_to_first_token(load, target_s, idle_threshold, target)
        }
    }
}

/// Enough for the tokens, and for the part of the caches that they fill.
fn tokens(engine: &EngineLoad, load: &Load, target_tokens: f64, max_kv_use: f64) -> f64 {
    let num_tokens = engine.running_tokens as f64 + engine.waiting_tokens as f64;
    let filled = f64::from(load.num_running) * engine.kv_use.clamp(0.0, 1.0);
    ratio(num_tokens, target_tokens).max(ratio(filled, max_kv_use))
}

/// One more above `target_s`; one fewer below it, where replicas have little to do.
///
/// Steps are taken one after the other: what is decided must be there before the next, because the
/// time to the first token does not tell of replicas that are still starting. Those are not needed,
/// though, where fewer than run would do. With no request at all there is nothing to wait for, and
/// one fewer whatever the last time was.
fn time_to_first_token(load: &Load, target_s: f64, idle_threshold: f64, target: u32) -> Wish {
    let running = load.num_running;
    let ttft_s = load.engine.and_then(|engine| engine.ttft_s);
    let is_idle = load.num_requests() == 0;
    if !is_idle && ttft_s.is_some_and(|ttft_s| ttft_s > target_s) {
        return if running == target {
            Wish::Replicas(f64::from(running) + 1.0)
        } else {
            Wish::Hold
        };
    }
    let has_little = f64::from(load.num_ongoing) / f64::from(running.max(1)) < idle_threshold;
    let is_below = ttft_s.is_some_and(|ttft_s| ttft_s < target_s);
    if is_idle || (is_below && has_little) {
        return if running <= target {
            Wish::Replicas(f64::from(running) - 1.0)
        } else {
            Wish::Hold
        };
    }
    Wish::Hold
}

/// The way from `running` replicas to `desired`, by the factors; from none there is no way to scale.
pub(crate) fn scaled(config: &AutoscalingConfig, running: u32, desired: f64) -> u32 {
    if running == 0 {
        return ceil(desired);
    }
    let now = f64::from(running);
    // Also keeps an infinite factor from making nothing of nothing.
    if desired == now {
        return running;
    }
    let by = if desired > now { config.upscaling_factor } else { config.downscaling_factor };
    let scaled = ceil(now + factor(by) * (desired - now));
    // A small factor would never get there.
    if ceil(desired) < running && scaled == running { scaled.saturating_sub(1) } else { scaled }
}

/// Replicas for the first request.
pub(crate) fn first_replicas(config: &AutoscalingConfig) -> u32 {
    ceil(factor(config.upscaling_factor)).max(1)
}

fn factor(factor: f64) -> f64 {
    if factor > 0.0 { factor } else { 1.0 }
}

fn ratio(amount: f64, per_replica: f64) -> f64 {
    if amount > 0.0 && per_replica > 0.0 && amount.is_finite() { amount / per_replica } else { 0.0 }
}

/// Rounds up, forgiving the rounding of what was calculated before.
fn ceil(replicas: f64) -> u32 {
    // Saturates: casts from float to integer never wrap.
    (replicas - 1e-9).ceil().max(0.0) as u32
}
