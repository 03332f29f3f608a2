//! The course of a number over the last seconds.
//!
//! A step function: closed segments, oldest first, without gaps, and the value now. Invariants:
//! neighbours differ or were merged; no segment is empty; those that have left the window are gone
//! after [`Window::record`]. Two neighbouring segments are together longer than 1/256 of the
//! window, because shorter ones are merged, so there are at most about 512. Merging keeps the
//! integral and the extremes; only while a merged segment leaves the window is the mean not exact,
//! by at most 1/256 of what the values in it differ.

use crate::Instant;
use std::collections::VecDeque;
use std::time::Duration;
use tyndall_types::protocol::Aggregation;

/// Segments shorter than this part of the window are merged.
const RESOLUTION: u32 = 256;
/// A mean is taken again after this part of the window, ...
const STEPS: u32 = 32;
/// ... but not sooner than this.
const MIN_STEP: Duration = Duration::from_millis(50);

/// The course of a number over the last seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Window {
    closed: VecDeque<Segment>,
    /// The value now and since when.
    open: Option<(Instant, f64)>,
}

/// A value, or several short ones, from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Segment {
    start: Instant,
    end: Instant,
    mean: f64,
    min: f64,
    max: f64,
}

impl Segment {
    fn integral_from(&self, start: Instant) -> f64 {
        self.mean * self.end.saturating_sub(self.start.max(start)).as_secs_f64()
    }

    /// Joins the one that follows.
    fn join(&mut self, next: &Self) {
        let integral = self.integral_from(self.start) + next.integral_from(next.start);
        self.mean = integral / (next.end.saturating_sub(self.start)).as_secs_f64();
        self.end = next.end;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
    }
}

impl Window {
    /// From `now` on it is `value`; `now` never goes back.
    ///
    /// After a window without load the course begins anew, so that load that comes is not taken for
    /// less than it is.
    pub(crate) fn record(&mut self, value: f64, look_back: Duration, now: Instant) {
        while self.closed.front().is_some_and(|old| old.end.saturating_add(look_back) <= now) {
            self.closed.pop_front();
        }
        match self.open {
            Some((_, current)) if current == value => {}
            Some((since, current))
                if since < now && !(current == 0.0 && self.closed.is_empty()) =>
            {
                let segment =
                    Segment { start: since, end: now, mean: current, min: current, max: current };
                self.close(segment, look_back);
                self.open = Some((now, value));
            }
            // What was in force for no time, or was nothing, leaves no trace.
            Some(_) | None => self.open = Some((self.take_equal(value).unwrap_or(now), value)),
        }
    }

    fn close(&mut self, segment: Segment, look_back: Duration) {
        match self.closed.back_mut() {
            Some(last) if segment.end.saturating_sub(last.start) <= look_back / RESOLUTION => {
                last.join(&segment);
            }
            Some(_) | None => self.closed.push_back(segment),
        }
    }

    /// Takes back the last segment where it is all `value`; its start.
    fn take_equal(&mut self, value: f64) -> Option<Instant> {
        let last = self.closed.back().filter(|last| last.min == value && last.max == value)?;
        let start = last.start;
        self.closed.pop_back();
        Some(start)
    }

    /// What counts at `now`, the time of the last [`Window::record`] or later.
    pub(crate) fn value(&self, aggregation: Aggregation, look_back: Duration, now: Instant) -> f64 {
        let Some((since, current)) = self.open else { return 0.0 };
        let Some(first) = self.closed.front() else { return current };
        match aggregation {
            Aggregation::Max => self.closed.iter().fold(current, |max, one| max.max(one.max)),
            Aggregation::Min => self.closed.iter().fold(current, |min, one| min.min(one.min)),
            Aggregation::Mean => {
                let start = first.start.max(now.saturating_sub(look_back));
                let length = now.saturating_sub(start).as_secs_f64();
                if length <= 0.0 {
                    return current;
                }
                let closed: f64 = self.closed.iter().map(|one| one.integral_from(start)).sum();
                let open = current * now.saturating_sub(since.max(start)).as_secs_f64();
                (closed + open) / length
            }
        }
    }

    /// When [`Window::value`] may be another although the load is the same: always after `now`,
    /// never where all values in the window are equal.
    pub(crate) fn changes_at(
        &self,
        aggregation: Aggregation,
        look_back: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let (_, current) = self.open?;
        let value = self.value(aggregation, look_back, now);
        let leaves = |segment: &Segment| segment.end.saturating_add(look_back);
        let mut newest_first = self.closed.iter().rev();
        let at = match aggregation {
            Aggregation::Mean => {
                let step = (look_back / STEPS).max(MIN_STEP);
                leaves(newest_first.next()?).min(now.saturating_add(step))
            }
            Aggregation::Max if current >= value => return None,
            Aggregation::Min if current <= value => return None,
            Aggregation::Max => leaves(newest_first.find(|one| one.max >= value)?),
            Aggregation::Min => leaves(newest_first.find(|one| one.min <= value)?),
        };
        (at > now).then_some(at)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    pub(crate) fn num_segments(&self) -> usize {
        self.closed.len()
    }
}
