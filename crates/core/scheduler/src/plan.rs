//! The choice of a step's rows.

use crate::budget::PrefillBudget;
use crate::cost::StepWork;
use crate::sequence::{Sequence, State};
use crate::speculation::{DraftBudget, MAX_STEP_DRAFTS};
use crate::{Admission, Row, Scheduler, SchedulerOutput, SeqId, Speculation};
use std::mem;

/// What is left of the step that is being scheduled.
struct Budget {
    /// Tokens, those of decodes that have no row yet not counted.
    tokens: u32,
    prefill: PrefillBudget,
    drafts: DraftBudget,
    /// Rows of logits of prompts. Drafts leave the rest of what memory is planned for.
    prompt_logits: u32,
}

impl Scheduler {
    /// Chooses the next step. It has no rows only when there are no sequences.
    pub fn schedule(&mut self) -> &SchedulerOutput {
        self.drop_drafts();
        self.output.clear();
        self.in_flight.clear();
        let mut budget = self.budget();
        self.work = StepWork::default();
        self.schedule_running(&mut budget);
        if self.output.preempted.is_empty() {
            self.admit(&mut budget);
        }
        let is_mixed = self.work.rows > 0 && self.work.prefill_tokens > 0;
        self.mixed_steps = if is_mixed { self.mixed_steps + 1 } else { 0 };
        &self.output
    }

    /// Gives blocks back that only drafts of the last step needed.
    fn drop_drafts(&mut self) {
        for row in self.output.rows.iter().filter(|row| row.num_drafts > 0) {
            let Some(sequence) = self.sequences.get_mut(row.id) else { continue };
            sequence.drafts.clear();
            // Its last token is computed (again) for its logits, should the caller not have taken
            // those of a draft.
            sequence.num_computed = sequence.num_computed.min(sequence.len() - 1);
            let num_blocks = sequence.len().div_ceil(self.config.block_size) as usize;
            self.pool.shrink(&mut sequence.table, num_blocks);
        }
    }

    fn budget(&self) -> Budget {
        let mut decodes = StepWork::default();
        let running = self.running.iter().filter_map(|&id| self.sequences.get(id));
        for sequence in running.filter(|sequence| sequence.is_decoding()) {
            decodes.add_decode(sequence.len(), 0);
        }
        let prefill = match self.config.max_prefill_percent {
            Some(percent) if decodes.rows > 0 => {
                PrefillBudget::beside(&decodes, &self.cost, percent, self.mixed_steps)
            }
            _ => PrefillBudget::UNBOUNDED,
        };
        let drafts = match self.config.speculation {
            Speculation::Off => DraftBudget::NONE,
            Speculation::Auto => DraftBudget::beside(&decodes, &self.cost),
            Speculation::Always => DraftBudget::UNBOUNDED,
        };
        let scored = |id: &SeqId| self.sequences.get(*id).is_some_and(Sequence::is_scored);
        // At most one row per sequence, and so many tokens there are at least.
        let tokens = self.config.max_num_batched_tokens - decodes.rows;
        let prompt_logits = match self.running.iter().chain(self.waiting.front()).any(scored) {
            true => MAX_STEP_DRAFTS,
            false => 0,
        };
        let drafts = if prompt_logits > 0 { DraftBudget::NONE } else { drafts };
        Budget { tokens, prefill, drafts, prompt_logits }
    }

    fn schedule_running(&mut self, budget: &mut Budget) {
        let mut index = 0;
        while index < self.running.len() {
            let id = self.running[index];
            if self.sequences.expect_mut(id).is_decoding() {
                if self.reserve_decode(index, budget) {
                    self.push_decode(id, budget);
                    index += 1;
                }
            } else {
                self.push_prefill(id, budget);
                index += 1;
            }
        }
    }

    /// Gets the block for the last token of a running sequence, by preemption if need be. False
    /// when the sequence itself was preempted.
    fn reserve_decode(&mut self, index: usize, budget: &mut Budget) -> bool {
        let id = self.running[index];
        loop {
            let sequence = self.sequences.expect_mut(id);
            let num_blocks = sequence.len().div_ceil(self.config.block_size) as usize;
            if self.pool.grow(&mut sequence.table, num_blocks).is_ok() {
                return true;
            }
            // The last one has no row in this step yet: rows are given in the same order.
            self.preempt_last(budget);
            if self.running.len() == index {
                return false;
            }
        }
    }

    fn preempt_last(&mut self, budget: &mut Budget) {
        let Some(id) = self.running.pop() else { return };
        let sequence = self.sequences.expect_mut(id);
        budget.tokens += u32::from(sequence.is_decoding());
        sequence.state = State::Preempted;
        sequence.num_computed = 0;
        sequence.num_preemptions += 1;
        self.pool.release(mem::take(&mut sequence.table));
        self.waiting.push_front(id);
        self.num_preempted += 1;
        self.output.preempted.push(id);
    }

    /// A row for a sequence's last token, and for tokens that may follow it.
    fn push_decode(&mut self, id: SeqId, budget: &mut Budget) {
        let drafts = self.draft(id, budget);
        let num_drafts = u32::try_from(drafts.len()).expect("a draft is short");
        budget.drafts.spend(num_drafts);
        budget.tokens -= num_drafts;
        self.num_drafted += u64::from(num_drafts);
        self.sequences.expect_mut(id).drafts = drafts.into();
        let context_len = self.push_row(id, 1);
        self.work.add_decode(context_len, num_drafts);
    }

    /// Tokens to try in advance, for which there is room.
    fn draft(&mut self, id: SeqId, budget: &Budget) -> Vec<u32> {
        if budget.drafts.left() == 0 {
            return Vec::new();
        }
        let block_size = self.config.block_size;
        // Every running sequence can have a block after this, and no waiting one is kept out.
        let spare = match self.waiting.is_empty() {
            true => self.pool.num_available().saturating_sub(self.running.len()),
            false => 0,
        };
        let sequence = self.sequences.expect_mut(id);
        let len = sequence.len();
        let room = sequence
            .table
            .block_ids()
            .len()
            .saturating_add(spare)
            .saturating_mul(block_size as usize);
        let room = u32::try_from(room).unwrap_or(u32::MAX).saturating_sub(len);
        // The last token that it may have is never computed.
        let most = (sequence.max_tokens - len).saturating_sub(1).min(room).min(budget.tokens);
        let mut drafts = sequence.speculator.draft(&sequence.tokens, most, &budget.drafts);
        let end = sequence.tokens.len() + drafts.len();
        if self.pool.grow(&mut sequence.table, end.div_ceil(block_size as usize)).is_err() {
            drafts.clear();
        }
        drafts
    }

    /// A row for as much of a running sequence's prompt as this step has room for, if any.
    fn push_prefill(&mut self, id: SeqId, budget: &mut Budget) {
        let sequence = self.sequences.expect_mut(id);
        let begin = sequence.num_computed;
        let allowed = budget.prefill.tokens(&self.cost, begin, sequence.prefill_len);
        let mut num_tokens = sequence.num_uncomputed().min(budget.tokens).min(allowed);
        if sequence.is_scored() {
            num_tokens = num_tokens.min(budget.prompt_logits);
            budget.prompt_logits -= num_tokens;
        }
        // Its blocks are its own since it was admitted.
        if num_tokens > 0 {
            budget.tokens -= num_tokens;
            budget.prefill.spend(&self.cost, begin, num_tokens);
            self.work.add_prefill(begin, num_tokens);
            self.push_row(id, num_tokens);
        }
    }

    fn admit(&mut self, budget: &mut Budget) {
        while budget.tokens > 0 && self.running.len() < self.config.max_num_seqs as usize {
            let Some(&id) = self.waiting.front() else { return };
            let Some(admission) = self.try_admit(id, budget) else { return };
            self.waiting.pop_front();
            self.running.push(id);
            self.output.admitted.push(admission);
            self.push_prefill(id, budget);
        }
    }

    /// Gives a waiting sequence the blocks of all its tokens. `None` when it has to wait.
    fn try_admit(&mut self, id: SeqId, budget: &Budget) -> Option<Admission> {
        let block_size = self.config.block_size;
        let sequence = self.sequences.expect_mut(id);
        sequence.extend_chain(self.config.enable_prefix_cache);
        let num_tokens = sequence.len();
        // The last token is computed in any case, so a block that ends with it is not shared.
        let sharable = ((num_tokens - 1) / block_size) as usize;
        let hashes = sequence.chain.hashes();
        let sharable = if sequence.is_scored() { 0 } else { sharable };
        let hashes = &hashes[..sharable.min(hashes.len())];
        // What this very step computes can be shared in the next one: waiting one step is cheaper
        // than computing the same prompt twice. It cannot go on for ever, because each time the
        // cached part has grown.
        let num_hits = self.pool.num_cached_prefix(hashes);
        if hashes.get(num_hits).is_some_and(|hash| self.in_flight.contains(hash)) {
            return None;
        }
        let num_cached = u32::try_from(num_hits).expect("block counts are u32") * block_size;
        let prefill_len = num_tokens - num_cached;
        let has_no_logits = sequence.is_scored() && budget.prompt_logits == 0;
        if has_no_logits || budget.prefill.tokens(&self.cost, num_cached, prefill_len) == 0 {
            return None;
        }
        let num_blocks = num_tokens.div_ceil(block_size) as usize;
        sequence.table = self.pool.allocate(hashes, num_blocks).ok()?;
        sequence.num_computed = num_cached;
        sequence.prefill_len = prefill_len;
        let resumed = sequence.state == State::Preempted;
        if resumed {
            self.num_preempted -= 1;
        } else {
            sequence.num_cached = num_cached;
        }
        sequence.state = State::Running;
        Some(Admission { id, num_tokens, num_cached_tokens: num_cached, resumed })
    }

    /// Appends a row of a sequence's next tokens and its drafts; returns its context.
    fn push_row(&mut self, id: SeqId, num_own: u32) -> u32 {
        let block_size = self.config.block_size;
        let sequence = self.sequences.expect_mut(id);
        sequence.extend_chain(self.config.enable_prefix_cache);
        let (begin, end) = (sequence.num_computed, sequence.num_computed + num_own);
        self.output.tokens.extend_from_slice(&sequence.tokens[begin as usize..end as usize]);
        self.output.tokens.extend(&sequence.drafts);
        let num_drafts = u32::try_from(sequence.drafts.len()).expect("a draft is short");
        let wants_logits = end == sequence.len();
        // Its last token says nothing of the prompt.
        let wants_prompt_logits = sequence.is_scored() && begin + 1 < sequence.num_prompt;
        let (num_tokens, context_len) = (num_own + num_drafts, end + num_drafts);
        self.output.rows.push(Row {
            id,
            num_tokens,
            context_len,
            num_drafts,
            wants_logits,
            wants_prompt_logits,
        });
        let filled = (begin / block_size) as usize..(end / block_size) as usize;
        self.in_flight.extend(sequence.chain.hashes().get(filled).unwrap_or_default());
        context_len
    }
}
