//! The step loop that joins scheduler, KV cache, model and sampler.
//!
//! One thread owns scheduler, block pool, runner and samplers. [`Engine`] handles send it requests
//! over a bounded channel; each request gets its tokens through its own channel, which has room
//! for all of them, so the thread never waits for a reader. There is no lock in the loop, and
//! without work the thread sleeps in the channel.
//!
//! Life of a request:
//!
//! 1. [`Engine::submit`] checks it, takes one of `max_waiting` places in the queue and sends it.
//! 2. Before each step the thread takes what was sent and drops what was cancelled.
//! 3. At its first step it gives the place in the queue back.
//! 4. Rows are sampled side by side on the runner's threads; a row with tokens computed in advance
//!    is sampled for as long as the sampler picks these very tokens.
//! 5. Each sampled token goes out as [`TokenEvent::Token`]; an end token, a stop token, the token
//!    limit or the end of the context is followed by exactly one [`TokenEvent::Finished`].
//!
//! Races: a dropped [`TokenStream`] sets a flag that the thread reads before it schedules, so a
//! step that runs already is computed and its token discarded. A request that is sent while the
//! thread ends is never answered by it; its stream then makes up the `Finished` event itself.
//!
//! Failures: an error of the runner ends the requests of that step, whose blocks are not shared
//! again; unusable logits end one request; a panic ends all of them and the engine
//! ([`Engine::stopped`]).
//!
//! A model that reads texts and writes none has an [`EncoderEngine`]: one thread too, and no
//! scheduler, cache or sampler.
//!
//! Stop strings are the caller's matter: it sees text and drops the stream. The engine knows
//! neither text nor HTTP nor metric names.
#![forbid(unsafe_code)]

mod active;
mod config;
mod encoder;
mod event;
mod handle;
mod observer;
mod sampling;
mod shared;
mod step_loop;
mod stream;
mod thread;

pub use config::{DEFAULT_MAX_PREFILL_PERCENT, EngineConfig, EngineRequest, RequestExtras};
pub use encoder::{EncoderEngine, EncoderText, ReadError, TextReader, TextsRead};
pub use event::{ComputedPrompt, Finished, GeneratedToken, TokenEvent};
pub use handle::{Engine, SubmitError};
pub use observer::{EngineObserver, StepReport};
pub use shared::{EngineStats, StopCause};
pub use stream::TokenStream;
pub use tyndall_sampling::{Constraint, ConstraintError, TokenLogprobs};
pub use tyndall_scheduler::{AddError, Speculation};
