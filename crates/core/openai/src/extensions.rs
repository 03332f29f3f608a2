//! Fields that the routes for text share and that are not sampling's, most of them vLLM's.

use crate::fields::Fields;
use crate::overrides::num_logprobs;
use crate::{ApiError, structured};
use tyndall_types::StructuredOutput;

/// Longest `cache_salt`, as in vLLM.
pub(crate) const MAX_SALT_BYTES: usize = 128;

/// From which side a prompt is cut where a request asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TruncationSide {
    /// Its beginning goes.
    #[default]
    Left,
    /// Its end goes.
    Right,
}

/// How a prompt that is too long is cut. Without it the request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truncation {
    /// Tokens that stay; absent is all that the model takes.
    pub max_tokens: Option<u32>,
    /// From where.
    pub side: TruncationSide,
}

impl Truncation {
    /// Cuts a prompt for a model that takes `max_model_len` tokens, at least one of them output.
    pub fn cut(self, prompt: &mut Vec<u32>, max_model_len: u32) {
        let room = max_model_len.saturating_sub(1);
        let keep = self.max_tokens.unwrap_or(room).min(room) as usize;
        if prompt.len() > keep {
            match self.side {
                TruncationSide::Left => drop(prompt.drain(..prompt.len() - keep)),
                TruncationSide::Right => prompt.truncate(keep),
            }
        }
    }
}

/// The fields that the routes for text share, beside sampling.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extensions {
    /// What text is possible at all.
    pub structured: Option<StructuredOutput>,
    /// So many most likely tokens for each token of the prompt.
    pub prompt_logprobs: Option<u32>,
    /// The answer has the ids of its tokens and of the prompt's.
    pub token_ids: bool,
    /// Tokens are told as `token_id:N`.
    pub tokens_as_ids: bool,
    /// How a prompt that is too long is cut.
    pub truncation: Option<Truncation>,
    /// Only requests with the same salt share computed prompts.
    pub cache_salt: Option<String>,
}

impl Extensions {
    /// Reads them.
    pub(crate) fn read(fields: &Fields<'_>, stream: bool) -> Result<Self, ApiError> {
        let prompt_logprobs = num_logprobs(fields, "prompt_logprobs")?;
        if stream && prompt_logprobs.is_some_and(|top| top > 0) {
            return Err(ApiError::invalid(
                "prompt_logprobs",
                "prompt_logprobs cannot be told in a stream; send stream: false",
            ));
        }
        Ok(Self {
            structured: structured::read(fields)?,
            prompt_logprobs: prompt_logprobs.filter(|_| !stream),
            token_ids: fields.bool("return_token_ids")?.unwrap_or_default(),
            tokens_as_ids: fields.bool("return_tokens_as_token_ids")?.unwrap_or_default(),
            truncation: truncation(fields, TruncationSide::Left)?,
            cache_salt: cache_salt(fields)?,
        })
    }
}

/// Reads `truncate_prompt_tokens` and `truncation_side`.
pub(crate) fn truncation(
    fields: &Fields<'_>,
    default_side: TruncationSide,
) -> Result<Option<Truncation>, ApiError> {
    let side = match fields.string("truncation_side")? {
        None => default_side,
        Some("left") => TruncationSide::Left,
        Some("right") => TruncationSide::Right,
        Some(other) => {
            return Err(ApiError::invalid(
                "truncation_side",
                format!("truncation_side must be left or right, got {other:?}"),
            ));
        }
    };
    let max = fields.integer("truncate_prompt_tokens", -1, i64::from(u32::MAX))?;
    match max {
        None => Ok(None),
        Some(0) => Err(ApiError::invalid(
            "truncate_prompt_tokens",
            "truncate_prompt_tokens must be at least 1, or -1 for all that the model takes, got 0",
        )),
        Some(max) => Ok(Some(Truncation { max_tokens: u32::try_from(max).ok(), side })),
    }
}

/// Reads `cache_salt`.
pub(crate) fn cache_salt(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let Some(salt) = fields.string("cache_salt")? else { return Ok(None) };
    if salt.is_empty() || salt.len() > MAX_SALT_BYTES || salt.contains(['@', '/', '\\', '\0']) {
        return Err(ApiError::invalid(
            "cache_salt",
            format!(
                "cache_salt must have 1 to {MAX_SALT_BYTES} bytes and none of @ / \\ and NUL, got \
                 {}",
                crate::fields::shown(&salt.into())
            ),
        ));
    }
    Ok(Some(salt.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{Numbers, object};

    fn read(body: &str, stream: bool) -> Result<Extensions, ApiError> {
        let object = object(body.as_bytes())?;
        Extensions::read(&Fields::new(&object, Numbers::Strict), stream)
    }

    #[test]
    fn prompts_are_cut_where_asked() {
        let check = |body: &str, expected: &[u32]| {
            let truncation = read(body, false).unwrap().truncation.unwrap();
            let mut prompt = vec![1, 2, 3, 4, 5];
            truncation.cut(&mut prompt, 5);
            assert_eq!(prompt, expected, "{body}");
        };
        check(r#"{"truncate_prompt_tokens": 2}"#, &[4, 5]);
        check(r#"{"truncate_prompt_tokens": 2, "truncation_side": "right"}"#, &[1, 2]);
        check(r#"{"truncate_prompt_tokens": -1}"#, &[2, 3, 4, 5]);
        check(r#"{"truncate_prompt_tokens": 9}"#, &[2, 3, 4, 5]);
    }

    #[test]
    fn wrong_values_are_named() {
        let check = |body: &str, part: &str| {
            let error = read(body, true).unwrap_err();
            assert!(error.message.contains(part), "{}", error.message);
        };
        check(r#"{"prompt_logprobs": 1}"#, "cannot be told in a stream");
        check(r#"{"truncate_prompt_tokens": 0}"#, "at least 1");
        check(r#"{"truncation_side": "up"}"#, "must be left or right");
        check(r#"{"cache_salt": "a/b"}"#, "cache_salt must have");
        check(r#"{"return_token_ids": 1}"#, "must be true or false");
        assert_eq!(read(r#"{"prompt_logprobs": 0}"#, true).unwrap().prompt_logprobs, None);
        assert_eq!(read(r#"{"prompt_logprobs": 0}"#, false).unwrap().prompt_logprobs, Some(0));
    }
}
