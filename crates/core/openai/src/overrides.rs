//! Sampling fields as a request sends them, and how they join the model's own defaults.

use crate::fields::{Bounds, Fields};
use crate::{ApiError, MAX_LOGPROBS, MAX_N, MAX_STOP_STRINGS};
use serde_json::Value;
use tyndall_types::{RepetitionDetection, SamplingDefaults, SamplingParams};

/// Below this temperature sampling is greedy.
const GREEDY_BELOW: f32 = 1e-5;

/// Smaller temperatures than this overflow logits; they are raised to it.
const MIN_TEMPERATURE: f32 = 0.01;

/// Stronger repetition penalties than these, in either direction, overflow logits.
const REPETITION_PENALTIES: (f32, f32) = (1e-6, 1e6);

/// Strings of `bad_words`.
pub(crate) const MAX_BAD_WORDS: usize = 128;

/// Ids of `logprob_token_ids`.
pub(crate) const MAX_LOGPROB_TOKEN_IDS: usize = 128;

/// Tokens of the longest pattern that `repetition_detection` looks for.
pub(crate) const MAX_PATTERN_SIZE: u32 = 1024;

/// What sampling takes.
pub(crate) const TEMPERATURE: Bounds = Bounds::closed(0.0, 2.0);
pub(crate) const TOP_P: Bounds = Bounds::open_below(0.0, 1.0);
pub(crate) const MIN_P: Bounds = Bounds::closed(0.0, 1.0);
pub(crate) const REPETITION_PENALTY: Bounds = Bounds::open_below(0.0, f64::MAX);
/// Of presence and frequency.
pub(crate) const PENALTY: Bounds = Bounds::closed(-2.0, 2.0);

/// The sampling fields of one request; none where the request says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    /// 0..=2; 0 is greedy.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    /// 0..=1.
    pub min_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
    /// -2..=2.
    pub presence_penalty: Option<f32>,
    /// -2..=2.
    pub frequency_penalty: Option<f32>,
    /// Token id to bias, clamped to ±100.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text.
    pub seed: Option<u64>,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// These tokens end the text.
    pub stop_token_ids: Vec<u32>,
    /// What matched stays in the text.
    pub include_stop_str_in_output: bool,
    /// End tokens are impossible before.
    pub min_tokens: u32,
    /// At most so many; none is what the model says, then what the context leaves.
    pub max_tokens: Option<u32>,
    /// End tokens do not end the text.
    pub ignore_eos: bool,
    /// Completions of each prompt.
    pub n: u32,
    /// So many most likely tokens with each token.
    pub logprobs: Option<u32>,
    /// Special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// All others are impossible.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Impossible in the text.
    pub bad_words: Vec<String>,
    /// Log-probabilities of these tokens with each token, in place of the most likely ones.
    pub logprob_token_ids: Vec<u32>,
    /// When the text goes round in circles.
    pub repetition_detection: Option<RepetitionDetection>,
}

impl Overrides {
    /// Nothing is said.
    #[must_use]
    pub fn none() -> Self {
        Self { n: 1, skip_special_tokens: true, ..Self::default() }
    }

    /// Reads every sampling field except `max_tokens` and the log-probabilities, which the routes
    /// name differently.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let float = |name, bounds| Ok(fields.number(name, bounds)?.map(|value| value as f32));
        let overrides = Self {
            temperature: float("temperature", TEMPERATURE)?,
            top_p: float("top_p", TOP_P)?,
            top_k: top_k(fields)?,
            min_p: float("min_p", MIN_P)?,
            repetition_penalty: float("repetition_penalty", REPETITION_PENALTY)?,
            presence_penalty: float("presence_penalty", PENALTY)?,
            frequency_penalty: float("frequency_penalty", PENALTY)?,
            logit_bias: logit_bias(fields)?,
            seed: seed(fields)?,
            stop: stop(fields, "stop")?,
            stop_token_ids: fields.token_ids("stop_token_ids")?,
            include_stop_str_in_output: fields
                .bool("include_stop_str_in_output")?
                .unwrap_or_default(),
            min_tokens: fields.count("min_tokens", 0, u32::MAX)?.unwrap_or_default(),
            max_tokens: None,
            ignore_eos: fields.bool("ignore_eos")?.unwrap_or_default(),
            n: fields.count("n", 1, MAX_N)?.unwrap_or(1),
            logprobs: None,
            skip_special_tokens: fields.bool("skip_special_tokens")?.unwrap_or(true),
            allowed_token_ids: allowed_token_ids(fields)?,
            bad_words: bad_words(fields)?,
            logprob_token_ids: logprob_token_ids(fields)?,
            repetition_detection: repetition_detection(fields)?,
        };
        if fields.count("best_of", 1, u32::MAX)?.is_some_and(|best| best > overrides.n) {
            return Err(ApiError::invalid("best_of", "best_of must not be larger than n"));
        }
        Ok(overrides)
    }

    /// Checks what concerns several fields. Called when all fields are read.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        match self.max_tokens {
            Some(max) if self.min_tokens > max => Err(ApiError::invalid(
                "min_tokens",
                format!(
                    "min_tokens must not be larger than max_tokens, got {} and {max}",
                    self.min_tokens
                ),
            )),
            _ => self.greedy_n(self.temperature),
        }
    }

    /// Fills in what the request left open: first from the model's defaults, then OpenAI's.
    ///
    /// # Errors
    /// When the joined values contradict each other: several greedy completions of one prompt.
    pub fn resolve(self, defaults: &SamplingDefaults) -> Result<SamplingParams, ApiError> {
        let open = SamplingParams::default();
        let temperature = self.temperature.or(defaults.temperature).unwrap_or(open.temperature);
        self.greedy_n(Some(temperature))?;
        let greedy = temperature < GREEDY_BELOW;
        let (weakest, strongest) = REPETITION_PENALTIES;
        let unless_greedy = |value: Option<f32>, default: Option<f32>, open: f32| {
            if greedy { open } else { value.or(default).unwrap_or(open) }
        };
        Ok(SamplingParams {
            temperature: if greedy { 0.0 } else { temperature.max(MIN_TEMPERATURE) },
            top_p: unless_greedy(self.top_p, defaults.top_p, open.top_p),
            top_k: if greedy { 0 } else { self.top_k.or(defaults.top_k).unwrap_or(open.top_k) },
            min_p: unless_greedy(self.min_p, defaults.min_p, open.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(open.repetition_penalty)
                .clamp(weakest, strongest),
            presence_penalty: self
                .presence_penalty
                .or(defaults.presence_penalty)
                .unwrap_or(open.presence_penalty),
            frequency_penalty: self
                .frequency_penalty
                .or(defaults.frequency_penalty)
                .unwrap_or(open.frequency_penalty),
            logit_bias: self.logit_bias,
            seed: self.seed,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            include_stop_str_in_output: self.include_stop_str_in_output,
            min_tokens: self.min_tokens,
            max_tokens: self.max_tokens.or(defaults.max_new_tokens),
            ignore_eos: self.ignore_eos,
            n: self.n,
            logprobs: self.logprobs,
            skip_special_tokens: self.skip_special_tokens,
            allowed_token_ids: self.allowed_token_ids,
            bad_words: self.bad_words,
            logprob_token_ids: self.logprob_token_ids,
            repetition_detection: self.repetition_detection,
        })
    }

    fn greedy_n(&self, temperature: Option<f32>) -> Result<(), ApiError> {
        match temperature {
            Some(value) if value < GREEDY_BELOW && self.n > 1 => Err(ApiError::invalid(
                "n",
                format!(
                    "n must be 1 when temperature is 0, got {}: greedy completions of one prompt \
                     are all the same",
                    self.n
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// How a stream reports usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOptions {
    /// A last chunk carries the usage.
    pub include_usage: bool,
    /// Every chunk carries the usage so far.
    pub continuous_usage_stats: bool,
}

impl StreamOptions {
    /// Reads `stream` and `stream_options`.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<(bool, Self), ApiError> {
        let stream = fields.bool("stream")?.unwrap_or_default();
        let Some(object) = fields.object("stream_options")? else {
            return Ok((stream, Self::default()));
        };
        if !stream {
            return Err(ApiError::invalid(
                "stream_options",
                "stream_options is only allowed with stream: true",
            ));
        }
        let nested = Fields::nested(object, "stream_options.", crate::fields::Numbers::Strict);
        Ok((
            true,
            Self {
                include_usage: nested.bool("include_usage")?.unwrap_or_default(),
                continuous_usage_stats: nested.bool("continuous_usage_stats")?.unwrap_or_default(),
            },
        ))
    }
}

/// The output tokens that a prompt may have: what was asked for, clamped to what the context
/// leaves.
///
/// # Errors
/// When the prompt leaves no room for a single token; prompts are never cut.
pub fn fit_max_tokens(
    num_prompt_tokens: usize,
    asked: Option<u32>,
    max_model_len: u32,
) -> Result<u32, ApiError> {
    let prompt = u32::try_from(num_prompt_tokens).unwrap_or(u32::MAX);
    if prompt >= max_model_len {
        return Err(ApiError::invalid(
            "input_tokens",
            format!(
                "the maximum context length is {max_model_len} tokens and the prompt has \
                 {num_prompt_tokens}: at most {} leave room for an answer; send a shorter prompt",
                max_model_len.saturating_sub(1)
            ),
        ));
    }
    let left = max_model_len - prompt;
    Ok(asked.map_or(left, |asked| asked.min(left)))
}

fn top_k(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let top_k = fields.integer("top_k", -1, i64::from(u32::MAX))?;
    Ok(top_k.map(|k| u32::try_from(k).unwrap_or_default()))
}

/// Any 64-bit integer; -1 is none.
pub(crate) fn seed(fields: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    let seed = fields.integer("seed", i64::MIN, i64::MAX)?;
    Ok(seed.filter(|&seed| seed != -1).map(i64::cast_unsigned))
}

/// One stop string or up to four.
pub(crate) fn stop(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let wrong = |value| fields.wrong(name, "a string or a list of strings", value);
    let stop = match fields.get(name) {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(item)))
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong(other)),
    };
    let path = fields.path(name);
    if stop.iter().any(String::is_empty) {
        return Err(ApiError::invalid(&path, format!("{path} must not hold an empty string")));
    }
    if stop.len() > MAX_STOP_STRINGS {
        return Err(ApiError::invalid(
            &path,
            format!("{path} takes at most {MAX_STOP_STRINGS} strings, got {}", stop.len()),
        ));
    }
    Ok(stop)
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    object
        .iter()
        .map(|(key, value)| {
            let id = key.parse::<u32>().map_err(|_| {
                ApiError::invalid(
                    "logit_bias",
                    format!("logit_bias keys must be token ids, got {key:?}"),
                )
            })?;
            let bias = value
                .as_f64()
                .ok_or_else(|| fields.wrong("logit_bias", "an object of numbers", value))?;
            Ok((id, bias.clamp(-100.0, 100.0) as f32))
        })
        .collect()
}

/// Reads the number of most likely tokens to report.
pub(crate) fn num_logprobs(fields: &Fields<'_>, name: &str) -> Result<Option<u32>, ApiError> {
    fields.count(name, 0, MAX_LOGPROBS)
}

/// Fields that would change the text if they were carried out.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    if fields.get("prompt_embeds").is_some() {
        return Err(ApiError::unsupported("prompt_embeds"));
    }
    if fields.bool("use_beam_search")? == Some(true) {
        return Err(ApiError::unsupported("use_beam_search"));
    }
    Ok(())
}

fn allowed_token_ids(fields: &Fields<'_>) -> Result<Option<Vec<u32>>, ApiError> {
    let ids = fields.token_ids("allowed_token_ids")?;
    match fields.get("allowed_token_ids") {
        None => Ok(None),
        Some(_) if ids.is_empty() => Err(ApiError::invalid(
            "allowed_token_ids",
            "allowed_token_ids must not be empty; leave it out to allow all",
        )),
        Some(_) => Ok(Some(ids)),
    }
}

fn bad_words(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let Some(list) = fields.list("bad_words")? else { return Ok(Vec::new()) };
    if list.len() > MAX_BAD_WORDS {
        return Err(ApiError::invalid(
            "bad_words",
            format!("bad_words takes at most {MAX_BAD_WORDS} strings, got {}", list.len()),
        ));
    }
    list.iter()
        .map(|word| match word {
            Value::String(word) if !word.is_empty() => Ok(word.clone()),
            other => Err(fields.wrong("bad_words", "a list of strings, none empty", other)),
        })
        .collect()
}

fn logprob_token_ids(fields: &Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let ids = fields.token_ids("logprob_token_ids")?;
    if ids.len() > MAX_LOGPROB_TOKEN_IDS {
        return Err(ApiError::invalid(
            "logprob_token_ids",
            format!(
                "logprob_token_ids takes at most {MAX_LOGPROB_TOKEN_IDS} ids, got {}",
                ids.len()
            ),
        ));
    }
    Ok(ids)
}

fn repetition_detection(fields: &Fields<'_>) -> Result<Option<RepetitionDetection>, ApiError> {
    let Some(object) = fields.object("repetition_detection")? else { return Ok(None) };
    let nested = Fields::nested(object, "repetition_detection.", crate::fields::Numbers::Strict);
    let max_pattern_size = nested.count("max_pattern_size", 0, MAX_PATTERN_SIZE)?;
    let min_pattern_size = nested.count("min_pattern_size", 0, MAX_PATTERN_SIZE)?.unwrap_or(1);
    let min_count = nested.count("min_count", 2, u32::MAX)?.unwrap_or(2);
    let Some(max_pattern_size) = max_pattern_size.filter(|size| *size > 0) else { return Ok(None) };
    if min_pattern_size > max_pattern_size {
        return Err(ApiError::invalid(
            "repetition_detection.min_pattern_size",
            format!(
                "repetition_detection.min_pattern_size must not be larger than max_pattern_size, \
                 got {min_pattern_size} and {max_pattern_size}"
            ),
        ));
    }
    Ok(Some(RepetitionDetection {
        min_pattern_size: min_pattern_size.max(1),
        max_pattern_size,
        min_count,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{Numbers, object};

    fn read(body: &str) -> Result<Overrides, ApiError> {
        let object = object(body.as_bytes())?;
        Overrides::read(&Fields::new(&object, Numbers::Strict))
    }

    fn refused(body: &str) -> String {
        read(body).unwrap_err().message
    }

    #[test]
    fn ranges_are_named_with_field_and_value() {
        for (body, message) in [
            (r#"{"temperature": 2.5}"#, "temperature must be a number between 0 and 2, got 2.5"),
            (r#"{"temperature": -1}"#, "temperature must be a number between 0 and 2, got -1"),
            (
                r#"{"temperature": "hot"}"#,
                "temperature must be a number between 0 and 2, got \"hot\"",
            ),
            (r#"{"top_p": 0}"#, "top_p must be a number above 0 and at most 1, got 0"),
            (r#"{"top_k": -2}"#, "top_k must be an integer of at least -1, got -2"),
            (r#"{"min_p": 1.1}"#, "min_p must be a number between 0 and 1, got 1.1"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty must be a number above 0, got 0"),
            (
                r#"{"presence_penalty": 3}"#,
                "presence_penalty must be a number between -2 and 2, got 3",
            ),
            (r#"{"n": 0}"#, "n must be an integer between 1 and 128, got 0"),
            (r#"{"n": true}"#, "n must be an integer between 1 and 128, got true"),
            (r#"{"seed": 1.5}"#, "seed must be an integer, got 1.5"),
            (r#"{"stop": ["a", 1]}"#, "stop must be a string or a list of strings, got 1"),
            (r#"{"stop": ""}"#, "stop must not hold an empty string"),
            (r#"{"stop": ["a","b","c","d","e"]}"#, "stop takes at most 4 strings, got 5"),
            (r#"{"stop_token_ids": [-1]}"#, "stop_token_ids must be a list of token ids, got -1"),
            (r#"{"logit_bias": {"x": 1}}"#, "logit_bias keys must be token ids, got \"x\""),
            (r#"{"logit_bias": {"1": "a"}}"#, "logit_bias must be an object of numbers, got \"a\""),
            (r#"{"min_tokens": -1}"#, "min_tokens must be an integer of at least 0, got -1"),
            (r#"{"best_of": 3, "n": 2}"#, "best_of must not be larger than n"),
            (r#"{"ignore_eos": 1}"#, "ignore_eos must be true or false, got 1"),
            (
                r#"{"allowed_token_ids": []}"#,
                "allowed_token_ids must not be empty; leave it out to allow all",
            ),
            (r#"{"bad_words": [""]}"#, "bad_words must be a list of strings, none empty, got \"\""),
            (
                r#"{"repetition_detection": {"max_pattern_size": 2, "min_count": 1}}"#,
                "repetition_detection.min_count must be an integer of at least 2, got 1",
            ),
            (
                r#"{"repetition_detection": {"min_pattern_size": "a"}}"#,
                "repetition_detection.min_pattern_size must be an integer between 0 and 1024, got \"a\"",
            ),
            (
                r#"{"seed": 9223372036854775808}"#,
                "seed must be an integer, got 9223372036854775808",
            ),
            (r#"{"use_beam_search": true}"#, "use_beam_search is not supported yet; leave it out"),
        ] {
            assert_eq!(refused(body), message);
        }
    }

    #[test]
    fn nulls_and_neutral_values_are_accepted() {
        let read = read(
            r#"{"temperature": null, "top_k": -1, "seed": -1, "stop": null, "best_of": 1,
                "logit_bias": {"5": 300}, "bad_words": [], "repetition_detection": {},
                "use_beam_search": false, "whatever": {"x": 1}}"#,
        )
        .unwrap();
        assert_eq!((read.temperature, read.top_k, read.seed), (None, Some(0), None));
        assert_eq!(read.logit_bias, [(5, 100.0)]);
    }

    #[test]
    fn the_request_wins_over_the_model_over_openai() {
        let model = SamplingDefaults {
            temperature: Some(0.6),
            top_k: Some(40),
            max_new_tokens: Some(7),
            ..SamplingDefaults::default()
        };
        let params = read(r#"{"top_k": 3}"#).unwrap().resolve(&model).unwrap();
        assert_eq!((params.temperature, params.top_k, params.top_p), (0.6, 3, 1.0));
        assert_eq!(params.max_tokens, Some(7));
    }

    #[test]
    fn values_that_overflow_are_cut_and_greedy_resets_what_it_does_not_use() {
        let none = SamplingDefaults::default();
        let params = read(r#"{"temperature": 0, "top_p": 0.5, "top_k": 9, "min_p": 0.1}"#);
        let params = params.unwrap().resolve(&none).unwrap();
        assert_eq!(
            (params.temperature, params.top_p, params.top_k, params.min_p),
            (0.0, 1.0, 0, 0.0)
        );
        let params = read(r#"{"temperature": 0.001}"#).unwrap().resolve(&none).unwrap();
        assert_eq!(params.temperature, 0.01);
        for (sent, used) in [("5e-324", 1e-6), ("0.5", 0.5), ("2e38", 1e6)] {
            let body = format!(r#"{{"repetition_penalty": {sent}}}"#);
            let params = read(&body).unwrap().resolve(&none).unwrap();
            assert_eq!(params.repetition_penalty, used);
        }

        let greedy = SamplingDefaults { temperature: Some(0.0), ..none };
        let error = read(r#"{"n": 2}"#).unwrap().resolve(&greedy).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("n"));
    }

    #[test]
    fn prompts_that_do_not_fit_are_refused_with_both_numbers() {
        assert_eq!(fit_max_tokens(10, None, 16), Ok(6));
        assert_eq!(fit_max_tokens(10, Some(3), 16), Ok(3));
        assert_eq!(fit_max_tokens(10, Some(99), 16), Ok(6));
        assert_eq!(fit_max_tokens(15, None, 16), Ok(1));
        for prompt in [16, 17] {
            let error = fit_max_tokens(prompt, Some(1), 16).unwrap_err();
            assert!(
                error.message.contains("16 tokens") && error.message.contains(&prompt.to_string())
            );
            assert_eq!(error.status, 400);
        }
    }
}
