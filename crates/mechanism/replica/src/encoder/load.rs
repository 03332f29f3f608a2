//! From a directory to an encoder that runs.

use super::EncoderReady;
use crate::engine_load::LoadSignal;
use crate::load::{MAX_WAITING, Start, joined, one_line, prefaulted, seconds};
use crate::phases::PhaseClock;
use crate::ready::FirstToken;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tyndall_engine::{EncoderEngine, EngineObserver, StepReport};
use tyndall_model::{Encoder, EncoderPlanRequest, EncoderSpec, plan_encoder};
use tyndall_types::protocol::ModelCard;

/// Loads an encoder whose tokenizer is being loaded.
///
/// # Errors
/// One line of cause and one of cure.
pub(crate) fn load(
    mut start: Start<'_>,
    spec: EncoderSpec,
) -> Result<(EncoderReady, PhaseClock), String> {
    let path = &start.model.path;
    let request = EncoderPlanRequest::try_from(&start.plan_request());
    let request = request.map_err(|error| one_line(&error))?;
    let plan = plan_encoder(path, &spec, &request).map_err(|error| one_line(&error))?;
    start.clock.end("config");
    let cpu = start.cpu()?;
    let runner = Encoder::load(path, spec.clone(), &plan, cpu).map_err(|error| one_line(&error))?;
    let prefault = prefaulted(runner.prefault());
    start.clock.end("weights");

    let metrics = start.metrics();
    let Start { model, tokenizer, mut clock, .. } = start;
    let (tokenizer, unsaved) = joined(tokenizer)?;
    clock.end("tokenizer");

    let (first, first_token) = watch::channel(None);
    let load_signal = Arc::<LoadSignal>::default();
    let observer = Observer { first, load_signal: load_signal.clone() };
    let engine = EncoderEngine::start_observed(Box::new(runner), MAX_WAITING, Box::new(observer));
    clock.end("engine");
    let ready = EncoderReady {
        model_id: model.id.clone(),
        task: spec.task(),
        card: ModelCard { max_model_len: plan.max_len, num_kv_blocks: 0, block_size: 0 },
        engine,
        spec,
        tokenizer,
        metrics,
        first_token,
        load_signal,
        unsaved: Mutex::new(unsaved),
        prefault,
    };
    Ok((ready, clock))
}

/// The engine's events as a signal that its load changed.
struct Observer {
    /// The first text that was read, once.
    first: watch::Sender<Option<FirstToken>>,
    load_signal: Arc<LoadSignal>,
}

impl EngineObserver for Observer {
    fn on_step(&mut self, _: &StepReport) {
        self.load_signal.notify();
    }

    fn on_idle(&mut self) {
        self.load_signal.notify();
    }

    fn on_first_token(&mut self, after_s: f64) {
        self.load_signal.first_token(after_s);
        FirstToken::note(&self.first, seconds(after_s));
    }
}
