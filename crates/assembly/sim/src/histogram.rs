//! Times in classes that grow by 2 %: percentiles to 1 %, and two can be added.

use std::collections::BTreeMap;
use std::time::Duration;

const SMALLEST_S: f64 = 1e-4;
const GROWTH: f64 = 1.02;

/// How often which time was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    classes: BTreeMap<u16, u32>,
    count: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let class = (time.as_secs_f64() / SMALLEST_S).max(1.0).ln() / GROWTH.ln();
        // Saturates: casts from float to integer never wrap.
        *self.classes.entry(class.round() as u16).or_default() += 1;
        self.count += 1;
    }

    pub(crate) fn join(&mut self, other: &Self) {
        for (class, count) in &other.classes {
            *self.classes.entry(*class).or_default() += count;
        }
        self.count += other.count;
    }

    /// The time in seconds that `share` of all do not exceed; none where there are none.
    pub(crate) fn at(&self, share: f64) -> Option<f64> {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let class = self.classes.iter().find(|(_, count)| {
            seen += u64::from(**count);
            seen >= rank
        });
        class.map(|(class, _)| match class {
            0 => 0.0,
            class => SMALLEST_S * GROWTH.powi(i32::from(*class)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_near_and_parts_add_up() {
        let (mut all, mut even) = (Histogram::default(), Histogram::default());
        assert_eq!(all.at(0.5), None);
        for ms in 1..=1000u64 {
            let part = if ms % 2 == 0 { &mut even } else { &mut all };
            part.add(Duration::from_millis(ms));
        }
        all.join(&even);
        for (share, expected) in [(0.0, 0.001), (0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let found = all.at(share).unwrap();
            assert!((found / expected - 1.0).abs() < 0.011, "{share}: {found}");
        }
        let mut zero = Histogram::default();
        zero.add(Duration::ZERO);
        assert_eq!(zero.at(0.5), Some(0.0));
    }
}
