//! The texts of a step, checked and spelled out for the kernels.

use super::spec::EncoderSpec;

/// Slots per block of a step's keys and values; each text begins a block of its own.
pub(super) const BLOCK_SIZE: usize = 16;

/// A text, or a pair of texts, as token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderInput<'a> {
    /// With all special tokens; at least one, and at most as many as the model takes.
    pub ids: &'a [u32],
    /// The type of each token, or none at all where all have type 0. A model without types, or with
    /// one, does not look at them.
    pub types: &'a [u32],
}

impl EncoderInput<'_> {
    /// Slots that its keys and values take.
    pub(super) fn slots(&self) -> usize {
        self.ids.len().next_multiple_of(BLOCK_SIZE)
    }
}

/// Positions, types, slots and bounds of a step. The vectors are reused from step to step.
///
/// `T` tokens, `R` texts.
#[derive(Default)]
pub(super) struct EncoderStep {
    /// `[T]`
    pub(super) ids: Vec<u32>,
    /// Row of the table of types for each token, `[T]`; empty where there is no table.
    pub(super) types: Vec<u32>,
    /// Row of the table of positions for each token, `[T]`.
    pub(super) positions: Vec<u32>,
    /// Place of each token's keys and values, `[T]`.
    pub(super) slots: Vec<u32>,
    /// First token of each text and `T`, `[R + 1]`.
    pub(super) starts: Vec<u32>,
    /// Tokens of each text, `[R]`.
    pub(super) lens: Vec<u32>,
    /// 0, 1, 2, …: as many as blocks.
    pub(super) blocks: Vec<u32>,
    /// First block of each text, `[R]`.
    pub(super) first_blocks: Vec<usize>,
}

impl EncoderStep {
    /// Spells out texts that [`EncoderSpec::check`] has let pass and whose slots are numbered by u32.
    pub(super) fn fill(&mut self, inputs: &[EncoderInput<'_>], spec: &EncoderSpec) {
        let EncoderStep { ids, types, positions, slots, starts, lens, blocks, first_blocks } = self;
        for list in [&mut *ids, types, positions, slots, starts, lens, blocks] {
            list.clear();
        }
        first_blocks.clear();
        starts.push(0);
        let mut slot = 0;
        for input in inputs {
            ids.extend(input.ids);
            match (spec.type_vocab_size, input.types) {
                (0, _) => {}
                (1, _) | (_, []) => types.resize(ids.len(), 0),
                (_, given) => types.extend(given),
            }
            let mut position = spec.positions.first();
            for &id in input.ids {
                let is_padding = spec.positions.padding_id == Some(id);
                positions.push(if is_padding { id } else { position });
                position += u32::from(!is_padding);
            }
            first_blocks.push(slot / BLOCK_SIZE);
            slots.extend((slot as u32..).take(input.ids.len()));
            slot += input.slots();
            starts.push(ids.len() as u32);
            lens.push(input.ids.len() as u32);
        }
        blocks.extend(0..(slot / BLOCK_SIZE) as u32);
    }

    /// Blocks that the texts take.
    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The blocks of each text.
    pub(super) fn block_tables(&self) -> Vec<&[u32]> {
        self.first_blocks.iter().map(|&first| &self.blocks[first..]).collect()
    }
}

impl EncoderSpec {
    /// Whether the model can read a text of at most `max_len` tokens, so that kernels meet no index
    /// out of bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, input: EncoderInput<'_>, max_len: u32) -> Result<(), String> {
        let tokens = input.ids.len();
        if tokens == 0 || tokens > max_len as usize {
            return Err(format!("{tokens} tokens; the model takes from 1 to {max_len}"));
        }
        if let Some(id) = input.ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(format!("token {id} is outside the vocabulary of {}", self.vocab_size));
        }
        let types = self.type_vocab_size;
        if types < 2 || input.types.is_empty() {
            return Ok(());
        }
        if input.types.len() != tokens {
            return Err(format!("{} types for {tokens} tokens", input.types.len()));
        }
        match input.types.iter().find(|&&other| other as usize >= types) {
            Some(other) => Err(format!("type {other} of {types}")),
            None => Ok(()),
        }
    }
}
