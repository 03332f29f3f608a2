//! The side that the rest of the process sees.

use crate::active::{Active, NewRequest, PromptScores, StopTokens, Times};
use crate::observer::NoObserver;
use crate::shared::Shared;
use crate::step_loop::StepLoop;
use crate::thread::{self, Command};
use crate::{
    EngineConfig, EngineObserver, EngineRequest, EngineStats, RequestExtras, StopCause, TokenStream,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Instant;
use tokio::sync::mpsc;
use tyndall_model::Runner;
use tyndall_sampling::{Sampler, SamplerOptions};
use tyndall_scheduler::{AddError, NewSequence};

/// Why a request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The scheduler would not take it.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The model has no such token.
    #[error("token {token} is outside the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The first such token of the prompt.
        token: u32,
        /// Tokens that the model knows.
        vocab_size: usize,
    },
    /// The engine does not run any more.
    #[error("the engine does not run any more: {cause}")]
    Stopped {
        /// Why.
        cause: StopCause,
    },
}

/// A handle on a running engine; clones share it. The engine ends with its last handle.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
    eos_token_ids: Vec<u32>,
    max_model_len: u32,
    max_waiting: u32,
    vocab_size: usize,
}

impl Engine {
    /// Starts the engine's thread on a runner.
    #[must_use]
    pub fn start(runner: Box<dyn Runner>, config: EngineConfig) -> Self {
        Self::start_observed(runner, config, Box::new(NoObserver))
    }

    /// [`Engine::start`] with someone who watches. An engine whose thread cannot be started is
    /// stopped from the beginning.
    #[must_use]
    pub fn start_observed(
        runner: Box<dyn Runner>,
        config: EngineConfig,
        observer: Box<dyn EngineObserver>,
    ) -> Self {
        let shared = Arc::new(Shared::new());
        // A place in the queue comes before a place in the channel, so sending cannot fail for
        // want of room; one more is for the wake-up of a shutdown.
        let (commands, receiver) = sync_channel(config.max_waiting() as usize + 1);
        let vocab_size = runner.vocab_size();
        let max_waiting = config.max_waiting();
        let step_loop = StepLoop::new(runner, config.scheduler(), observer, Arc::clone(&shared));
        let inner = Inner {
            commands,
            eos_token_ids: config.eos_token_ids,
            max_model_len: step_loop.max_model_len(),
            max_waiting,
            vocab_size,
            shared: Arc::clone(&shared),
        };
        thread::spawn(step_loop, receiver, shared);
        Self { inner: Arc::new(inner) }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is then queued.
    pub fn submit(&self, request: EngineRequest) -> Result<TokenStream, SubmitError> {
        let inner = &*self.inner;
        let max_new_tokens = inner.check(&request)?;
        let max = inner.max_waiting;
        // The prompt leaves room in the context, whose length is a `u32`.
        let num_tokens = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
        let full = |waiting| AddError::QueueFull { waiting, max };
        inner.shared.take_place(max, num_tokens).map_err(full)?;
        // Room for the prompt, every token and the end: the thread never finds the channel full.
        let (events, receiver) = mpsc::channel(max_new_tokens as usize + 2);
        let cancelled = Arc::new(AtomicBool::new(false));
        let stop_tokens = StopTokens::new(&request.params, &inner.eos_token_ids);
        let RequestExtras { bad_words, constraint, prompt_logprobs, cache_salt } = request.extras;
        let options = SamplerOptions {
            seed: request.seed,
            end_tokens: stop_tokens.all(),
            bad_words,
            constraint,
        };
        let sampler = Sampler::new(&request.params, options, &request.prompt);
        let active = Active {
            id: request.id,
            seq: None,
            sampler,
            prompt: prompt_logprobs.map(|top| PromptScores::new(&request.prompt, top)),
            stop_tokens,
            events,
            cancelled: Arc::clone(&cancelled),
            num_tokens,
            times: Times::new(Instant::now()),
        };
        let sequence = NewSequence {
            prompt: request.prompt,
            max_new_tokens: Some(max_new_tokens),
            cache_salt,
            scores_prompt: prompt_logprobs.is_some(),
        };
        let command = Command::Add(Box::new(NewRequest { sequence, active }));
        match inner.commands.try_send(command) {
            Ok(()) => Ok(TokenStream::new(receiver, cancelled, Arc::clone(&inner.shared))),
            Err(error) => {
                inner.shared.give_place_back(num_tokens);
                Err(match error {
                    TrySendError::Full(_) => AddError::QueueFull { waiting: max, max }.into(),
                    TrySendError::Disconnected(_) => inner.stopped(),
                })
            }
        }
    }

    /// A snapshot of the engine's counters, without a lock.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.inner.shared.stats()
    }

    /// The longest sequence, prompt and output together, in tokens: the configured one, or what
    /// all KV blocks hold if that is less.
    #[must_use]
    pub fn max_model_len(&self) -> u32 {
        self.inner.max_model_len
    }

    /// Ends the engine after the step in progress; all requests are aborted. Does not wait.
    pub fn shutdown(&self) {
        self.inner.shared.shutdown.store(true, Ordering::Release);
        // When the channel is full, the thread has something to wake up for.
        _ = self.inner.commands.try_send(Command::Wake);
    }

    /// Why the engine ended; `None` while it runs.
    #[must_use]
    pub fn stop_cause(&self) -> Option<StopCause> {
        self.inner.shared.stop_cause().cloned()
    }

    /// Waits until the engine has ended and dropped its runner.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn stopped(&self) -> StopCause {
        self.inner.shared.wait_for_end().await;
        self.stop_cause().unwrap_or(StopCause::Shutdown)
    }
}

impl Inner {
    /// Whether the request can run; returns the most tokens that it can output.
    fn check(&self, request: &EngineRequest) -> Result<u32, SubmitError> {
        if self.shared.stop_cause().is_some() || self.shared.shutdown.load(Ordering::Acquire) {
            return Err(self.stopped());
        }
        let room = AddError::check_prompt(request.prompt.len(), self.max_model_len)?;
        let vocab_size = self.vocab_size;
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(SubmitError::TokenOutOfRange { token, vocab_size });
        }
        Ok(request.params.max_tokens.map_or(room, |most| most.min(room)))
    }

    fn stopped(&self) -> SubmitError {
        let cause = self.shared.stop_cause().cloned().unwrap_or(StopCause::Shutdown);
        SubmitError::Stopped { cause }
    }
}
