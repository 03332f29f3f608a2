//! What an autoscaler remembers of a deployment, and what it decides.

use crate::policy::{self, Wish};
use crate::seconds;
use crate::window::Window;
use crate::{Bounds, CapacityDirection, Decision, Direction, Instant, Load, Reason, adjusted};
use std::cmp::Ordering;
use std::time::Duration;
use tyndall_types::protocol::{AutoscalingConfig, ScalingPolicy};

/// A delay that has so much left has passed, as in Ray.
const TOLERANCE: Duration = Duration::from_micros(1);

/// Memory of one deployment's autoscaler.
///
/// Life: made with the deployment or [at](Autoscaler::at) what is found; told of a changed
/// configuration; asked to decide at each change of load and at each deadline.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoscaler {
    target: u32,
    /// The way that the load has asked for, and since when without a break.
    pending: Option<(Direction, Instant)>,
    /// Since when there is no request.
    idle_since: Option<Instant>,
    /// Requests over `look_back_period_s`; empty where nobody looks back.
    window: Window,
    /// What a policy in Python is told of the load, once it was asked for.
    observed: Option<Box<Observed>>,
    last_scale_up: Option<Instant>,
    last_scale_down: Option<Instant>,
    /// The latest time it was told; an earlier one counts as this.
    latest: Instant,
}

/// Requests over `look_back_period_s`.
#[derive(Debug, Clone, PartialEq, Default)]
struct Observed {
    total: Window,
    queued: Window,
}

impl Autoscaler {
    /// That of a new deployment: `initial_replicas`, or the fewest.
    #[must_use]
    pub fn new(config: &AutoscalingConfig, target_capacity: Option<f64>) -> Self {
        let initial = config.initial_replicas.unwrap_or(config.min_replicas);
        let bounds = Bounds::new(config, target_capacity, None);
        Self::at(bounds.clamp(adjusted(initial, target_capacity)))
    }

    /// That of a deployment with `target` replicas and no history.
    #[must_use]
    pub fn at(target: u32) -> Self {
        Self {
            target,
            pending: None,
            idle_since: None,
            window: Window::default(),
            observed: None,
            last_scale_up: None,
            last_scale_down: None,
            latest: Instant::ZERO,
        }
    }

    /// Replicas that the deployment should have.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.target
    }

    /// When it last decided for more.
    #[must_use]
    pub fn last_scale_up(&self) -> Option<Instant> {
        self.last_scale_up
    }

    /// When it last decided for fewer.
    #[must_use]
    pub fn last_scale_down(&self) -> Option<Instant> {
        self.last_scale_down
    }

    /// Someone else decided. All delays begin again, that to zero too, so that it is not undone by
    /// what was before it.
    pub fn set_target(&mut self, target: u32) {
        self.target = target;
        self.pending = None;
        self.idle_since = None;
    }

    /// The configuration changed: what was seen under the old one is forgotten and delays begin
    /// again. `initial_replicas` applies where it is set; else the target stays. Bounds hold.
    ///
    /// Not to be called where the configuration is the same: the target would go back.
    pub fn configure(
        &mut self,
        config: &AutoscalingConfig,
        target_capacity: Option<f64>,
        direction: Option<CapacityDirection>,
    ) {
        let initial = config.initial_replicas.map(|n| adjusted(n, target_capacity));
        let bounds = Bounds::new(config, target_capacity, direction);
        self.set_target(bounds.clamp(initial.unwrap_or(self.target)));
        self.window.clear();
        self.observed = None;
    }

    /// Decides how many replicas there should be.
    pub fn decide(
        &mut self,
        config: &AutoscalingConfig,
        bounds: Bounds,
        load: Load,
        now: Instant,
    ) -> Decision {
        let now = self.record(config, load, now);
        let wanted = self.wanted_of(config, bounds.clamp(self.target), &load, now);
        self.decide_for(config, bounds, wanted, load, now)
    }

    /// What policy and factors ask for now, before delays and bounds.
    ///
    /// While no replica runs that is the target: nothing is known of what one can do. With a request
    /// it is at least 1.
    pub fn wanted(&mut self, config: &AutoscalingConfig, load: Load, now: Instant) -> u32 {
        let now = self.record(config, load, now);
        self.wanted_of(config, self.target, &load, now)
    }

    /// Decides where `wanted` is asked for, by an application's policy that saw what this deployment
    /// [wants](Self::wanted).
    ///
    /// `wanted` of 0 does not lead to zero, and without a request no number leads away from it.
    pub fn decide_for(
        &mut self,
        config: &AutoscalingConfig,
        bounds: Bounds,
        wanted: u32,
        load: Load,
        now: Instant,
    ) -> Decision {
        let now = self.record(config, load, now);
        let current = bounds.clamp(self.target);
        let zero_at = self
            .idle_since
            .filter(|_| bounds.lower == 0 && current > 0)
            .map(|since| since.saturating_add(seconds(config.downscale_to_zero_delay_s)));

        let (target, reason, due) = if zero_at.is_some_and(|at| at <= now) {
            self.pending = None;
            (0, Reason::Idle, None)
        } else if current == 0 || load.num_running == 0 {
            self.pending = None;
            let (target, reason) = at_once(bounds, current, wanted, &load);
            (target, reason, None)
        } else {
            // Zero is left to the delay that counts from the last request.
            self.after_delay(config, bounds, wanted.max(1), now)
        };
        let reason = self.move_to(target, bounds, reason, now);
        let deadlines =
            [zero_at.filter(|_| target > 0), due, self.window_changes_at(config, &load, now)];
        // What is never due needs no deadline.
        let deadline = deadlines.into_iter().flatten().filter(|at| *at < Duration::MAX).min();
        Decision { target, deadline, reason }
    }

    /// Decides where a policy outside asks for `asked` replicas, which are none until it has
    /// answered: then the target stays.
    ///
    /// Factors, delays and bounds apply as everywhere. Unlike with the policies here zero is the
    /// policy's to say: only its word leads there, after `downscale_to_zero_delay_s` and from one
    /// replica, and its word alone leads away. A request that finds no replica starts the first ones
    /// whatever the policy says, and while there is one, one replica stays.
    pub fn decide_asked(
        &mut self,
        config: &AutoscalingConfig,
        bounds: Bounds,
        asked: Option<f64>,
        load: Load,
        now: Instant,
    ) -> Decision {
        let now = self.record(config, load, now);
        let current = bounds.clamp(self.target);
        let wanted = self.wanted_asked(config, asked, &load);
        let is_cold = load.num_running == 0 && (load.num_requests() > 0 || wanted > 0);
        let (target, reason, due) = if is_cold {
            self.pending = None;
            let (target, reason) = match bounds.clamp(wanted) {
                target if current == 0 && target > 0 && load.num_requests() == 0 => {
                    (target, Reason::MoreLoad)
                }
                _ => at_once(bounds, current, wanted, &load),
            };
            (target, reason, None)
        } else {
            // The last one, or the last gang, goes by itself, after a delay of its own.
            let least = u32::from(current > bounds.gang_size);
            self.after_delay(config, bounds, wanted.max(least), now)
        };
        let reason = self.move_to(target, bounds, reason, now);
        Decision { target, deadline: due.filter(|at| *at < Duration::MAX), reason }
    }

    /// [`Autoscaler::wanted`], of what a policy outside asks for.
    #[must_use]
    pub fn wanted_asked(&self, config: &AutoscalingConfig, asked: Option<f64>, load: &Load) -> u32 {
        let has_requests = load.num_requests() > 0;
        if has_requests && load.num_running == 0 {
            return policy::first_replicas(config).max(self.target);
        }
        let wanted = match asked {
            None => self.target,
            Some(desired) => policy::scaled(config, load.num_running, desired),
        };
        wanted.max(u32::from(has_requests))
    }

    /// What a policy outside is told of the load: requests, and those that wait, as they count over
    /// the window of `look_back_period_s`. The window begins with the first call.
    pub fn observed(&mut self, config: &AutoscalingConfig, load: Load, now: Instant) -> (f64, f64) {
        self.observed.get_or_insert_default();
        let now = self.record(config, load, now);
        let look_back = seconds(config.look_back_period_s);
        let value = |window: &Window| window.value(config.aggregation_function, look_back, now);
        let observed = self.observed.as_ref();
        observed.map_or((0.0, 0.0), |observed| (value(&observed.total), value(&observed.queued)))
    }

    /// Sets the target and notes when it moved; the reason that is told.
    fn move_to(&mut self, target: u32, bounds: Bounds, reason: Reason, now: Instant) -> Reason {
        let before = std::mem::replace(&mut self.target, target);
        let is_within = before == bounds.clamp(before);
        match target.cmp(&before) {
            Ordering::Greater if is_within => self.last_scale_up = Some(now),
            Ordering::Less if is_within => self.last_scale_down = Some(now),
            Ordering::Greater | Ordering::Less | Ordering::Equal => {}
        }
        if reason == Reason::Steady && !is_within { Reason::Bounds } else { reason }
    }

    /// [`Autoscaler::wanted`] of a deployment with `target` replicas.
    fn wanted_of(&self, config: &AutoscalingConfig, target: u32, load: &Load, now: Instant) -> u32 {
        let has_requests = load.num_requests() > 0;
        if has_requests && (load.num_running == 0 || target == 0) {
            return policy::first_replicas(config).max(target);
        }
        if load.num_running == 0 {
            return target;
        }
        let num_requests = match look_back(config) {
            Some(look_back) => self.window.value(config.aggregation_function, look_back, now),
            None => load.num_requests() as f64,
        };
        let wanted = match policy::wish(config, load, num_requests, target) {
            Wish::Hold => target,
            Wish::Replicas(desired) => policy::scaled(config, load.num_running, desired),
        };
        wanted.max(u32::from(has_requests))
    }

    /// Target, reason, and when a delay passes, where replicas run.
    fn after_delay(
        &mut self,
        config: &AutoscalingConfig,
        bounds: Bounds,
        wanted: u32,
        now: Instant,
    ) -> (u32, Reason, Option<Instant>) {
        let current = bounds.clamp(self.target);
        let allowed = bounds.clamp(wanted);
        let (direction, delay_s) = match allowed.cmp(&current) {
            Ordering::Equal => {
                self.pending = None;
                let is_held = wanted > bounds.upper;
                return (current, if is_held { Reason::Bounds } else { Reason::Steady }, None);
            }
            Ordering::Greater => (Direction::Up, config.upscale_delay_s),
            Ordering::Less if current <= bounds.gang_size => {
                (Direction::Down, config.downscale_to_zero_delay_s)
            }
            Ordering::Less => (Direction::Down, config.downscale_delay_s),
        };
        let since = match self.pending {
            Some((before, since)) if before == direction => since,
            Some(_) | None => now,
        };
        let due = since.saturating_add(seconds(delay_s));
        if due <= now.saturating_add(TOLERANCE) {
            self.pending = None;
            let reason = match direction {
                Direction::Up => Reason::MoreLoad,
                Direction::Down => Reason::LessLoad,
            };
            return (allowed, reason, None);
        }
        self.pending = Some((direction, since));
        (current, Reason::Waiting { direction, wanted: allowed }, Some(due))
    }

    /// Takes note of the load; the time that counts as now.
    fn record(&mut self, config: &AutoscalingConfig, load: Load, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        let now = self.latest;
        let is_idle = load.num_requests() == 0;
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
        match look_back(config) {
            Some(look_back) => self.window.record(load.num_requests() as f64, look_back, now),
            None => self.window.clear(),
        }
        if let Some(observed) = &mut self.observed {
            let look_back = seconds(config.look_back_period_s);
            observed.total.record(load.num_requests() as f64, look_back, now);
            observed.queued.record(f64::from(load.num_queued), look_back, now);
        }
        now
    }

    fn window_changes_at(
        &self,
        config: &AutoscalingConfig,
        load: &Load,
        now: Instant,
    ) -> Option<Instant> {
        if self.target == 0 || load.num_running == 0 {
            return None;
        }
        self.window.changes_at(config.aggregation_function, look_back(config)?, now)
    }
}

/// Target and reason where the target is 0 or no replica runs: nothing is gained by a delay.
fn at_once(bounds: Bounds, current: u32, wanted: u32, load: &Load) -> (u32, Reason) {
    if load.num_requests() > 0 {
        // What has been started for them is not stopped before it is there.
        let target = bounds.clamp(current.max(wanted));
        return (target, if target > 0 { Reason::FirstRequest } else { Reason::Bounds });
    }
    if current == 0 {
        return (0, Reason::Steady);
    }
    let target = bounds.clamp(wanted.max(1));
    let reason = match target.cmp(&current) {
        Ordering::Equal => Reason::Steady,
        Ordering::Greater => Reason::MoreLoad,
        Ordering::Less => Reason::LessLoad,
    };
    (target, reason)
}

/// The window over which requests count; none where the load as it is now does.
fn look_back(config: &AutoscalingConfig) -> Option<Duration> {
    let look_back = seconds(config.look_back_period_s);
    let is_windowed = config.policy == ScalingPolicy::OngoingRequests && !look_back.is_zero();
    is_windowed.then_some(look_back)
}
