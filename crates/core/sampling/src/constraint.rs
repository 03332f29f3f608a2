//! Which tokens are possible at all.

use std::fmt;
use tyndall_types::SamplingParams;

/// Decides token by token how a sequence may go on, for example so that its text fits a grammar.
pub trait Constraint: Send + fmt::Debug {
    /// The tokens that are possible next: bit `i % 32` of word `i / 32` for token `i`, those beyond
    /// the last word impossible; none where all are possible.
    ///
    /// # Errors
    /// It cannot be decided. The sequence ends: nothing is generated without its constraint.
    fn allowed(&mut self) -> Result<Option<&[u32]>, ConstraintError>;

    /// Takes note of the next token.
    ///
    /// # Errors
    /// As [`allowed`](Self::allowed).
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;
}

/// Why a constraint cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the output cannot be kept to its structure: {reason}")]
pub struct ConstraintError {
    /// What failed.
    pub reason: String,
}

/// What a request forbids by itself, whatever its structure.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    /// One bit per token.
    allowed: Option<Vec<u32>>,
    /// Sequences of tokens whose last one is impossible after the others.
    bad: Vec<Vec<u32>>,
    /// The last tokens of the output, as many as the longest of `bad` has.
    tail: Vec<u32>,
    longest: usize,
}

impl Bans {
    pub(crate) fn new(params: &SamplingParams, bad_words: Vec<Vec<u32>>) -> Self {
        let allowed = params.allowed_token_ids.as_ref().map(|ids| bits(ids));
        let bad: Vec<_> = bad_words.into_iter().filter(|word| !word.is_empty()).collect();
        let longest = bad.iter().map(Vec::len).max().unwrap_or_default();
        Self { allowed, bad, tail: Vec::new(), longest }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.allowed.is_none() && self.bad.is_empty()
    }

    pub(crate) fn apply(&self, row: &mut [f32]) {
        if let Some(allowed) = &self.allowed {
            mask(row, allowed);
        }
        for word in &self.bad {
            let (last, before) = word.split_last().expect("no word is empty");
            if self.tail.ends_with(before)
                && let Some(logit) = row.get_mut(*last as usize)
            {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    pub(crate) fn push(&mut self, token: u32) {
        if self.longest > 1 {
            if self.tail.len() + 1 == self.longest {
                self.tail.remove(0);
            }
            self.tail.push(token);
        }
    }
}

fn bits(ids: &[u32]) -> Vec<u32> {
    let words = ids.iter().max().map_or(0, |id| *id as usize / 32 + 1);
    let mut bits = vec![0; words];
    ids.iter().for_each(|id| bits[*id as usize / 32] |= 1 << (id % 32));
    bits
}

/// Makes all tokens impossible that have no bit.
pub(crate) fn mask(row: &mut [f32], allowed: &[u32]) {
    for (logits, &word) in row.chunks_mut(32).zip(allowed) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word & (1 << bit) == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
    if let Some(rest) = row.get_mut(allowed.len() * 32..) {
        rest.fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn possible(row: &[f32]) -> Vec<usize> {
        (0..row.len()).filter(|&i| row[i].is_finite()).collect()
    }

    #[test]
    fn masks_leave_what_has_a_bit() {
        let check = |ids: &[u32], len: usize, expected: &[usize]| {
            let mut row = vec![0.5; len];
            mask(&mut row, &bits(ids));
            assert_eq!(possible(&row), expected);
        };
        check(&[], 3, &[]);
        check(&[0, 33, 69], 70, &[0, 33, 69]);
        check(&[2, 99], 40, &[2]);
        let all: Vec<u32> = (0..32).collect();
        check(&all, 40, &(0..32).collect::<Vec<_>>());
    }

    #[test]
    fn a_bad_word_is_impossible_where_it_would_be_complete() {
        let words = vec![vec![3], vec![1, 2], vec![0, 1, 4], Vec::new()];
        let mut bans = Bans::new(&SamplingParams::default(), words);
        let mut check = |token: Option<u32>, expected: &[usize]| {
            token.into_iter().for_each(|token| bans.push(token));
            let mut row = [0.0; 6];
            bans.apply(&mut row);
            assert_eq!(possible(&row), expected);
        };
        check(None, &[0, 1, 2, 4, 5]);
        check(Some(1), &[0, 1, 4, 5]);
        check(Some(0), &[0, 1, 2, 4, 5]);
        check(Some(1), &[0, 1, 5]);
        check(Some(5), &[0, 1, 2, 4, 5]);
    }
}
