//! Summaries of many measurements of one thing.

use serde::{Deserialize, Serialize};

/// Steps of [`Summary::quantiles`]: every half percent.
const STEPS: usize = 200;

/// What is kept of measurements: enough for percentiles and plots, however many there were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, over `count`.
    pub std: f64,
    /// The values at 0 %, 0.5 % … 100 % of the measurements.
    pub quantiles: Vec<f64>,
}

impl Summary {
    /// Summarises; none of nothing. Values that are not finite are left out.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
        let quantiles = (0..=STEPS).map(|i| percentile(&values, 100.0 * i as f64 / STEPS as f64));
        Some(Self { count, mean, std: variance.sqrt(), quantiles: quantiles.collect() })
    }

    /// The value below which `percent` % of the measurements lie; a multiple of 0.5.
    #[must_use]
    pub fn at(&self, percent: f64) -> f64 {
        percentile(&self.quantiles, percent)
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at(50.0)
    }

    /// The least one.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.at(0.0)
    }

    /// The greatest one.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.at(100.0)
    }
}

/// The value in the middle; the values are sorted then.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 50.0)
}

/// A percentile of sorted values, linear between neighbours, as numpy's default. `NaN` of nothing.
#[must_use]
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    let share = place - below as f64;
    sorted[below] + (sorted[above] - sorted[below]) * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_numpys() {
        let sorted = [15.0, 20.0, 35.0, 40.0, 50.0];
        for (percent, expected) in [(0.0, 15.0), (40.0, 29.0), (50.0, 35.0), (90.0, 46.0)] {
            assert!((percentile(&sorted, percent) - expected).abs() < 1e-9, "{percent}");
        }
        assert!(percentile(&[], 50.0).is_nan());
        assert!((percentile(&[7.0], 99.0) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_summary_knows_mean_deviation_and_percentiles() {
        let summary = Summary::of((0..=200).map(f64::from)).unwrap();
        assert_eq!(summary.count, 201);
        let values = [summary.mean, summary.median(), summary.at(99.0), summary.max()];
        for (value, expected) in values.into_iter().zip([100.0, 100.0, 198.0, 200.0]) {
            assert!((value - expected).abs() < 1e-9, "{value} {expected}");
        }
        assert!((Summary::of([1.0, 3.0]).unwrap().std - 1.0).abs() < 1e-9);
        assert_eq!(Summary::of([f64::NAN, f64::INFINITY]), None);
    }

    proptest! {
        #[test]
        fn percentiles_grow_and_stay_inside(mut values in prop::collection::vec(-1e9f64..1e9, 1..300)) {
            let summary = Summary::of(values.clone()).unwrap();
            values.sort_by(f64::total_cmp);
            prop_assert!(summary.quantiles.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert_eq!(summary.min(), values[0]);
            prop_assert_eq!(summary.max(), values[values.len() - 1]);
            prop_assert!(summary.mean >= summary.min() - 1e-3 && summary.mean <= summary.max() + 1e-3);
        }
    }
}
