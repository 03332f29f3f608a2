//! Texts and pairs of texts for models that read them as a whole.

use tokenizers::{
    Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy,
    truncate_encodings,
};

use crate::TokenizerError;
use crate::load::guarded;
use crate::tokenizer::Tokenizer;

/// How a text or a pair is brought into the form that a model wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypedOptions {
    /// The tokens around and between the texts, as the tokenizer's post-processor says.
    pub add_special_tokens: bool,
    /// Tokens at most, special ones included; of a pair the longer text gives way first.
    pub truncate_to: Option<usize>,
    /// Texts lose their beginnings instead of their ends.
    pub truncate_left: bool,
}

impl Default for TypedOptions {
    fn default() -> Self {
        Self { add_special_tokens: true, truncate_to: None, truncate_left: false }
    }
}

/// The tokens of a text or a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedTokens {
    /// Their ids.
    pub ids: Vec<u32>,
    /// Which text each belongs to, 0 or 1, as the tokenizer's post-processor numbers them.
    pub types: Vec<u32>,
    /// How many there were before any was cut off.
    pub untruncated_len: usize,
}

impl Tokenizer {
    /// The tokens of `first`, or of the pair with `second`, with their types.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`]: the vocabulary has neither a token nor an unknown token for a
    /// character, or not even the special tokens fit.
    pub fn encode_with_types(
        &self,
        first: &str,
        second: Option<&str>,
        options: TypedOptions,
    ) -> Result<TypedTokens, TokenizerError> {
        guarded(|| self.typed(first, second, options))
            .map_err(|reason| TokenizerError::Encode { reason })
    }

    fn typed(
        &self,
        first: &str,
        second: Option<&str>,
        options: TypedOptions,
    ) -> Result<TypedTokens, String> {
        let inner = self.inner();
        let encode = |text: &str| inner.encode_fast(text, false).map_err(|error| error.to_string());
        let first = encode(first)?;
        let second = second.map(|text| encode(text).map(second_of_pair)).transpose()?;
        let (prefix, suffix) = match options.add_special_tokens {
            true => self.around(),
            false => (None, None),
        };
        let added = match (options.add_special_tokens, inner.get_post_processor()) {
            (true, Some(processor)) => processor.added_tokens(second.is_some()),
            _ => 0,
        };
        let added = added + usize::from(prefix.is_some()) + usize::from(suffix.is_some());
        let untruncated_len = first.len() + second.as_ref().map_or(0, Encoding::len) + added;
        let (first, second) = match options.truncate_to {
            Some(most) if most < untruncated_len => {
                let room = most.checked_sub(added).ok_or_else(|| {
                    format!("{most} tokens are too few: the special tokens alone are {added}")
                })?;
                truncate_encodings(first, second, &truncation(room, options.truncate_left))
                    .map_err(|error| error.to_string())?
            }
            _ => (first, second),
        };
        let encoding = inner
            .post_process(first, second, options.add_special_tokens)
            .map_err(|error| error.to_string())?;
        let ids = prefix.into_iter().chain(encoding.get_ids().iter().copied()).chain(suffix);
        let zero = |id: Option<u32>| id.map(|_| 0);
        let types = encoding.get_type_ids().iter().copied();
        let types = zero(prefix).into_iter().chain(types).chain(zero(suffix));
        Ok(TypedTokens { ids: ids.collect(), types: types.collect(), untruncated_len })
    }
}

/// Post-processors that do not number the texts themselves go by what is there already.
fn second_of_pair(mut encoding: Encoding) -> Encoding {
    encoding.set_type_ids(vec![1; encoding.len()]);
    encoding
}

fn truncation(max_length: usize, left: bool) -> TruncationParams {
    let direction = if left { TruncationDirection::Left } else { TruncationDirection::Right };
    TruncationParams {
        direction,
        max_length,
        strategy: TruncationStrategy::LongestFirst,
        stride: 0,
    }
}
