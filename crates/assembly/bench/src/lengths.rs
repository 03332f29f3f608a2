//! Distributions of prompt and output lengths, as flags spell them.

use crate::random::Random;
use std::fmt;
use std::str::FromStr;

/// Longest length that is drawn: what a typing slip must not turn into gigabytes.
const MAX: f64 = 1_000_000.0;

/// How lengths are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lengths {
    /// Always the same.
    Fixed(u32),
    /// Each from the first to the second, both included, as likely.
    Uniform(u32, u32),
    /// Mean and standard deviation; what falls below 1 is 1.
    Normal(f64, f64),
    /// Median, and standard deviation of the logarithm.
    LogNormal(f64, f64),
}

impl Lengths {
    /// Draws a length, at least 1.
    pub(crate) fn draw(self, random: &mut Random) -> u32 {
        let real = match self {
            Self::Fixed(length) => return length,
            Self::Uniform(low, high) => {
                return low + random.below((high - low) as usize + 1) as u32;
            }
            Self::Normal(mean, deviation) => mean + deviation * random.normal(),
            Self::LogNormal(median, sigma) => median * (sigma * random.normal()).exp(),
        };
        real.round().clamp(1.0, MAX) as u32
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Uniform(low, high) => write!(f, "uniform:{low}:{high}"),
            Self::Normal(mean, deviation) => write!(f, "normal:{mean}:{deviation}"),
            Self::LogNormal(median, sigma) => write!(f, "lognormal:{median}:{sigma}"),
        }
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "{text:?} is no distribution of lengths; accepted: 128, uniform:64:256, \
                 normal:MEAN:DEVIATION, lognormal:MEDIAN:SIGMA, lengths from 1 to {MAX}"
            )
        })
    }
}

fn parse(text: &str) -> Option<Lengths> {
    let length = |text: &str| {
        let length: u32 = text.parse().ok()?;
        (1..=MAX as u32).contains(&length).then_some(length)
    };
    let positive = |text: &str| text.parse().ok().filter(|v: &f64| (0.0..=MAX).contains(v));
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [only] | ["fixed", only] => length(only).map(Lengths::Fixed),
        ["uniform", low, high] => {
            let (low, high) = (length(low)?, length(high)?);
            (low <= high).then_some(Lengths::Uniform(low, high))
        }
        ["normal", mean, deviation] => {
            let mean = positive(mean).filter(|mean| *mean >= 1.0)?;
            Some(Lengths::Normal(mean, positive(deviation)?))
        }
        ["lognormal", median, sigma] => {
            let median = positive(median).filter(|median| *median >= 1.0)?;
            let sigma = positive(sigma).filter(|sigma| *sigma <= 10.0)?;
            Some(Lengths::LogNormal(median, sigma))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_are_read_and_told_back() {
        for (text, expected) in [
            ("128", Lengths::Fixed(128)),
            ("fixed:3", Lengths::Fixed(3)),
            ("uniform:1:9", Lengths::Uniform(1, 9)),
            ("normal:100:20.5", Lengths::Normal(100.0, 20.5)),
            ("lognormal:64:0.5", Lengths::LogNormal(64.0, 0.5)),
        ] {
            let lengths: Lengths = text.parse().unwrap();
            assert_eq!(lengths, expected);
            assert_eq!(lengths.to_string().parse::<Lengths>().unwrap(), expected);
        }
        for bad in [
            "",
            "0",
            "-1",
            "x",
            "1000001",
            "uniform:9:1",
            "uniform:1",
            "normal:0:1",
            "normal:5:-1",
            "lognormal:5:11",
            "lognormal:5:nan",
            "gamma:1:2",
            "128:1",
        ] {
            let error = bad.parse::<Lengths>().unwrap_err();
            assert!(error.contains("accepted"), "{bad}: {error}");
        }
    }

    #[test]
    fn draws_have_the_stated_middle() {
        let middle = |text: &str| {
            let lengths: Lengths = text.parse().unwrap();
            let mut random = Random::new(1, 0);
            let mut drawn: Vec<u32> = (0..9999).map(|_| lengths.draw(&mut random)).collect();
            drawn.sort_unstable();
            f64::from(drawn[drawn.len() / 2])
        };
        for (text, expected) in
            [("uniform:50:150", 100.0), ("normal:100:10", 100.0), ("lognormal:100:1", 100.0)]
        {
            assert!((middle(text) - expected).abs() < 5.0, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_length_is_never_zero(mean in 1.0f64..500.0, spread in 0.0f64..10.0, seed: u64) {
            let mut random = Random::new(seed, 0);
            for lengths in [
                Lengths::Normal(mean, spread * 100.0),
                Lengths::LogNormal(mean, spread),
                Lengths::Uniform(mean as u32, mean as u32 + spread as u32),
            ] {
                prop_assert!(lengths.draw(&mut random) >= 1);
            }
        }

        #[test]
        fn any_text_is_refused_or_read(text in ".{0,30}") {
            if let Ok(lengths) = text.parse::<Lengths>() {
                prop_assert!(lengths.draw(&mut Random::new(0, 0)) >= 1);
            }
        }
    }
}
