//! How what there is of a deployment is brought nearer to what is wanted.

use crate::Instant;
use crate::deployment::Deployment;
use crate::event::{Action, Notice};
use crate::gangs::Member;
use crate::ledger::{Need, Shortage};
use crate::replica::{Birth, Input, Replica};
use crate::state::Context;
use crate::status::StatusEvent;
use std::cmp::Reverse;
use std::time::Duration;
use tyndall_autoscaling::{Autoscaler, Load, adjusted, whole_gangs};
use tyndall_types::protocol::{EngineLoad, Rollout, Unavailable};
use tyndall_types::{DeploymentStatus, ReplicaState};

/// How long the times of first tokens say something of the load.
const FIRST_TOKEN_COUNTS: Duration = Duration::from_secs(10);
/// Seconds after which a client may ask again for what cannot be had now.
const RETRY_AFTER_S: f64 = 10.0;

impl Deployment {
    /// Does what can be done now. Doing it again at the same time does nothing.
    pub(crate) fn reconcile(&mut self, cx: &mut Context<'_>) {
        if self.backoff.retry_at.is_some_and(|at| at <= cx.now) {
            self.backoff.retry_at = None;
        }
        self.end_broken_gangs(cx);
        self.scale(cx);
        self.stop_surplus(cx);
        let shortage = self.attend_actors(cx);
        if cx.can_start {
            self.start_missing(shortage, cx);
        }
        self.keep_warm(cx);
        self.reconfigure(cx);
        let missing = self.scaler.target().saturating_sub(count(self.num_fresh()));
        self.num_lost = self.num_lost.min(missing);
        self.settle(cx.now);
    }

    /// Takes in how many requests wait for it and are with it. It was in use until now when it was
    /// busy before.
    pub(crate) fn set_load(&mut self, (queued, ongoing): (u32, u32), now: Instant) {
        let was_busy = self.is_busy();
        (self.queued, self.ongoing) = (queued, ongoing);
        if was_busy || self.is_busy() {
            self.used_at = now;
        }
    }

    /// Requests wait for it or are with it.
    pub(crate) fn is_busy(&self) -> bool {
        self.queued > 0 || self.ongoing > 0
    }

    /// Active replicas of the version that is wanted.
    fn num_fresh(&self) -> usize {
        self.count(|replica| replica.version == self.version && replica.is_active())
    }

    /// Replicas that there shall be now: the target, and while nobody asks, less what was lost of
    /// it. That does not bring the target down: the way to zero has a time of its own.
    fn num_wanted(&self) -> usize {
        let target = self.scaler.target();
        let is_replaced = self.is_busy()
            || self.count(|replica| replica.version != self.version && replica.is_active()) > 0;
        let lost = if is_replaced { 0 } else { self.num_lost };
        target.saturating_sub(lost).max(target.min(self.floor)) as usize
    }

    /// The load as autoscaling sees it.
    pub(crate) fn load(&self, now: Instant) -> Load {
        Load {
            num_queued: self.queued,
            num_ongoing: self.ongoing,
            num_running: count(self.count(Replica::is_running)),
            engine: self.engine_load(now),
        }
    }

    fn engine_load(&self, now: Instant) -> Option<EngineLoad> {
        let loads = self.replicas.iter().filter(|r| r.is_running()).filter_map(|r| r.load);
        // While one long request goes on, no first token says anything of now.
        let loads = loads.map(|(at, load)| match now.saturating_sub(at) > FIRST_TOKEN_COUNTS {
            true => EngineLoad { ttft_s: None, ..load },
            false => load,
        });
        let mut sum = EngineLoad::default();
        let mut num = 0_u32;
        for load in loads {
            sum.running_tokens = sum.running_tokens.saturating_add(load.running_tokens);
            sum.waiting_tokens = sum.waiting_tokens.saturating_add(load.waiting_tokens);
            sum.kv_use += load.kv_use;
            sum.ttft_s = match (sum.ttft_s, load.ttft_s) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
            num += 1;
        }
        sum.kv_use /= f64::from(num.max(1));
        (num > 0).then_some(sum)
    }

    /// What it asks for of what its application has.
    pub(crate) fn wanted(&mut self, load: Load, now: Instant) -> u32 {
        let config = &self.config.autoscaling;
        match &self.asked {
            Some(asked) => self.scaler.wanted_asked(config, asked.replicas, &load),
            None => self.scaler.wanted(config, load, now),
        }
    }

    /// Sets the target: a number that was asked for, or the autoscaler's.
    fn scale(&mut self, cx: &mut Context<'_>) {
        self.autoscaling_deadline = None;
        if self.is_deleting {
            self.scaler = Autoscaler::at(0);
            return;
        }
        let before = self.scaler.target();
        if let Some(number) = self.set_replicas.or(self.config.num_replicas) {
            let target = whole_gangs(adjusted(number, cx.target_capacity), self.config.gang_size());
            self.floor = target;
            if target != before {
                self.scaler.set_target(target);
                let event = if target > before { StatusEvent::SetUp } else { StatusEvent::SetDown };
                self.scaled(event, before, cx);
            }
            return;
        }
        let (bounds, load) = (self.bounds(cx), self.load(cx.now));
        self.floor = bounds.lower;
        let config = &self.config.autoscaling;
        let decision = match (self.allotted, &self.asked) {
            (Some(allotted), _) => self.scaler.decide_for(config, bounds, allotted, load, cx.now),
            (None, Some(asked)) => {
                self.scaler.decide_asked(config, bounds, asked.replicas, load, cx.now)
            }
            (None, None) => self.scaler.decide(config, bounds, load, cx.now),
        };
        self.autoscaling_deadline = decision.deadline;
        let after = self.scaler.target();
        if after != before {
            let event =
                if after > before { StatusEvent::ScaledUp } else { StatusEvent::ScaledDown };
            self.scaled(event, before, cx);
        }
    }

    fn scaled(&mut self, event: StatusEvent, from: u32, cx: &mut Context<'_>) {
        let to = self.scaler.target();
        // Why the last start failed is worth more, until one succeeds.
        let message = match self.backoff.failed_starts {
            0 => format!("from {from} to {to} replicas"),
            _ => self.message.clone(),
        };
        self.moved(event, message);
        let deployment = self.config.id.clone();
        cx.notice(Notice::Scaled { deployment, from, to });
    }

    fn stop_surplus(&mut self, cx: &mut Context<'_>) {
        let target = self.scaler.target() as usize;
        let version = self.version;
        let is_fresh = |replica: &Replica| replica.version == version && replica.is_active();
        let reason = if self.is_deleting { "the deployment is deleted" } else { "scaled down" };
        self.stop_beyond(target, is_fresh, reason, cx);
        // Old ones serve until as many new ones do; those that cannot serve yet never will.
        let ready = self.num_ready(is_fresh);
        let keep = target.saturating_sub(ready);
        let is_old = |replica: &Replica| replica.version != version && replica.is_active();
        self.stop_unborn(version, cx);
        self.stop_beyond(keep, is_old, "replaced by a new version", cx);
    }

    /// Stops replicas of older versions that were never ready.
    fn stop_unborn(&mut self, version: u64, cx: &mut Context<'_>) {
        let is_unborn = |replica: &Replica| {
            replica.version != version && replica.state == ReplicaState::Starting
        };
        let unborn = self.gangs(is_unborn).into_iter();
        let unborn = unborn.filter(|gang| !self.has_running_member(&self.replicas[gang[0]]));
        // Stopping removes nothing from the list, so the indices stay valid.
        for index in unborn.flatten().collect::<Vec<_>>() {
            self.feed(index, Input::Unwanted, "replaced by a new version", cx);
        }
    }

    /// Stops all but `keep` of the replicas that `is_candidate` names, in whole gangs: first those
    /// that are not ready yet, then the youngest.
    pub(crate) fn stop_beyond(
        &mut self,
        keep: usize,
        is_candidate: impl Fn(&Replica) -> bool,
        reason: &str,
        cx: &mut Context<'_>,
    ) {
        let mut surplus = self.count(&is_candidate).saturating_sub(keep);
        if surplus == 0 {
            return;
        }
        let mut gangs = self.gangs(is_candidate);
        gangs.sort_by_key(|gang| {
            let members = || gang.iter().map(|&i| &self.replicas[i]);
            let youngest = members().map(|replica| replica.decided_at).max();
            (members().all(Replica::is_running), Reverse(youngest), Reverse(gang[0]))
        });
        // Stopping removes nothing from the list, so the indices stay valid.
        for gang in gangs {
            if gang.len() > surplus {
                continue;
            }
            surplus -= gang.len();
            for index in gang {
                self.feed(index, Input::Unwanted, reason, cx);
            }
        }
    }

    /// How many replicas may be started now, of those that are missing.
    fn num_missing(&self, now: Instant) -> usize {
        if self.is_deleting || !self.backoff.allows_start(now) || !self.has_actors() {
            return 0;
        }
        if self.is_given_up && (self.is_rolling() || !self.is_busy()) {
            // The older version serves, or nobody asks: only a new deploy tries again.
            return 0;
        }
        let (version, size) = (self.version, self.gang_size());
        let target = self.scaler.target() as usize;
        let fresh = self.num_fresh();
        let mut missing = self.num_wanted().saturating_sub(fresh);
        let trying = self.count(|replica| replica.state == ReplicaState::Starting);
        if self.backoff.failed_starts > 0 {
            // One try is enough to see whether it works again.
            missing = missing.min(size.saturating_sub(trying));
        }
        let is_old = |replica: &Replica| replica.version != version && replica.is_active();
        let old = self.count(is_old);
        if old > 0 {
            // No old ones go before new ones are ready, so the new ones come beside them: at least
            // as many as the largest old gang, which would never go else.
            let least = target.max(old) + self.largest_gang(is_old);
            let beside = (target + self.at_a_time(target)).max(least) - old;
            missing = missing.min(beside.next_multiple_of(size).saturating_sub(fresh));
        }
        if let Some(most) = self.config.resources.max_replicas_per_node {
            let here = self.count(|_| true);
            missing = missing.min((most as usize).saturating_sub(here));
        }
        missing - missing % size
    }

    /// Replicas that an update replaces at a time, in whole gangs.
    fn at_a_time(&self, target: usize) -> usize {
        at_a_time(&self.config.rollout, target).next_multiple_of(self.gang_size())
    }

    /// Starts what is missing, unless an actor that must be there before lacks something.
    fn start_missing(&mut self, of_actor: Option<Shortage>, cx: &mut Context<'_>) {
        let missing = self.num_missing(cx.now);
        let is_wake = self.is_busy() && self.count(Replica::is_active) == 0;
        let need = Need::of(&self.config);
        let blocked_before = self.blocked.take();
        let since = blocked_before.map_or(cx.now, |(since, _)| since);
        if let Some(shortage) = of_actor {
            self.blocked = Some((since, shortage));
            return;
        }
        let size = self.config.gang_size();
        let mut ranks = self.free_ranks(missing).into_iter();
        for nth in 0..missing / self.gang_size() {
            let yielded = self.gave_way_to.as_ref().map(|_| cx.ledger.memory(&need, size));
            if let Some(shortage) = cx.ledger.shortage(&need, size).or(yielded) {
                self.blocked = Some((since, shortage));
                return;
            }
            let gang = self.new_gang(nth, cx);
            if is_wake && nth == 0 {
                let (deployment, replica) = (self.config.id.clone(), gang[0].0.clone());
                cx.notice(Notice::Waking { deployment, replica });
            }
            for (member, rank) in gang.into_iter().zip(&mut ranks) {
                self.start(member, rank, (&need, is_wake), cx);
            }
        }
    }

    fn start(
        &mut self,
        (id, gang): Member,
        rank: u32,
        (need, is_wake): (&Need, bool),
        cx: &mut Context<'_>,
    ) {
        let gpus = cx.ledger.take(id.clone(), need.clone());
        let config = self.config.clone();
        let birth = Birth {
            id: id.clone(),
            rank,
            version: self.version,
            config: config.clone(),
            gang: gang.clone(),
        };
        let mut replica = Replica::starting(birth, cx.now);
        replica.is_woken = is_wake;
        let (waiting, waited_pid) = self.warm.take(&config).unzip();
        replica.waited_pid = waited_pid.flatten();
        self.add(replica);
        cx.out.born.push(id.clone());
        cx.out.starts.push(Action::Start { replica: id, rank, gang, config, gpus, waiting });
    }

    /// Hands a new `user_config` to running replicas, as many at a time as an update replaces.
    fn reconfigure(&mut self, cx: &mut Context<'_>) {
        let most = self.at_a_time(self.scaler.target() as usize);
        while self.count(|replica| replica.state == ReplicaState::Updating) < most {
            let Some(index) = self.outdated() else { return };
            self.feed(index, Input::Reconfigure, "", cx);
        }
    }

    /// Derives what is told to others from the replicas as they are now.
    fn settle(&mut self, now: Instant) {
        let version = self.version;
        self.unavailable = self.why_unavailable(now);
        if let Some((_, shortage)) = &self.blocked {
            self.message = self.told(shortage);
        }
        let as_wanted = self.count(|r| r.version == version && r.state == ReplicaState::Running);
        let is_converged = as_wanted == self.num_wanted()
            && as_wanted == self.replicas.len()
            && self.backoff.failed_starts == 0
            && self.blocked.is_none()
            && !self.awaits_router()
            && self.has_actors()
            && self.outdated().is_none();
        if is_converged && !self.is_deleting && self.status.0 != DeploymentStatus::Healthy {
            self.moved(StatusEvent::Converged, String::new());
        }
    }

    /// Why nobody should wait, and until when: a start that failed and is not tried again yet, or
    /// a replica that the machine can never hold.
    fn why_unavailable(&self, now: Instant) -> Option<(Instant, Unavailable)> {
        if self.is_deleting || self.count(Replica::is_active) > 0 {
            return None;
        }
        if let Some((since, shortage)) = self.blocked.as_ref().filter(|(_, s)| s.is_final()) {
            let reason =
                format!("{}; give it fewer, or take a larger machine", self.told(shortage));
            return Some((*since, Unavailable { reason, retry_after_s: RETRY_AFTER_S }));
        }
        let own = self.backoff.retry_at.filter(|_| self.backoff.is_hopeless(now));
        let own = own.map(|at| (at, self.backoff.reason.as_str()));
        let (retry_at, reason) = own.or_else(|| self.actors.hopeless(self.version, now))?;
        if let Some(told) = self.unavailable.as_ref().filter(|(at, _)| *at == retry_at) {
            return Some(told.clone());
        }
        let retry_after_s = retry_at.saturating_sub(now).as_secs_f64();
        Some((retry_at, Unavailable { reason: reason.to_owned(), retry_after_s }))
    }
}

/// Replicas that an update replaces at a time: Ray's share of the target, or its surge where that
/// is more; at least one.
fn at_a_time(rollout: &Rollout, target: usize) -> usize {
    let share = (rollout.rolling_update_percentage * target as f64).floor() as usize;
    let surge = (target * rollout.max_surge_percent as usize).div_ceil(100);
    share.max(surge).max(1)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_replaces_a_share_at_a_time() {
        let rollout = |percentage, surge| Rollout {
            rolling_update_percentage: percentage,
            max_surge_percent: surge,
            ..Rollout::default()
        };
        for (percentage, surge, target, expected) in [
            (0.2, 0, 1, 1),
            (0.2, 0, 10, 2),
            (0.25, 0, 10, 2),
            (0.2, 0, 0, 1),
            (1.0, 0, 7, 7),
            (0.2, 50, 10, 5),
            (0.2, 1, 10, 2),
            (0.1, 25, 5, 2),
        ] {
            assert_eq!(at_a_time(&rollout(percentage, surge), target), expected);
        }
    }
}
