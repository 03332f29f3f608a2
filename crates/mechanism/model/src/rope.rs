//! Cosines and sines of rotary position embeddings, as transformers computes them.

use std::f64::consts::TAU;

use crate::spec::{RopeScaling, RopeSpec};

/// Rows per growth of the table.
const GROWTH: usize = 256;

/// A table that grows with the positions in use.
pub(crate) struct RopeTable {
    /// `[D / 2]`
    frequencies: Vec<f32>,
    /// `[positions, D / 2]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    positions: usize,
}

impl RopeTable {
    /// Reserves address space for `max_positions` rows, so that growth never moves the table.
    pub(crate) fn new(spec: &RopeSpec, head_dim: usize, max_positions: usize) -> RopeTable {
        let frequencies = frequencies(spec, head_dim);
        let capacity = max_positions.next_multiple_of(GROWTH) * frequencies.len();
        RopeTable {
            frequencies,
            cos: Vec::with_capacity(capacity),
            sin: Vec::with_capacity(capacity),
            positions: 0,
        }
    }

    /// Replaces `cos` and `sin` by the rows of `positions`, `[T, D / 2]` each.
    pub(crate) fn gather(&mut self, positions: &[u32], cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        let needed = positions.iter().max().map_or(0, |&last| last as usize + 1);
        while self.positions < needed {
            self.grow();
        }
        cos.clear();
        sin.clear();
        let half = self.frequencies.len();
        for &position in positions {
            let row = position as usize * half..(position as usize + 1) * half;
            cos.extend_from_slice(&self.cos[row.clone()]);
            sin.extend_from_slice(&self.sin[row]);
        }
    }

    fn grow(&mut self) {
        for position in self.positions..self.positions + GROWTH {
            for &frequency in &self.frequencies {
                // The angle is rounded to f32 as in the reference; its cosine is exact to f32.
                let angle = f64::from(frequency * position as f32);
                self.cos.push(angle.cos() as f32);
                self.sin.push(angle.sin() as f32);
            }
        }
        self.positions += GROWTH;
    }
}

/// Angle per position of each pair of dimensions.
fn frequencies(spec: &RopeSpec, head_dim: usize) -> Vec<f32> {
    let plain = |pair: usize| {
        // The reference raises to an f32 power in f32.
        let exponent = (2 * pair) as f32 / head_dim as f32;
        1.0 / spec.theta.powf(f64::from(exponent)) as f32
    };
    (0..head_dim / 2).map(|pair| scale(plain(pair), spec.scaling)).collect()
}

fn scale(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => (f64::from(frequency) / factor) as f32,
        RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_length,
        } => {
            let exact = f64::from(frequency);
            let wavelength = TAU / exact;
            if wavelength < original_length / high_frequency_factor {
                return frequency;
            }
            if wavelength > original_length / low_frequency_factor {
                return (exact / factor) as f32;
            }
            let blend = (original_length / wavelength - low_frequency_factor)
                / (high_frequency_factor - low_frequency_factor);
            ((1.0 - blend) * exact / factor + blend * exact) as f32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scaling: RopeScaling, frequency: f32, expected: f32) {
        let scaled = scale(frequency, scaling);
        assert!((scaled - expected).abs() <= 1e-7 * expected, "{scaled} is not {expected}");
    }

    #[test]
    fn scalings_follow_their_formulas() {
        check(RopeScaling::None, 0.25, 0.25);
        check(RopeScaling::Linear { factor: 4.0 }, 0.25, 0.0625);
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_length: 8192.0,
        };
        // Wavelength 6.28, below 2048: kept. 62832, above 8192: divided.
        check(llama3, 1.0, 1.0);
        check(llama3, 1e-4, 1.25e-5);
        // Wavelength 4096: two of the one to four waves, a third of the way.
        let middle = (TAU / 4096.0) as f32;
        check(llama3, middle, middle * (2.0 / 3.0 / 8.0 + 1.0 / 3.0));
    }

    #[test]
    fn the_table_does_not_depend_on_the_order_of_use() {
        let spec = RopeSpec { theta: 10_000.0, scaling: RopeScaling::None };
        let rows = |table: &mut RopeTable, positions: &[u32]| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            table.gather(positions, &mut cos, &mut sin);
            (cos, sin)
        };
        let mut grown = RopeTable::new(&spec, 8, 1024);
        rows(&mut grown, &[3]);
        let (cos, sin) = rows(&mut grown, &[0, 700]);
        assert_eq!((&cos[..4], &sin[..4]), (&[1.0f32; 4][..], &[0.0f32; 4][..]));
        let mut fresh = RopeTable::new(&spec, 8, 1024);
        assert_eq!(rows(&mut fresh, &[0, 700]), (cos.clone(), sin.clone()));
        for (cos, sin) in std::iter::zip(cos, sin) {
            assert!((cos * cos + sin * sin - 1.0).abs() < 1e-6);
        }
    }
}
