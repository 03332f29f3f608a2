//! A sequence's state, and the slots that sequences live in.

use crate::speculation::Speculator;
use std::collections::VecDeque;
use tyndall_kv_cache::{BlockTable, HashChain};

/// A sequence of one scheduler; not reused when the sequence is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeqId {
    slot: u32,
    generation: u32,
}

impl SeqId {
    /// A small number that no other present sequence has: an index for the caller's own table.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// A sequence as it is added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSequence {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Most output tokens; absent is what the context leaves.
    pub max_new_tokens: Option<u32>,
    /// Sequences share computed blocks only with those of the same salt.
    pub cache_salt: Vec<u8>,
    /// The logits of every token of the prompt are wanted. It is then computed as a whole, whatever
    /// the prefix cache has.
    pub scores_prompt: bool,
}

/// What became of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceSummary {
    /// Tokens of the prompt.
    pub num_prompt_tokens: u32,
    /// Tokens sampled.
    pub num_output_tokens: u32,
    /// Tokens of the prompt that were found in the prefix cache at the first admission.
    pub num_cached_tokens: u32,
    /// How often it lost its blocks.
    pub num_preemptions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In the queue and never admitted.
    Waiting,
    /// Holds blocks.
    Running,
    /// In the queue after it lost its blocks.
    Preempted,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) state: State,
    /// Prompt, then output.
    pub(crate) tokens: Vec<u32>,
    pub(crate) num_prompt: u32,
    /// The sequence is full at so many tokens.
    pub(crate) max_tokens: u32,
    /// Leading tokens whose keys and values are in the cache.
    pub(crate) num_computed: u32,
    /// Tokens that were missing when it was admitted last.
    pub(crate) prefill_len: u32,
    /// Tokens of the scheduled step that come after its own, not verified yet.
    pub(crate) drafts: VecDeque<u32>,
    pub(crate) speculator: Speculator,
    pub(crate) table: BlockTable,
    pub(crate) chain: HashChain,
    pub(crate) scores_prompt: bool,
    pub(crate) num_cached: u32,
    pub(crate) num_preemptions: u32,
}

impl Sequence {
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.tokens.len()).expect("a sequence is at most max_model_len tokens long")
    }

    pub(crate) fn num_uncomputed(&self) -> u32 {
        self.len() - self.num_computed
    }

    /// Its prompt is still to be scored: after the first output that is done.
    pub(crate) fn is_scored(&self) -> bool {
        self.scores_prompt && self.len() == self.num_prompt
    }

    /// Hashes the blocks that its tokens have filled.
    pub(crate) fn extend_chain(&mut self, enabled: bool) {
        if enabled {
            self.chain.extend(&self.tokens);
        }
    }

    /// Only its last token is to be computed, and its table has room for all of it but perhaps
    /// that one.
    pub(crate) fn is_decoding(&self) -> bool {
        self.num_uncomputed() == 1
    }

    pub(crate) fn summary(&self) -> SequenceSummary {
        SequenceSummary {
            num_prompt_tokens: self.num_prompt,
            num_output_tokens: self.len() - self.num_prompt,
            num_cached_tokens: self.num_cached,
            num_preemptions: self.num_preemptions,
        }
    }
}

/// Sequences by id; slots are used again, generations tell their users apart.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<(u32, Option<Sequence>)>,
    free: Vec<u32>,
}

impl Slots {
    pub(crate) fn insert(&mut self, sequence: Sequence) -> SeqId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("queue and batch are bounded by u32")
        });
        let entry = &mut self.slots[slot as usize];
        entry.1 = Some(sequence);
        SeqId { slot, generation: entry.0 }
    }

    pub(crate) fn get(&self, id: SeqId) -> Option<&Sequence> {
        let (generation, sequence) = self.slots.get(id.slot())?;
        sequence.as_ref().filter(|_| *generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: SeqId) -> Option<&mut Sequence> {
        let (generation, sequence) = self.slots.get_mut(id.slot())?;
        sequence.as_mut().filter(|_| *generation == id.generation)
    }

    /// A sequence that is in the queue or the batch.
    pub(crate) fn expect_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.get_mut(id).expect("queued and running ids are removed together with their sequence")
    }

    pub(crate) fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        let entry = self.slots.get_mut(id.slot()).filter(|entry| entry.0 == id.generation)?;
        let sequence = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(id.slot);
        Some(sequence)
    }
}
