//! A step's batch, checked and spelled out for the kernels.

use crate::batch::{StepBatch, StepError};

/// Positions, slots and bounds of a step. The vectors are reused from step to step.
///
/// `T` tokens, `R` sequences.
#[derive(Default)]
pub(crate) struct Prepared {
    /// Position of each token in its sequence, `[T]`.
    pub(crate) positions: Vec<u32>,
    /// Place of each token in the KV cache, `[T]`: block times block size plus offset.
    pub(crate) slots: Vec<u32>,
    /// First row of each sequence and `T`, `[R + 1]`.
    pub(crate) q_starts: Vec<u32>,
    /// Tokens of each sequence when the step is done, `[R]`.
    pub(crate) context_lens: Vec<u32>,
    /// Rows whose logits are wanted.
    pub(crate) logits_rows: Vec<u32>,
}

/// What a batch must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) vocab_size: usize,
    pub(crate) max_model_len: u32,
    pub(crate) num_blocks: usize,
    pub(crate) block_size: usize,
}

impl Prepared {
    /// Checks the batch, so that kernels meet no index out of bounds.
    pub(crate) fn fill(&mut self, batch: &StepBatch<'_>, limits: &Limits) -> Result<(), StepError> {
        let Prepared { positions, slots, q_starts, context_lens, logits_rows } = self;
        for list in [&mut *positions, slots, q_starts, context_lens, logits_rows] {
            list.clear();
        }
        if let Some(&token) =
            batch.tokens.iter().find(|&&token| token as usize >= limits.vocab_size)
        {
            return Err(refuse(format!(
                "token {token} is outside the vocabulary of {}",
                limits.vocab_size
            )));
        }
        q_starts.push(0);
        let mut row = 0u32;
        for (index, seq) in batch.seqs.iter().enumerate() {
            let wrong = |what: String| refuse(format!("sequence {index}: {what}"));
            let (num_tokens, context_len) = (seq.num_tokens, seq.context_len);
            if num_tokens == 0 || num_tokens > context_len || context_len > limits.max_model_len {
                return Err(wrong(format!(
                    "{num_tokens} tokens up to a context of {context_len}, of at most {}",
                    limits.max_model_len
                )));
            }
            let num_blocks = (context_len as usize).div_ceil(limits.block_size);
            let Some(blocks) = seq.block_table.get(..num_blocks) else {
                return Err(wrong(format!(
                    "{} blocks for a context of {context_len} tokens, which takes {num_blocks}",
                    seq.block_table.len()
                )));
            };
            if let Some(block) = blocks.iter().find(|&&block| block as usize >= limits.num_blocks) {
                return Err(wrong(format!("block {block} of {}", limits.num_blocks)));
            }
            for position in context_len - num_tokens..context_len {
                let block_size = limits.block_size as u32;
                let block = blocks[(position / block_size) as usize];
                positions.push(position);
                slots.push(block * block_size + position % block_size);
            }
            // Saturating: a sum beyond u32 cannot equal the number of tokens below.
            row = row.saturating_add(num_tokens);
            q_starts.push(row);
            context_lens.push(context_len);
            if seq.num_logits > num_tokens {
                return Err(wrong(format!("{} logits of {num_tokens} tokens", seq.num_logits)));
            }
            logits_rows.extend(row - seq.num_logits..row);
        }
        if row as usize != batch.tokens.len() {
            return Err(refuse(format!(
                "{} tokens, but its sequences have {row}",
                batch.tokens.len()
            )));
        }
        Ok(())
    }
}

fn refuse(reason: String) -> StepError {
    StepError::Batch { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::SeqChunk;

    const LIMITS: Limits =
        Limits { vocab_size: 100, max_model_len: 64, num_blocks: 8, block_size: 4 };

    fn seq(num_tokens: u32, context_len: u32, block_table: &[u32]) -> SeqChunk<'_> {
        SeqChunk { num_tokens, context_len, block_table, num_logits: 1 }
    }

    #[test]
    fn a_ragged_batch_is_spelled_out() {
        let seqs = [
            SeqChunk { num_logits: 0, ..seq(3, 3, &[5]) },
            SeqChunk { num_logits: 2, ..seq(2, 6, &[7, 0, 3]) },
            seq(1, 1, &[2]),
        ];
        let mut prepared = Prepared::default();
        prepared.fill(&StepBatch { tokens: &[9; 6], seqs: &seqs }, &LIMITS).expect("a good batch");
        assert_eq!(prepared.positions, [0, 1, 2, 4, 5, 0]);
        assert_eq!(prepared.slots, [20, 21, 22, 0, 1, 8]);
        assert_eq!(prepared.q_starts, [0, 3, 5, 6]);
        assert_eq!(prepared.context_lens, [3, 6, 1]);
        assert_eq!(prepared.logits_rows, [3, 4, 5]);
    }

    fn check_refused(tokens: &[u32], seqs: &[SeqChunk<'_>], word: &str) {
        let error = Prepared::default()
            .fill(&StepBatch { tokens, seqs }, &LIMITS)
            .expect_err("a bad batch");
        assert!(error.to_string().contains(word), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        check_refused(&[100], &[seq(1, 1, &[0])], "token 100");
        check_refused(&[1], &[seq(0, 1, &[0])], "0 tokens");
        check_refused(&[1, 1], &[seq(2, 1, &[0])], "2 tokens");
        check_refused(&[1], &[seq(1, 65, &[0])], "context of 65");
        check_refused(&[1], &[seq(1, 5, &[0])], "1 blocks");
        check_refused(&[1], &[seq(1, 5, &[0, 8])], "block 8");
        check_refused(&[1, 1], &[seq(1, 1, &[0])], "2 tokens");
        check_refused(&[1], &[SeqChunk { num_logits: 2, ..seq(1, 1, &[0]) }], "2 logits");
    }
}
