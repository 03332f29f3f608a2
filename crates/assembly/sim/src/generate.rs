//! Arrivals by rule: see [`Trace::generate`](crate::Trace::generate) for the language.

use crate::random::{Random, Stream};
use crate::{Arrival, SimError};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::time::Duration;
use tyndall_config::parse_seconds;

const ACCEPTED: &str = "constant:RATE:DURATION, poisson:RATE:DURATION, step:RATE:...:DURATION, \
                        burst:BASE:PEAK:EVERY:LENGTH:DURATION, diurnal:LOW:HIGH:PERIOD:DURATION or \
                        pause:DURATION; ',' is one after the other, '+' at the same time, and \
                        NAME= before a lane says for which deployment";

/// What a part's rate does over its time, in requests per second and seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Constant(f64),
    Poisson(f64),
    Burst { base: f64, peak: f64, every_s: f64, length_s: f64 },
    Diurnal { low: f64, high: f64, period_s: f64 },
}

impl Shape {
    fn rate(self, s: f64) -> f64 {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => rate,
            Self::Burst { base, peak, every_s, length_s } => {
                if s % every_s < length_s {
                    peak
                } else {
                    base
                }
            }
            Self::Diurnal { low, high, period_s } => {
                low + (high - low) * (1.0 - (TAU * s / period_s).cos()) / 2.0
            }
        }
    }

    fn highest(self) -> f64 {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => rate,
            Self::Burst { base, peak, .. } => base.max(peak),
            Self::Diurnal { low, high, .. } => low.max(high),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    shape: Shape,
    duration_s: f64,
}

/// The requests of one deployment, part after part.
pub(crate) struct Lane {
    deployment: usize,
    parts: VecDeque<Part>,
    /// Of the part that is being carried out.
    begin_s: f64,
    now_s: f64,
    random: Random,
    draws: u64,
}

impl Iterator for Lane {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let part = *self.parts.front()?;
            let highest = part.shape.highest();
            let gap = match part.shape {
                _ if highest <= 0.0 => f64::INFINITY,
                Shape::Constant(rate) => 1.0 / rate,
                Shape::Poisson(_) | Shape::Burst { .. } | Shape::Diurnal { .. } => {
                    self.draws += 1;
                    self.random.exponential(Stream::Arrivals, self.draws) / highest
                }
            };
            self.now_s += gap;
            let since = self.now_s - self.begin_s;
            if since > part.duration_s + 1e-9 {
                self.parts.pop_front();
                self.begin_s += part.duration_s;
                self.now_s = self.begin_s;
                continue;
            }
            if let Shape::Constant(_) = part.shape {
                return Some(self.arrival());
            }
            // Thinning: Lewis and Shedler, 1979.
            self.draws += 1;
            let keep = self.random.unit(Stream::Arrivals, self.draws) * highest;
            if keep < part.shape.rate(since) {
                return Some(self.arrival());
            }
        }
    }
}

impl Lane {
    fn arrival(&self) -> Arrival {
        let at = Duration::from_secs_f64(self.now_s);
        Arrival { at, deployment: self.deployment, service_s: None }
    }
}

/// Lanes as one, in the order of time.
pub(crate) struct Merged {
    lanes: Vec<Lane>,
    next: BinaryHeap<Reverse<(Duration, usize)>>,
}

impl Merged {
    pub(crate) fn new(lanes: Vec<Lane>) -> Self {
        let mut merged = Self { lanes, next: BinaryHeap::new() };
        for lane in 0..merged.lanes.len() {
            merged.advance(lane);
        }
        merged
    }

    fn advance(&mut self, lane: usize) {
        if let Some(arrival) = self.lanes[lane].next() {
            self.next.push(Reverse((arrival.at, lane)));
        }
    }
}

impl Iterator for Merged {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let Reverse((at, lane)) = self.next.pop()?;
        self.advance(lane);
        Some(Arrival { at, deployment: self.lanes[lane].deployment, service_s: None })
    }
}

/// The lanes of a text.
pub(crate) fn lanes(
    text: &str,
    random: Random,
    find: &dyn Fn(&str) -> Result<usize, String>,
) -> Result<Vec<Lane>, SimError> {
    let wrong = |text: &str, message: String| SimError::Generator { text: text.into(), message };
    let mut lanes = Vec::new();
    for (n, lane) in text.split('+').enumerate() {
        let (name, parts) = lane.rsplit_once('=').unwrap_or(("", lane));
        let deployment = find(name.trim()).map_err(|message| wrong(lane, message))?;
        let mut all = VecDeque::new();
        for part in parts.split(',').map(str::trim) {
            let read = self::parts(part).ok_or_else(|| wrong(part, format!("write {ACCEPTED}")))?;
            all.extend(read);
        }
        // Each lane draws from its own.
        let random = Random::new(random.bits(Stream::Arrivals, n as u64));
        lanes.push(Lane { deployment, parts: all, begin_s: 0.0, now_s: 0.0, random, draws: 0 });
    }
    Ok(lanes)
}

fn parts(text: &str) -> Option<Vec<Part>> {
    let (name, arguments) = text.split_once(':')?;
    let mut arguments: Vec<&str> = arguments.split(':').collect();
    let duration_s = parse_seconds(arguments.pop()?).ok()?;
    let rate = |text: &&str| text.parse().ok().filter(|rate: &f64| (0.0..=1e6).contains(rate));
    let positive_s = |text: &str| parse_seconds(text).ok().filter(|s| *s > 0.0);
    let shape = match (name, arguments.as_slice()) {
        ("constant", [r]) => Shape::Constant(rate(r)?),
        ("poisson", [r]) => Shape::Poisson(rate(r)?),
        ("pause", []) => Shape::Constant(0.0),
        ("step", [_, ..]) => {
            let one = |text| Some(Part { shape: Shape::Poisson(rate(text)?), duration_s });
            return arguments.iter().map(one).collect();
        }
        ("burst", [base, peak, every, length]) => Shape::Burst {
            base: rate(base)?,
            peak: rate(peak)?,
            every_s: positive_s(every)?,
            length_s: positive_s(length)?,
        },
        ("diurnal", [low, high, period]) => {
            Shape::Diurnal { low: rate(low)?, high: rate(high)?, period_s: positive_s(period)? }
        }
        _ => return None,
    };
    Some(vec![Part { shape, duration_s }])
}

#[cfg(test)]
mod tests {
    use crate::Trace;

    fn find(name: &str) -> Result<usize, String> {
        ["", "b"].iter().position(|known| *known == name).ok_or_else(|| format!("no {name:?}"))
    }

    fn times(text: &str) -> Vec<f64> {
        let trace = Trace::generate(text, 1, &find).unwrap();
        trace.map(|arrival| arrival.at.as_secs_f64()).collect()
    }

    #[test]
    fn constant_rates_are_evenly_spaced_and_parts_follow_each_other() {
        let found = times("constant:2:1,pause:1s,constant:1:2");
        assert_eq!(found, [0.5, 1.0, 3.0, 4.0]);
        let trace = Trace::generate("constant:1:2+b=constant:1:2", 1, &find).unwrap();
        let lanes: Vec<usize> = trace.map(|arrival| arrival.deployment).collect();
        assert_eq!(lanes, [0, 1, 0, 1]);
    }

    #[test]
    fn rates_by_chance_are_near_what_is_asked() {
        let within = |times: &[f64], from: f64, until: f64| {
            times.iter().filter(|s| (from..until).contains(*s)).count() as f64
        };
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 4.0 * expected.sqrt() + 1.0, "{found} {expected}");
        };
        near(within(&times("poisson:10:100"), 0.0, 100.0), 1000.0);
        let steps = times("step:5:50:100");
        near(within(&steps, 0.0, 100.0), 500.0);
        near(within(&steps, 100.0, 200.0), 5000.0);
        let burst = times("burst:0:20:100:10:1000");
        near(burst.iter().filter(|s| **s % 100.0 < 10.0).count() as f64, 2000.0);
        assert_eq!(burst.iter().filter(|s| **s % 100.0 > 10.0).count(), 0);
        let wave = times("diurnal:0:20:1000:1000");
        near(wave.len() as f64, 10_000.0);
        assert!(within(&wave, 0.0, 100.0) < 0.1 * within(&wave, 450.0, 550.0));
        assert!(wave.is_sorted());
        assert_eq!(times("poisson:10:9"), times("poisson:10:9"));
    }

    #[test]
    fn what_is_no_generator_is_named() {
        for (text, named) in [
            ("poisson", "poisson"),
            ("poisson:1", "poisson:1"),
            ("constant:1:5,poisson:-1:5", "poisson:-1:5"),
            ("burst:1:2:0:1:5", "burst:1:2:0:1:5"),
            ("c=poisson:1:5", "c=poisson:1:5"),
            ("trace.txt", "trace.txt"),
        ] {
            let error = Trace::generate(text, 1, &find).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{named:?} is not a usable generator")), "{error}");
        }
    }
}
