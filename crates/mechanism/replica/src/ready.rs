//! A loaded model and what requests need of it.

use crate::engine_load::LoadSignal;
use crate::job::{Job, SubmitFailure};
use crate::text_stream::TextStream;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tyndall_engine::{AddError, Engine, EngineRequest, SubmitError};
use tyndall_model::Prefault;
use tyndall_openai::{ApiError, SamplingDefaults, fit_max_tokens};
use tyndall_telemetry::{EngineCounters, EngineMetrics};
use tyndall_text::{Tokenizer, TokenizerCache};
use tyndall_types::protocol::{GenerateDefaults, ModelCard};
use tyndall_types::{RequestId, SamplingParams};

/// Longer texts are tokenized beside the runtime's threads, so that they hold up nobody.
const LONG_TEXT_BYTES: usize = 16 << 10;

/// The end of the first prefill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstToken {
    pub(crate) at: Instant,
    /// Since its request was submitted.
    pub(crate) after: Duration,
}

/// A model that answers.
pub(crate) struct Ready {
    pub(crate) model_id: String,
    pub(crate) card: ModelCard,
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) generate: GenerateDefaults,
    pub(crate) defaults: SamplingDefaults,
    pub(crate) vocab_size: usize,
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
    /// The tokens of some texts, each with its own `add_special_tokens`.
    pub(crate) async fn encode(
        self: &Arc<Self>,
        texts: Vec<String>,
        add_special_tokens: bool,
    ) -> Result<Vec<Vec<u32>>, ApiError> {
        let ready = self.clone();
        let bytes: usize = texts.iter().map(String::len).sum();
        let work = move || {
            let encode = |text: &String| {
                ready
                    .tokenizer
                    .encode(text, add_special_tokens)
                    .map_err(|error| ApiError::invalid("prompt", error.to_string()))
            };
            texts.iter().map(encode).collect()
        };
        if bytes < LONG_TEXT_BYTES {
            return work();
        }
        let joined = tokio::task::spawn_blocking(work).await;
        joined.unwrap_or_else(|_| Err(ApiError::internal("the tokenizer panicked")))
    }

    /// Submits `n` sequences per prompt, or none at all.
    pub(crate) fn submit(
        &self,
        prompts: Vec<Vec<u32>>,
        params: &SamplingParams,
        id: &RequestId,
    ) -> Result<Job, SubmitFailure> {
        self.check_token_ids(params)?;
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
                let text = TextStream::new(&self.tokenizer, &prompt, &params, self.metrics.clone());
                let seed = seed.wrapping_add(u64::from(i));
                let request =
                    EngineRequest { id: id.clone(), prompt: prompt.clone(), params, seed };
                streams.push(text.of(self.engine.submit(request).map_err(SubmitFailure::from)?));
            }
        }
        Ok(Job::new(streams, num_prompt_tokens))
    }

    fn check_token_ids(&self, params: &SamplingParams) -> Result<(), ApiError> {
        let biased = params.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stops = params.stop_token_ids.iter().map(|id| ("stop_token_ids", *id));
        let outside = |(_, id): &(&str, u32)| *id as usize >= self.vocab_size;
        match biased.chain(stops).find(outside) {
            None => Ok(()),
            Some((field, id)) => Err(ApiError::invalid(
                field,
                format!("{field} must hold token ids below {}, got {id}", self.vocab_size),
            )),
        }
    }

    /// Saves what makes the next start faster; returns at once. Nothing depends on it.
    pub(crate) fn save_tokenizer(&self) {
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(unsaved) = unsaved else { return };
        drop(tokio::task::spawn_blocking(move || match unsaved.save() {
            Ok(path) => tracing::debug!(path = %path.display(), "saved the tokenizer's tables"),
            Err(error) => tracing::debug!(%error, "failed to save the tokenizer's tables"),
        }));
    }

    /// The metrics page.
    pub(crate) fn metrics_page(&self) -> String {
        let stats = self.engine.stats();
        self.metrics.render(&EngineCounters {
            running: u64::from(stats.running),
            waiting: u64::from(stats.waiting),
            kv_usage: stats.kv_usage,
            preemptions: stats.num_preemptions,
            prompt_tokens: stats.prompt_tokens,
            generation_tokens: stats.generation_tokens,
            prefix_cache_queries: stats.prefix_cache_queries,
            prefix_cache_hits: stats.prefix_cache_hits,
            draft_tokens: stats.draft_tokens,
            accepted_tokens: stats.accepted_tokens,
            steps: stats.steps,
        })
    }
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

fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
