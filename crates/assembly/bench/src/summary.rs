//! Minimum, median, maximum.

/// Some measurements of one thing.
#[derive(Debug, Default)]
pub(crate) struct Summary(Vec<f64>);

impl Summary {
    pub(crate) fn add(&mut self, value: f64) {
        let at = self.0.partition_point(|other| *other < value);
        self.0.insert(at, value);
    }

    pub(crate) fn median(&self) -> f64 {
        match self.0.as_slice() {
            [] => f64::NAN,
            values if values.len() % 2 == 1 => values[values.len() / 2],
            values => f64::midpoint(values[values.len() / 2 - 1], values[values.len() / 2]),
        }
    }

    /// `median (minimum … maximum)` with the unit.
    pub(crate) fn show(&self, unit: &str) -> String {
        let (first, last) = (self.0.first(), self.0.last());
        let (Some(first), Some(last)) = (first, last) else { return "nothing".to_owned() };
        format!("{:.1} {unit} ({first:.1} … {last:.1})", self.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let mut summary = Summary::default();
        for value in [3.0, 1.0, 2.0] {
            summary.add(value);
        }
        assert_eq!(summary.show("ms"), "2.0 ms (1.0 … 3.0)");
        summary.add(10.0);
        assert!((summary.median() - 2.5).abs() < 1e-9);
        assert_eq!(Summary::default().show("ms"), "nothing");
    }
}
