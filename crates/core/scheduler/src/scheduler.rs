//! The scheduler's state and everything that happens between steps.

use crate::cost::{CostModel, StepWork};
use crate::sequence::{Sequence, Slots, State};
use crate::speculation::Speculator;
use crate::{NewSequence, SchedulerConfig, SchedulerOutput, SeqId, SequenceSummary};
use std::collections::{HashSet, VecDeque};
use tyndall_kv_cache::{BlockHash, BlockPool, BlockTable, HashChain};

/// Why a sequence was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Too many sequences wait already.
    #[error("{waiting} requests are waiting already and at most {max} may: try again later")]
    QueueFull {
        /// Sequences waiting for their first step.
        waiting: u32,
        /// Most that may wait.
        max: u32,
    },
    /// The prompt leaves no room for an output token.
    #[error(
        "the prompt has {prompt} tokens and the context holds {max_model_len}, \
         output included: shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Longest sequence, prompt and output together.
        max_model_len: u32,
    },
    /// There is nothing to compute.
    #[error("the prompt has no tokens: pass at least one")]
    EmptyPrompt,
}

impl AddError {
    /// The tokens that a prompt of so many leaves room for; at least one.
    ///
    /// # Errors
    /// [`AddError::EmptyPrompt`] or [`AddError::PromptTooLong`].
    pub fn check_prompt(prompt: usize, max_model_len: u32) -> Result<u32, AddError> {
        if prompt == 0 {
            return Err(AddError::EmptyPrompt);
        }
        u32::try_from(prompt)
            .ok()
            .and_then(|prompt| max_model_len.checked_sub(prompt))
            .filter(|&room| room > 0)
            .ok_or(AddError::PromptTooLong { prompt, max_model_len })
    }
}

/// What a sampled token does to its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is computed in the next step.
    Continues,
    /// It was tried in advance and is computed already: the row's next logits give the one after
    /// it.
    Accepted,
    /// It was the last one allowed: finish the sequence.
    Full,
}

/// Owns the queue, the running batch and the block pool.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) pool: BlockPool,
    pub(crate) sequences: Slots,
    /// First is next; preempted sequences stand before those that never ran.
    pub(crate) waiting: VecDeque<SeqId>,
    /// In the order of admission.
    pub(crate) running: Vec<SeqId>,
    pub(crate) num_preempted: u32,
    pub(crate) output: SchedulerOutput,
    /// Blocks that become full in the scheduled step.
    pub(crate) in_flight: HashSet<BlockHash>,
    pub(crate) cost: CostModel,
    /// What the scheduled step computes.
    pub(crate) work: StepWork,
    /// Steps in a row that had decodes and a prompt.
    pub(crate) mixed_steps: u32,
    pub(crate) num_drafted: u64,
    num_accepted: u64,
}

impl Scheduler {
    /// An idle scheduler. Limits that contradict each other are lowered, see
    /// [`Scheduler::config`].
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        let config = config.resolved();
        Self {
            pool: BlockPool::new(config.num_blocks, config.enable_prefix_cache),
            config,
            sequences: Slots::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            num_preempted: 0,
            output: SchedulerOutput::default(),
            in_flight: HashSet::new(),
            cost: CostModel::default(),
            work: StepWork::default(),
            mixed_steps: 0,
            num_drafted: 0,
            num_accepted: 0,
        }
    }

    /// The limits in force: `max_model_len` is at most what all blocks hold, `max_num_seqs` at
    /// most `max_num_batched_tokens`.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Appends a sequence to the queue.
    ///
    /// # Errors
    /// [`AddError`]; nothing is then changed.
    pub fn add(&mut self, new: NewSequence) -> Result<SeqId, AddError> {
        let max_model_len = self.config.max_model_len;
        let room = AddError::check_prompt(new.prompt.len(), max_model_len)?;
        let num_prompt = max_model_len - room;
        let (waiting, max) = (self.num_waiting() - self.num_preempted, self.config.max_waiting);
        if waiting >= max {
            return Err(AddError::QueueFull { waiting, max });
        }
        let max_new = new.max_new_tokens.map_or(room, |most| most.clamp(1, room));
        let id = self.sequences.insert(Sequence {
            state: State::Waiting,
            tokens: new.prompt,
            num_prompt,
            max_tokens: num_prompt + max_new,
            num_computed: 0,
            prefill_len: 0,
            drafts: VecDeque::new(),
            speculator: Speculator::default(),
            table: BlockTable::default(),
            chain: HashChain::new(self.config.block_size, &new.cache_salt),
            scores_prompt: new.scores_prompt,
            num_cached: 0,
            num_preemptions: 0,
        });
        self.waiting.push_back(id);
        Ok(id)
    }

    /// Tokens of a sequence's prompt that were found in the prefix cache; 0 before its admission.
    #[must_use]
    pub fn num_cached_tokens(&self, id: SeqId) -> u32 {
        self.sequences.get(id).map_or(0, |sequence| sequence.num_cached)
    }

    /// Takes note that the scheduled step is computed.
    pub fn complete_step(&mut self) {
        for row in &self.output.rows {
            let Some(sequence) = self.sequences.get_mut(row.id) else { continue };
            sequence.num_computed = row.own_len();
            commit(&mut self.pool, sequence, self.config.block_size);
        }
    }

    /// Takes note of how long the scheduled step took, sampling included.
    pub fn observe_step(&mut self, seconds: f64) {
        self.cost.observe(&self.work, seconds);
    }

    /// Appends a sampled token to a sequence whose tokens are all computed. `None` when there is
    /// no such sequence.
    pub fn append(&mut self, id: SeqId, token: u32) -> Option<Appended> {
        let sequence = self.sequences.get_mut(id)?;
        sequence.tokens.push(token);
        let draft = sequence.drafts.pop_front();
        let accepted = draft == Some(token);
        if draft.is_some() {
            sequence.speculator.verified(accepted);
        }
        if accepted {
            sequence.num_computed += 1;
            self.num_accepted += 1;
        } else {
            // They follow a token that did not come.
            sequence.drafts.clear();
        }
        Some(match sequence.len() >= sequence.max_tokens {
            true => Appended::Full,
            false if accepted => Appended::Accepted,
            false => Appended::Continues,
        })
    }

    /// Ends a sequence, waiting or running; its computed blocks stay in the prefix cache. `None`
    /// when there is no such sequence.
    pub fn finish(&mut self, id: SeqId) -> Option<SequenceSummary> {
        let mut sequence = self.remove(id)?;
        // Tokens accepted in the last step may have filled blocks.
        sequence.extend_chain(self.config.enable_prefix_cache);
        commit(&mut self.pool, &mut sequence, self.config.block_size);
        let summary = sequence.summary();
        self.pool.release(sequence.table);
        Some(summary)
    }

    /// Ends a sequence whose blocks cannot be trusted: no one will share them. `None` when there
    /// is no such sequence.
    pub fn discard(&mut self, id: SeqId) -> Option<SequenceSummary> {
        let sequence = self.remove(id)?;
        let summary = sequence.summary();
        self.pool.discard(sequence.table);
        Some(summary)
    }

    /// Forgets every cached block.
    pub fn clear_prefix_cache(&mut self) {
        self.pool.clear_cache();
    }

    /// The step that [`Scheduler::schedule`] chose last.
    #[must_use]
    pub fn output(&self) -> &SchedulerOutput {
        &self.output
    }

    /// The KV blocks of a sequence, in order; empty unless it runs.
    #[must_use]
    pub fn block_table(&self, id: SeqId) -> &[u32] {
        self.sequences.get(id).map_or(&[], |sequence| sequence.table.block_ids())
    }

    /// The sequence's tokens, prompt first. `None` when there is no such sequence.
    #[must_use]
    pub fn tokens(&self, id: SeqId) -> Option<&[u32]> {
        self.sequences.get(id).map(|sequence| sequence.tokens.as_slice())
    }

    /// Sequences that hold blocks.
    #[must_use]
    pub fn num_running(&self) -> u32 {
        count(self.running.len())
    }

    /// Sequences in the queue, preempted ones included.
    #[must_use]
    pub fn num_waiting(&self) -> u32 {
        count(self.waiting.len())
    }

    /// Sequences in the queue that ran before.
    #[must_use]
    pub fn num_preempted(&self) -> u32 {
        self.num_preempted
    }

    /// Tokens that were tried in advance, since the start.
    #[must_use]
    pub fn num_drafted(&self) -> u64 {
        self.num_drafted
    }

    /// Those of them that were sampled then.
    #[must_use]
    pub fn num_accepted(&self) -> u64 {
        self.num_accepted
    }

    /// Neither waiting nor running sequences.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The block pool, to look at.
    #[must_use]
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        let sequence = self.sequences.remove(id)?;
        match sequence.state {
            State::Running => self.running.retain(|other| *other != id),
            State::Waiting => self.waiting.retain(|other| *other != id),
            State::Preempted => {
                self.waiting.retain(|other| *other != id);
                self.num_preempted -= 1;
            }
        }
        Some(sequence)
    }
}

/// Offers a sequence's computed blocks to the prefix cache.
fn commit(pool: &mut BlockPool, sequence: &mut Sequence, block_size: u32) {
    let full = (sequence.num_computed / block_size) as usize;
    let hashes = sequence.chain.hashes();
    pool.commit(&mut sequence.table, &hashes[..full.min(hashes.len())]);
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("queue and batch are bounded by u32 limits")
}
