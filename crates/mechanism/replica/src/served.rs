//! The loaded model of a replica, whatever it is for.

use crate::encoder::EncoderReady;
use crate::engine_load::LoadSignal;
use crate::ready::{FirstToken, Ready};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tyndall_engine::{EngineStats, StopCause};
use tyndall_telemetry::{EngineCounters, EngineMetrics};
use tyndall_text::TokenizerCache;
use tyndall_types::protocol::ModelCard;

/// A model that answers.
#[derive(Clone)]
pub(crate) enum Served {
    /// It writes text.
    Generator(Arc<Ready>),
    /// It reads text.
    Encoder(Arc<EncoderReady>),
}

impl Served {
    pub(crate) fn card(&self) -> &ModelCard {
        match self {
            Self::Generator(ready) => &ready.card,
            Self::Encoder(ready) => &ready.card,
        }
    }

    /// Reads counters only.
    pub(crate) fn stats(&self) -> EngineStats {
        match self {
            Self::Generator(ready) => ready.engine.stats(),
            Self::Encoder(ready) => ready.engine.stats(),
        }
    }

    /// The first token, or the first text read, that there ever was.
    pub(crate) fn first_token(&self) -> &watch::Receiver<Option<FirstToken>> {
        match self {
            Self::Generator(ready) => &ready.first_token,
            Self::Encoder(ready) => &ready.first_token,
        }
    }

    pub(crate) fn load_signal(&self) -> &LoadSignal {
        match self {
            Self::Generator(ready) => &ready.load_signal,
            Self::Encoder(ready) => &ready.load_signal,
        }
    }

    /// Ends the engine; does not wait.
    pub(crate) fn shutdown(&self) {
        match self {
            Self::Generator(ready) => ready.engine.shutdown(),
            Self::Encoder(ready) => ready.engine.shutdown(),
        }
    }

    /// Waits for the end of the engine.
    ///
    /// # Cancel safety
    /// It only looks.
    pub(crate) async fn stopped(&self) -> StopCause {
        match self {
            Self::Generator(ready) => ready.engine.stopped().await,
            Self::Encoder(ready) => ready.engine.stopped().await,
        }
    }

    fn metrics(&self) -> &EngineMetrics {
        match self {
            Self::Generator(ready) => &ready.metrics,
            Self::Encoder(ready) => &ready.metrics,
        }
    }

    fn unsaved(&self) -> &Mutex<Option<TokenizerCache>> {
        match self {
            Self::Generator(ready) => &ready.unsaved,
            Self::Encoder(ready) => &ready.unsaved,
        }
    }

    /// Saves what makes the next start faster; returns at once. Nothing depends on it.
    pub(crate) fn save_tokenizer(&self) {
        let unsaved = self.unsaved().lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(unsaved) = unsaved else { return };
        drop(tokio::task::spawn_blocking(move || match unsaved.save() {
            Ok(path) => tracing::debug!(path = %path.display(), "saved the tokenizer's tables"),
            Err(error) => tracing::debug!(%error, "failed to save the tokenizer's tables"),
        }));
    }

    /// The metrics page.
    pub(crate) fn metrics_page(&self) -> String {
        let stats = self.stats();
        self.metrics().render(&EngineCounters {
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
