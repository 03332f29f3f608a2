//! A model that reads texts and writes none: its routes, from JSON to numbers and back.

mod answer;
mod load;
mod score;
mod texts;

pub(crate) use answer::{classify, embeddings};
pub(crate) use load::load;
pub(crate) use score::{rerank, score};
pub(crate) use texts::{detokenize, tokenize};

use crate::app::{Asked, Failure, now_s};
use crate::engine_load::LoadSignal;
use crate::job::SubmitFailure;
use crate::ready::FirstToken;
use crate::text_stream::Times;
use crate::timing::{self, SERVER_TIMING, Submitted};
use http::{Response, StatusCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tyndall_engine::{EncoderEngine, EncoderText, ReadError, TextsRead};
use tyndall_model::{EncoderSpec, Prefault};
use tyndall_openai::{ApiError, PoolingHead, Usage};
use tyndall_telemetry::EngineMetrics;
use tyndall_text::{Tokenizer, TokenizerCache};
use tyndall_transport::{Body, json as json_response};
use tyndall_types::protocol::{ModelCard, ModelTask};

/// An encoder that answers.
pub(crate) struct EncoderReady {
    pub(crate) model_id: String,
    pub(crate) task: ModelTask,
    pub(crate) card: ModelCard,
    pub(crate) engine: EncoderEngine,
    pub(crate) spec: EncoderSpec,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) metrics: Arc<EngineMetrics>,
    /// The first text that was ever read.
    pub(crate) first_token: watch::Receiver<Option<FirstToken>>,
    /// Says when the engine's load changed.
    pub(crate) load_signal: Arc<LoadSignal>,
    /// The tokenizer's compact form, if it is still to be saved.
    pub(crate) unsaved: Mutex<Option<TokenizerCache>>,
    /// Maps the weights while the first requests already run.
    #[expect(dead_code, reason = "dropping it ends its work")]
    pub(crate) prefault: Option<Prefault>,
}

/// Rows of numbers, and what they took.
struct Numbers {
    rows: Vec<Vec<f32>>,
    num_tokens: u32,
    submitted: Instant,
    times: Times,
}

impl EncoderReady {
    /// One row for each text.
    async fn read(&self, texts: Vec<EncoderText>) -> Result<Numbers, Failure> {
        let num_tokens = texts.iter().map(|text| text.ids.len()).sum::<usize>();
        let submitted = Instant::now();
        let TextsRead { rows, queue_s, compute_s } = self.engine.read(texts).await?;
        let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
        self.metrics.request(seconds(queue_s + compute_s), queue_s, compute_s, 0.0);
        let times = Times { queue_s, prefill_s: compute_s, decode_s: 0.0 };
        let num_tokens = u32::try_from(num_tokens).unwrap_or(u32::MAX);
        Ok(Numbers { rows, num_tokens, submitted, times })
    }

    fn head(&self, prefix: &str, asked: &Asked) -> PoolingHead {
        let id = format!("{prefix}-{}", asked.id);
        PoolingHead { id, created: now_s(), model: self.model_id.clone() }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Submit(error) => SubmitFailure::from(error).into(),
            ReadError::Failed { reason } => ApiError::internal(reason).into(),
        }
    }
}

/// An answer with its phases and what it used.
fn answered<T: serde::Serialize>(value: &T, numbers: &Numbers, asked: &Asked) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, value);
    let submitted = Submitted { at: numbers.submitted, awaited: asked.awaited.as_ref() };
    response.headers_mut().insert(SERVER_TIMING, submitted.whole(numbers.times));
    let usage = Usage::new(numbers.num_tokens, 0, 0);
    response.headers_mut().insert(timing::USAGE, timing::usage(usage));
    response
}
