//! A loaded model and what requests need of it.

use crate::engine_load::LoadSignal;
use crate::family::Family;
use crate::job::{Job, SubmitFailure};
use crate::structure::Structure;
use crate::text_stream::{TextOptions, TextStream};
use crate::tokenize::Lexicon;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tyndall_engine::{AddError, Engine, EngineRequest, RequestExtras, SubmitError};
use tyndall_model::Prefault;
use tyndall_openai::{ApiError, SamplingDefaults, fit_max_tokens};
use tyndall_structured_output::{Compiler, Vocabulary};
use tyndall_telemetry::EngineMetrics;
use tyndall_text::{Tokenizer, TokenizerCache};
use tyndall_types::protocol::{GenerateDefaults, ModelCard};
use tyndall_types::{RequestId, SamplingParams};

/// Longer texts are worked on beside the runtime's threads, so that they hold up nobody.
const LONG_TEXT_BYTES: usize = 16 << 10;

/// The end of the first prefill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstToken {
    pub(crate) at: Instant,
    /// Since its request was submitted.
    pub(crate) after: Duration,
}

impl FirstToken {
    /// Notes one that came just now, so long after its request, if it is the first.
    pub(crate) fn note(first: &watch::Sender<Option<Self>>, after: Duration) {
        first.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| Self { at: Instant::now(), after });
            is_first
        });
    }
}

/// What a request asks of its sequences beside sampling.
#[derive(Debug, Default)]
pub(crate) struct SubmitOptions {
    pub(crate) text: TextOptions,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) cache_salt: Vec<u8>,
    /// What text is possible.
    pub(crate) structure: Option<Structure>,
}

/// A model that answers.
pub(crate) struct Ready {
    pub(crate) model_id: String,
    pub(crate) card: ModelCard,
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    /// How its answers are written.
    pub(crate) family: Family,
    pub(crate) generate: GenerateDefaults,
    pub(crate) defaults: SamplingDefaults,
    pub(crate) vocab_size: usize,
    /// Tokens that end an output.
    pub(crate) output_ends: Arc<HashSet<u32>>,
    /// Made with the first structured output.
    pub(crate) compiler: OnceLock<Result<Arc<Compiler>, String>>,
    pub(crate) metrics: Arc<EngineMetrics>,
    /// The first token that was ever generated.
    pub(crate) first_token: watch::Receiver<Option<FirstToken>>,
    /// Says when the engine's load changed.
    pub(crate) load_signal: Arc<LoadSignal>,
    /// The tokenizer's compact form, if it is still to be saved.
    pub(crate) unsaved: Mutex<Option<TokenizerCache>>,
    /// Maps the weights while the first requests already run.
    #[expect(dead_code, reason = "dropping it ends its work")]
    pub(crate) prefault: Option<Prefault>,
}

impl Ready {
    /// Runs work on so many bytes of text: beside the runtime's threads where that takes long.
    pub(crate) async fn beside<T: Send + 'static>(
        self: &Arc<Self>,
        num_bytes: usize,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        beside(self, num_bytes, work).await
    }

    /// What compiles structures for this vocabulary. The first call takes some hundred
    /// milliseconds where the vocabulary is large.
    pub(crate) fn compiler(&self) -> Result<Arc<Compiler>, ApiError> {
        let make = || {
            let bytes = |id: usize| {
                let id = u32::try_from(id).ok().filter(|id| !self.tokenizer.is_special(*id))?;
                self.tokenizer.token_bytes(id)
            };
            let size = self.tokenizer.vocab_size().min(self.vocab_size);
            let tokens = (0..size).map(|id| bytes(id).unwrap_or_default()).collect();
            let ends: Vec<u32> = self.output_ends.iter().copied().collect();
            let vocabulary = Vocabulary::new(tokens, &ends, self.vocab_size);
            let compiler = vocabulary.map(|vocabulary| Compiler::new(Arc::new(vocabulary)));
            compiler.map(Arc::new).map_err(|error| error.to_string())
        };
        let refused = |reason| {
            let message = format!("this model cannot keep to a structure: {reason}");
            ApiError::invalid("structured_outputs", message)
        };
        self.compiler.get_or_init(make).clone().map_err(refused)
    }

    /// The tokens of a text.
    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ApiError> {
        self.lexicon().encode(text, add_special_tokens)
    }

    /// Its vocabulary.
    pub(crate) fn lexicon(&self) -> Lexicon<'_> {
        let (vocab_size, max_model_len) = (self.vocab_size, self.card.max_model_len);
        Lexicon { tokenizer: &self.tokenizer, vocab_size, max_model_len }
    }

    /// Submits `n` sequences per prompt, or none at all.
    pub(crate) fn submit(
        &self,
        prompts: &[Vec<u32>],
        params: &SamplingParams,
        options: &SubmitOptions,
        id: &RequestId,
    ) -> Result<Job, SubmitFailure> {
        self.check_token_ids(params)?;
        let bad_words = self.bad_words(params)?;
        let mut num_prompt_tokens = 0;
        let mut streams = Vec::with_capacity(prompts.len() * params.n as usize);
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(
                    ApiError::invalid("prompt", "the prompt has no tokens; send text").into()
                );
            }
            let room = fit_max_tokens(prompt.len(), params.max_tokens, self.card.max_model_len)?;
            num_prompt_tokens += u32::try_from(prompt.len()).unwrap_or(u32::MAX);
            let seed = params.seed.unwrap_or_else(random_seed);
            for i in 0..params.n {
                let params = SamplingParams { max_tokens: Some(room), ..params.clone() };
                let metrics = self.metrics.clone();
                let text =
                    TextStream::new(&self.tokenizer, prompt, &params, &options.text, metrics);
                let seed = seed.wrapping_add(u64::from(i));
                let extras = RequestExtras {
                    bad_words: bad_words.clone(),
                    constraint: options.structure.as_ref().map(Structure::begin).transpose()?,
                    prompt_logprobs: options.prompt_logprobs,
                    cache_salt: options.cache_salt.clone(),
                };
                let request = EngineRequest {
                    extras,
                    ..EngineRequest::new(id.clone(), prompt.clone(), params, seed)
                };
                streams.push(text.of(self.engine.submit(request).map_err(SubmitFailure::from)?));
            }
        }
        Ok(Job::new(streams, num_prompt_tokens))
    }

    /// The tokens of each bad word, alone and after a space.
    fn bad_words(&self, params: &SamplingParams) -> Result<Vec<Vec<u32>>, ApiError> {
        let mut found = Vec::new();
        for word in &params.bad_words {
            for text in [word.trim_start().to_owned(), format!(" {}", word.trim_start())] {
                let ids = self.encode(&text, false)?;
                if !found.contains(&ids) {
                    found.push(ids);
                }
            }
        }
        Ok(found)
    }

    fn check_token_ids(&self, params: &SamplingParams) -> Result<(), ApiError> {
        let biased = params.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stops = params.stop_token_ids.iter().map(|id| ("stop_token_ids", *id));
        let allowed = params.allowed_token_ids.iter().flatten();
        let allowed = allowed.map(|id| ("allowed_token_ids", *id));
        let told = params.logprob_token_ids.iter().map(|id| ("logprob_token_ids", *id));
        let outside = |(_, id): &(&str, u32)| *id as usize >= self.vocab_size;
        match biased.chain(stops).chain(allowed).chain(told).find(outside) {
            None => Ok(()),
            Some((field, id)) => Err(ApiError::invalid(
                field,
                format!("{field} must hold token ids below {}, got {id}", self.vocab_size),
            )),
        }
    }
}

/// Runs work on so many bytes of text: beside the runtime's threads where that takes long.
pub(crate) async fn beside<R: Send + Sync + 'static, T: Send + 'static>(
    ready: &Arc<R>,
    num_bytes: usize,
    work: impl FnOnce(&R) -> T + Send + 'static,
) -> Result<T, ApiError> {
    if num_bytes < LONG_TEXT_BYTES {
        return Ok(work(ready));
    }
    let ready = ready.clone();
    let joined = tokio::task::spawn_blocking(move || work(&ready)).await;
    joined.map_err(|_| ApiError::internal("preparing the request panicked; please report it"))
}

impl From<SubmitError> for SubmitFailure {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Add(AddError::QueueFull { .. }) => Self::NotStarted("full"),
            SubmitError::Stopped { .. } => Self::NotStarted("stopped"),
            SubmitError::Add(AddError::PromptTooLong { .. } | AddError::EmptyPrompt)
            | SubmitError::TokenOutOfRange { .. } => {
                Self::Refused(ApiError::invalid("prompt", error.to_string()))
            }
        }
    }
}

pub(crate) fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
