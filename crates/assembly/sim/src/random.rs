//! Random numbers by counter: a draw depends on the seed, what it is for and its number, never on
//! what was drawn before. So the third request of a trace takes as long under one configuration as
//! under another, and a fault more does not change everything after it.

use std::f64::consts::TAU;

/// What a draw is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    Service = 1,
    Start = 2,
    StartFault = 3,
    Victim = 4,
    FaultGap = 5,
    Dispatcher = 6,
    Arrivals = 7,
}

/// All draws of a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random {
    seed: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// All bits. Source of the mixing: SplitMix64, Steele et al., 2014.
    pub(crate) fn bits(self, stream: Stream, n: u64) -> u64 {
        let key = mix(self.seed ^ (stream as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
        mix(key.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Evenly from 0 up to, not including, 1.
    pub(crate) fn unit(self, stream: Stream, n: u64) -> f64 {
        (self.bits(stream, n) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly one of the numbers below `bound`; 0 where that is 0.
    pub(crate) fn below(self, stream: Stream, n: u64, bound: usize) -> usize {
        ((u128::from(self.bits(stream, n)) * bound as u128) >> 64) as usize
    }

    /// With mean 1: the gaps of a process without memory.
    pub(crate) fn exponential(self, stream: Stream, n: u64) -> f64 {
        -(1.0 - self.unit(stream, n)).ln()
    }

    /// With mean 0 and deviation 1, by Box and Muller.
    pub(crate) fn normal(self, stream: Stream, n: u64) -> f64 {
        let bits = self.bits(stream, n);
        let high = ((bits >> 32) as f64 + 0.5) / 4_294_967_296.0;
        let low = (bits & 0xffff_ffff) as f64 / 4_294_967_296.0;
        (-2.0 * high.ln()).sqrt() * (TAU * low).cos()
    }
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_stream_and_number_alone() {
        let draw = |seed, stream, n| Random::new(seed).bits(stream, n);
        assert_eq!(draw(1, Stream::Service, 5), draw(1, Stream::Service, 5));
        assert_ne!(draw(1, Stream::Service, 5), draw(2, Stream::Service, 5));
        assert_ne!(draw(1, Stream::Service, 5), draw(1, Stream::Start, 5));
        assert_ne!(draw(1, Stream::Service, 5), draw(1, Stream::Service, 6));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let random = Random::new(7);
        let moments = |draw: &dyn Fn(u64) -> f64| {
            let n = 40_000;
            let sum: f64 = (0..n).map(draw).sum();
            let squares: f64 = (0..n).map(|i| draw(i).powi(2)).sum();
            (sum / n as f64, squares / n as f64)
        };
        let service = Stream::Service;
        for (draw, mean, square) in [
            (&(|n| random.unit(service, n)) as &dyn Fn(u64) -> f64, 0.5, 1.0 / 3.0),
            (&|n| random.exponential(service, n), 1.0, 2.0),
            (&|n| random.normal(service, n), 0.0, 1.0),
            (&|n| random.below(service, n, 3) as f64, 1.0, 5.0 / 3.0),
        ] {
            let found = moments(draw);
            assert!((found.0 - mean).abs() < 0.02, "{found:?} {mean}");
            assert!((found.1 - square).abs() < 0.06, "{found:?} {square}");
        }
        assert_eq!(random.below(service, 1, 0), 0);
    }
}
