//! Goodput: requests per second that meet every given target.

use std::fmt;
use std::str::FromStr;

/// A latency that a target is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// Send to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Send to last token.
    E2e,
}

/// A latency that a request must not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Which.
    pub latency: Latency,
    /// The bound in milliseconds.
    pub bound_ms: f64,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.latency {
            Latency::Ttft => "ttft",
            Latency::Tpot => "tpot",
            Latency::E2e => "e2el",
        };
        write!(f, "{name}:{}", self.bound_ms)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(name, bound)| {
            let latency = match name {
                "ttft" => Latency::Ttft,
                "tpot" => Latency::Tpot,
                "e2e" | "e2el" => Latency::E2e,
                _ => return None,
            };
            let bound_ms = bound.parse().ok().filter(|ms: &f64| ms.is_finite() && *ms >= 0.0)?;
            Some(Self { latency, bound_ms })
        });
        parsed.ok_or_else(|| {
            format!("{text:?} is no target; accepted: ttft:MS, tpot:MS, e2el:MS in milliseconds")
        })
    }
}

/// What a finished request took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latencies {
    pub(crate) ttft_ms: f64,
    /// Absent with one token; counts as 0, as in vLLM's benchmark.
    pub(crate) tpot_ms: Option<f64>,
    pub(crate) e2e_ms: f64,
}

impl Latencies {
    /// Every target is met.
    pub(crate) fn meets(&self, targets: &[Target]) -> bool {
        targets.iter().all(|target| {
            let value = match target.latency {
                Latency::Ttft => self.ttft_ms,
                Latency::Tpot => self.tpot_ms.unwrap_or(0.0),
                Latency::E2e => self.e2e_ms,
            };
            value <= target.bound_ms
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target: Target = "ttft:500".parse().unwrap();
        assert_eq!(target, Target { latency: Latency::Ttft, bound_ms: 500.0 });
        assert_eq!("e2e:1.5".parse::<Target>().unwrap().to_string(), "e2el:1.5");
        for bad in ["", "ttft", "ttft:", "ttft:-1", "itl:5", "tpot:inf", "500"] {
            assert!(bad.parse::<Target>().unwrap_err().contains("accepted"), "{bad}");
        }
    }

    #[test]
    fn every_target_must_be_met() {
        let targets = ["ttft:100", "tpot:10"].map(|t| t.parse::<Target>().unwrap());
        let check = |ttft_ms, tpot_ms, expected| {
            let latencies = Latencies { ttft_ms, tpot_ms, e2e_ms: 1e6 };
            assert_eq!(latencies.meets(&targets), expected);
            assert!(latencies.meets(&[]));
        };
        check(100.0, Some(10.0), true);
        check(100.1, Some(10.0), false);
        check(100.0, Some(10.1), false);
        check(100.0, None, true);
    }
}
