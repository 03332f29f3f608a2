//! What a request asks of the sampler, after validation and with every default filled in.

use serde::{Deserialize, Serialize};

/// Complete, validated sampling parameters. Ranges are checked where a request enters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 is greedy; else logits are divided by it.
    pub temperature: f32,
    /// Nucleus: keep the smallest set of tokens whose probabilities sum to at least this; 1 is off.
    pub top_p: f32,
    /// Keep the k most likely tokens; 0 is off.
    pub top_k: u32,
    /// Drop tokens less likely than this share of the most likely one; 0 is off.
    pub min_p: f32,
    /// Over prompt and output: positive logits divided, negative multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Over output only: subtracted once from each token that occurred.
    pub presence_penalty: f32,
    /// Over output only: subtracted once per occurrence.
    pub frequency_penalty: f32,
    /// Added to the logits of these token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same tokens; absent draws one per request.
    pub seed: Option<u64>,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// These tokens end the output, beside the model's own end tokens.
    pub stop_token_ids: Vec<u32>,
    /// The matched stop string or stop token stays in the text.
    pub include_stop_str_in_output: bool,
    /// End tokens are impossible before so many output tokens.
    pub min_tokens: u32,
    /// At most so many output tokens; absent is what the context leaves.
    pub max_tokens: Option<u32>,
    /// The model's own end tokens do not end the output.
    pub ignore_eos: bool,
    /// Independent completions of the prompt.
    pub n: u32,
    /// With each token its log-probability and those of so many most likely ones.
    pub logprobs: Option<u32>,
    /// Special tokens do not appear in the text.
    pub skip_special_tokens: bool,
    /// All other tokens are impossible; absent is no bound.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Impossible in the output, as text.
    pub bad_words: Vec<String>,
    /// Log-probabilities are reported of these tokens in place of the most likely ones.
    pub logprob_token_ids: Vec<u32>,
    /// When the output counts as going round in circles, which ends it.
    pub repetition_detection: Option<RepetitionDetection>,
}

/// The output ends when its last tokens are some pattern so many times in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepetitionDetection {
    /// Tokens of the shortest pattern, at least 1.
    pub min_pattern_size: u32,
    /// Tokens of the longest pattern.
    pub max_pattern_size: u32,
    /// Times in a row, at least 2.
    pub min_count: u32,
}

impl RepetitionDetection {
    /// Whether `output` ends in a pattern so many times.
    #[must_use]
    pub fn matches(&self, output: &[u32]) -> bool {
        let count = self.min_count.max(1) as usize;
        let longest = (self.max_pattern_size as usize).min(output.len() / count);
        (self.min_pattern_size.max(1) as usize..=longest).any(|size| {
            let start = output.len() - size * count;
            // Periodic: each token is that of one pattern later.
            output[start..].iter().zip(&output[start + size..]).all(|(a, b)| a == b)
        })
    }
}

impl Default for SamplingParams {
    /// OpenAI's defaults.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop_str_in_output: false,
            min_tokens: 0,
            max_tokens: None,
            ignore_eos: false,
            n: 1,
            logprobs: None,
            skip_special_tokens: true,
            allowed_token_ids: None,
            bad_words: Vec::new(),
            logprob_token_ids: Vec::new(),
            repetition_detection: None,
        }
    }
}

/// Why a completion ended, by OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The output went round in circles and the request wants that to end it.
    Repetition,
    /// The caller went away or the server is shutting down.
    Abort,
    /// The engine failed.
    Error,
}

impl FinishReason {
    /// The word that goes over the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Repetition => "repetition",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// What exactly matched when the reason is [`FinishReason::Stop`]; absent for the model's own end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StopReason {
    /// A stop token's id.
    Token(u32),
    /// A stop string.
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_seen() {
        let detection = |min_pattern_size, max_pattern_size, min_count| RepetitionDetection {
            min_pattern_size,
            max_pattern_size,
            min_count,
        };
        let check = |detection: RepetitionDetection, output: &[u32], expected| {
            assert_eq!(detection.matches(output), expected, "{detection:?} {output:?}");
        };
        check(detection(1, 1, 3), &[5, 1, 1, 1], true);
        check(detection(1, 1, 3), &[1, 1, 1, 5], false);
        check(detection(1, 1, 3), &[1, 1], false);
        check(detection(2, 4, 2), &[9, 1, 2, 3, 1, 2, 3], true);
        check(detection(2, 2, 2), &[9, 1, 2, 3, 1, 2, 3], false);
        check(detection(1, u32::MAX, u32::MAX), &[1, 2], false);
    }
}
