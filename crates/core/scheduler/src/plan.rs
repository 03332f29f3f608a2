//! The choice of a step's rows.

use crate::sequence::{Sequence, State};
use crate::{Admission, Row, Scheduler, SchedulerOutput, SeqId};
use std::mem;

impl Scheduler {
    /// Chooses the next step. It has no rows only when there are no sequences.
    pub fn schedule(&mut self) -> &SchedulerOutput {
        self.output.clear();
        self.in_flight.clear();
        let mut budget = self.config.max_num_batched_tokens;
        self.schedule_running(&mut budget);
        if self.output.preempted.is_empty() {
            self.admit(&mut budget);
        }
        &self.output
    }

    fn schedule_running(&mut self, budget: &mut u32) {
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            if let Some(num_tokens) = self.reserve(index, *budget) {
                self.push_row(self.running[index], num_tokens);
                *budget -= num_tokens;
                index += 1;
            }
        }
    }

    /// Gets the blocks for the next tokens of a running sequence, by preemption if need be.
    /// `None` when the sequence itself was preempted.
    fn reserve(&mut self, index: usize, budget: u32) -> Option<u32> {
        let id = self.running[index];
        loop {
            let sequence = self.sequences.expect_mut(id);
            let num_tokens = sequence.num_uncomputed().min(budget);
            let end = sequence.num_computed + num_tokens;
            let num_blocks = end.div_ceil(self.config.block_size) as usize;
            if self.pool.grow(&mut sequence.table, num_blocks).is_ok() {
                return Some(num_tokens);
            }
            // The last one has no row in this step yet: rows are given in the same order.
            self.preempt_last();
            if self.running.len() == index {
                return None;
            }
        }
    }

    fn preempt_last(&mut self) {
        let Some(id) = self.running.pop() else { return };
        let sequence = self.sequences.expect_mut(id);
        sequence.state = State::Preempted;
        sequence.num_computed = 0;
        sequence.num_preemptions += 1;
        self.pool.release(mem::take(&mut sequence.table));
        self.waiting.push_front(id);
        self.num_preempted += 1;
        self.output.preempted.push(id);
    }

    fn admit(&mut self, budget: &mut u32) {
        while *budget > 0 && self.running.len() < self.config.max_num_seqs as usize {
            let Some(&id) = self.waiting.front() else { return };
            let Some(admission) = self.try_admit(id) else { return };
            self.waiting.pop_front();
            self.running.push(id);
            self.output.admitted.push(admission);
            let num_tokens = (admission.num_tokens - admission.num_cached_tokens).min(*budget);
            self.push_row(id, num_tokens);
            *budget -= num_tokens;
        }
    }

    /// Gives a waiting sequence the blocks of all its tokens. `None` when it has to wait.
    fn try_admit(&mut self, id: SeqId) -> Option<Admission> {
        let block_size = self.config.block_size;
        let sequence = self.sequences.expect_mut(id);
        extend_chain(sequence, self.config.enable_prefix_cache);
        let num_tokens = sequence.len();
        // The last token is computed in any case, so a block that ends with it is not shared.
        let sharable = ((num_tokens - 1) / block_size) as usize;
        let hashes = sequence.chain.hashes();
        let hashes = &hashes[..sharable.min(hashes.len())];
        // What this very step computes can be shared in the next one: waiting one step is cheaper
        // than computing the same prompt twice. It cannot go on for ever, because each time the
        // cached part has grown.
        let next = hashes.get(self.pool.num_cached_prefix(hashes));
        if next.is_some_and(|hash| self.in_flight.contains(hash)) {
            return None;
        }
        let num_blocks = num_tokens.div_ceil(block_size) as usize;
        sequence.table = self.pool.allocate(hashes, num_blocks).ok()?;
        let hits = u32::try_from(sequence.table.num_hits()).expect("block counts are u32");
        sequence.num_computed = hits * block_size;
        let resumed = sequence.state == State::Preempted;
        if resumed {
            self.num_preempted -= 1;
        } else {
            sequence.num_cached = sequence.num_computed;
        }
        sequence.state = State::Running;
        Some(Admission { id, num_tokens, num_cached_tokens: sequence.num_computed, resumed })
    }

    fn push_row(&mut self, id: SeqId, num_tokens: u32) {
        let block_size = self.config.block_size;
        let sequence = self.sequences.expect_mut(id);
        extend_chain(sequence, self.config.enable_prefix_cache);
        let (begin, end) = (sequence.num_computed, sequence.num_computed + num_tokens);
        self.output.tokens.extend_from_slice(&sequence.tokens[begin as usize..end as usize]);
        let wants_logits = end == sequence.len();
        self.output.rows.push(Row { id, num_tokens, context_len: end, wants_logits });
        let filled = (begin / block_size) as usize..(end / block_size) as usize;
        self.in_flight.extend(sequence.chain.hashes().get(filled).unwrap_or_default());
    }
}

fn extend_chain(sequence: &mut Sequence, enabled: bool) {
    if enabled {
        sequence.chain.extend(&sequence.tokens);
    }
}
