//! From the hidden states of a text's tokens to one vector.

/// How the hidden states of a text become one vector. Names as sentence-transformers writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean with weights 1, 2, 3, … by position.
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl Pooling {
    /// All of them, in the order in which several are joined, with the flag that chooses each.
    pub(super) const FLAGS: [(Pooling, &str); 6] = [
        (Pooling::Cls, "pooling_mode_cls_token"),
        (Pooling::Max, "pooling_mode_max_tokens"),
        (Pooling::Mean, "pooling_mode_mean_tokens"),
        (Pooling::MeanSqrtLen, "pooling_mode_mean_sqrt_len_tokens"),
        (Pooling::WeightedMean, "pooling_mode_weightedmean_tokens"),
        (Pooling::LastToken, "pooling_mode_lasttoken"),
    ];

    /// Its name in newer files.
    pub(super) fn named(name: &str) -> Option<Pooling> {
        Some(match name {
            "cls" => Pooling::Cls,
            "max" => Pooling::Max,
            "mean" => Pooling::Mean,
            "mean_sqrt_len_tokens" => Pooling::MeanSqrtLen,
            "weightedmean" => Pooling::WeightedMean,
            "lasttoken" => Pooling::LastToken,
            _ => return None,
        })
    }

    /// Pools `states` (`[T, E]`, at least one row) into `out` (`[E]`). Sums run in the order of the
    /// tokens.
    pub(super) fn pool(self, states: &[f32], out: &mut [f32]) {
        let width = out.len();
        let tokens = states.len() / width;
        let mut sum = |weight: fn(usize) -> f32, divisor: f32| {
            out.fill(0.0);
            for (index, row) in states.chunks_exact(width).enumerate() {
                let weight = weight(index);
                std::iter::zip(&mut *out, row).for_each(|(out, &value)| *out += weight * value);
            }
            out.iter_mut().for_each(|out| *out /= divisor);
        };
        match self {
            Pooling::Cls => out.copy_from_slice(&states[..width]),
            Pooling::LastToken => out.copy_from_slice(&states[states.len() - width..]),
            Pooling::Mean => sum(|_| 1.0, tokens as f32),
            Pooling::MeanSqrtLen => sum(|_| 1.0, (tokens as f32).sqrt()),
            Pooling::WeightedMean => {
                sum(|index| (index + 1) as f32, (tokens * (tokens + 1)) as f32 / 2.0);
            }
            Pooling::Max => {
                out.fill(f32::NEG_INFINITY);
                for row in states.chunks_exact(width) {
                    std::iter::zip(&mut *out, row).for_each(|(out, &value)| *out = out.max(value));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_pooling_is_its_formula() {
        let states = [1.0, -4.0, 2.0, 8.0, 6.0, -1.0, 7.0, 9.0];
        let check = |pooling: Pooling, expected: [f32; 2]| {
            let mut out = [f32::NAN; 2];
            pooling.pool(&states, &mut out);
            assert_eq!(out, expected, "{pooling:?}");
        };
        check(Pooling::Cls, [1.0, -4.0]);
        check(Pooling::LastToken, [7.0, 9.0]);
        check(Pooling::Mean, [4.0, 3.0]);
        check(Pooling::MeanSqrtLen, [8.0, 6.0]);
        check(Pooling::WeightedMean, [5.1, 4.5]);
        check(Pooling::Max, [7.0, 9.0]);
    }
}
