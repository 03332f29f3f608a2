//! From a directory to a running engine, on threads of its own, tokenizer and model side by side.

use crate::ReplicaOptions;
use crate::encoder;
use crate::engine_load::LoadSignal;
use crate::family::{Family, ParserNames};
use crate::phases::PhaseClock;
use crate::ready::{FirstToken, Ready};
use crate::served::Served;
use std::error::Error;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use tokio::sync::{oneshot, watch};
use tyndall_engine::{DEFAULT_MAX_PREFILL_PERCENT, Engine, EngineConfig, EngineObserver};
use tyndall_engine::{Finished, Speculation, StepReport};
use tyndall_kernels::{Cpu, CpuOptions};
use tyndall_model::{
    CheckpointSpec, GenerationDefaults, MemoryPlan, Model, ModelSpec, PlanRequest, Prefault,
    QuantizeEvent, QuantizeOptions, plan,
};
use tyndall_openai::SamplingDefaults;
use tyndall_telemetry::{EngineLabels, EngineMetrics};
use tyndall_text::{Tokenizer, TokenizerCache};
use tyndall_types::protocol::{ModelCard, ModelConfig};
use tyndall_types::with_causes;

/// Sequences that may wait in the engine: the proxy's queue is the one that is meant to hold
/// requests, this one holds the sequences of requests with many prompts.
pub(crate) const MAX_WAITING: u32 = 4096;

/// Loads on threads of its own, so that the runtime goes on answering and can end at any time.
///
/// # Errors
/// One line of cause and one of cure.
pub(crate) async fn load(
    options: ReplicaOptions,
    clock: PhaseClock,
) -> Result<(Served, PhaseClock), String> {
    let (done, loaded) = oneshot::channel();
    let spawned = thread::Builder::new().name("load".to_owned()).spawn(move || {
        // Nobody listens when the process is being stopped.
        drop(done.send(load_now(&options, clock)));
    });
    spawned.map_err(|error| format!("failed to start a thread: {error}"))?;
    loaded.await.unwrap_or_else(|_| {
        Err("loading the model panicked; the log above says where; please report it".to_owned())
    })
}

fn load_now(options: &ReplicaOptions, clock: PhaseClock) -> Result<(Served, PhaseClock), String> {
    let model = model_of(options)?;
    let tokenizer = load_tokenizer(options, model)?;
    let start = Start { options, model, tokenizer, clock };
    match CheckpointSpec::from_dir(&model.path).map_err(|error| one_line(&error))? {
        CheckpointSpec::Decoder(spec) => {
            let (ready, clock) = load_generator(start, spec)?;
            Ok((Served::Generator(Arc::new(ready)), clock))
        }
        CheckpointSpec::Encoder(spec) => {
            let (ready, clock) = encoder::load(start, spec)?;
            Ok((Served::Encoder(Arc::new(ready)), clock))
        }
    }
}

/// What there is of a model when its kind is known.
pub(crate) struct Start<'a> {
    pub(crate) options: &'a ReplicaOptions,
    pub(crate) model: &'a ModelConfig,
    pub(crate) tokenizer: Loading<LoadedTokenizer>,
    pub(crate) clock: PhaseClock,
}

impl Start<'_> {
    pub(crate) fn plan_request(&self) -> PlanRequest {
        let Self { options, model, .. } = self;
        PlanRequest {
            max_model_len: model.max_model_len,
            memory_budget_bytes: model.memory_budget_bytes,
            available_bytes: options.available_memory_bytes,
            max_num_seqs: model.max_num_seqs,
            max_num_batched_tokens: model.max_num_batched_tokens,
            quantization: tyndall_model::grouped_type(model.quantization),
        }
    }

    pub(crate) fn cpu(&mut self) -> Result<Arc<Cpu>, String> {
        let threads = self.model.num_threads.map(|threads| threads as usize);
        let options = CpuOptions { threads, isa: self.options.isa };
        let cpu = Cpu::new(options).map_err(|error| one_line(&error))?;
        tracing::debug!(isa = ?cpu.isa(), threads = cpu.threads(), "kernels");
        self.clock.end("kernels");
        Ok(Arc::new(cpu))
    }

    pub(crate) fn metrics(&self) -> Arc<EngineMetrics> {
        Arc::new(EngineMetrics::new(EngineLabels {
            model: self.model.id.clone(),
            replica: self.options.id.to_string(),
        }))
    }
}

/// The tokenizer, once it is there.
pub(crate) fn joined(tokenizer: Loading<LoadedTokenizer>) -> Result<LoadedTokenizer, String> {
    tokenizer
        .join()
        .unwrap_or_else(|_| Err("loading the tokenizer panicked; please report it".to_owned()))
}

/// Lets weights come into reach while the rest starts.
pub(crate) fn prefaulted(started: std::io::Result<Prefault>) -> Option<Prefault> {
    let warn = |error: &_| tracing::warn!(%error, "weights are mapped as they are used");
    started.inspect_err(warn).ok()
}

fn load_generator(mut start: Start<'_>, spec: ModelSpec) -> Result<(Ready, PhaseClock), String> {
    let Start { options, model, .. } = start;
    let generation = GenerationDefaults::from_dir(&model.path).map_err(|error| one_line(&error))?;
    let memory =
        plan(&model.path, &spec, &start.plan_request()).map_err(|error| one_line(&error))?;
    start.clock.end("config");
    let cpu = start.cpu()?;
    let vocab_size = spec.vocab_size;
    let mut rounded = false;
    let fallback_dir = options.cache_dir.as_ref().map(|dir| dir.join("quantized"));
    let quantize = QuantizeOptions {
        fallback_dir: fallback_dir.as_deref(),
        on_event: &mut |event| {
            rounded |= matches!(event, QuantizeEvent::Started { .. });
            log_event(event);
        },
    };
    let runner = Model::load_with(&model.path, spec, &memory, cpu, quantize)
        .map_err(|error| one_line(&error))?;
    let prefault = prefaulted(runner.prefault());
    start.clock.end(if rounded { "quantize" } else { "weights" });

    let metrics = start.metrics();
    let Start { tokenizer, mut clock, .. } = start;
    let (mut tokenizer, unsaved) = joined(tokenizer)?;
    if let Some(template) = &model.chat.template {
        tokenizer = tokenizer.with_chat_template(template);
    }
    let tokenizer = (tokenizer, unsaved);
    clock.end("tokenizer");

    let loaded = LoadedModel { memory, generation, runner, vocab_size, prefault };
    let names = ParserNames {
        tools: model.chat.tool_call_parser.as_deref(),
        reasoning: model.chat.reasoning_parser.as_deref(),
    };
    let family = Family::of(&model.path, &tokenizer.0, names).map_err(|error| one_line(&error))?;
    let ready = start_engine(model, loaded, (tokenizer, family), metrics);
    clock.end("engine");
    Ok((ready, clock))
}

/// The model to load.
fn model_of(options: &ReplicaOptions) -> Result<&ModelConfig, String> {
    options.config.workload.model().ok_or_else(|| {
        let id = &options.config.id;
        format!("{id} is a program and this replica serves models; start the program itself")
    })
}

fn log_event(event: QuantizeEvent<'_>) {
    match event {
        QuantizeEvent::Reused { path } => {
            tracing::debug!(path = %path.display(), "quantized weights")
        }
        QuantizeEvent::Refused { path, reason } => {
            tracing::warn!(path = %path.display(), reason, "quantized weights are made anew");
        }
        QuantizeEvent::Started { num_weights } => {
            tracing::info!(num_weights, "quantizing the weights, once for this model");
        }
        QuantizeEvent::Kept { path, bytes } => {
            tracing::info!(path = %path.display(), bytes, "quantized weights are kept");
        }
        QuantizeEvent::NotKept { dir, reason } => tracing::warn!(
            dir = %dir.display(), reason,
            "quantized weights cannot be kept here; make it writable to quantize only once"
        ),
    }
}

pub(crate) type Loading<T> = thread::JoinHandle<Result<T, String>>;

/// The tokenizer, and its compact form where that is to be saved.
pub(crate) type LoadedTokenizer = (Tokenizer, Option<TokenizerCache>);

fn load_tokenizer(
    options: &ReplicaOptions,
    model: &ModelConfig,
) -> Result<Loading<LoadedTokenizer>, String> {
    let dir = model.path.clone();
    let user_cache = options.cache_dir.as_ref().map(|dir| dir.join("tokenizers"));
    let load = move || {
        let loaded = Tokenizer::load_cached(&dir, user_cache.as_deref());
        loaded.map_err(|error| one_line(&error))
    };
    thread::Builder::new()
        .name("tokenizer".to_owned())
        .spawn(load)
        .map_err(|error| format!("failed to start a thread: {error}"))
}

/// Everything that an engine needs of a model.
struct LoadedModel {
    memory: MemoryPlan,
    generation: GenerationDefaults,
    runner: Model,
    vocab_size: usize,
    prefault: Option<Prefault>,
}

fn start_engine(
    model: &ModelConfig,
    loaded: LoadedModel,
    ((tokenizer, unsaved), family): (LoadedTokenizer, Family),
    metrics: Arc<EngineMetrics>,
) -> Ready {
    let LoadedModel { memory, generation, runner, vocab_size, prefault } = loaded;
    let eos_token_ids = eos_token_ids(tokenizer.eos_token_ids(), &generation.eos_token_ids);
    let output_ends = Arc::new(eos_token_ids.iter().copied().collect());
    let config = EngineConfig {
        block_size: memory.block_size,
        num_blocks: memory.num_kv_blocks,
        max_model_len: memory.max_model_len,
        max_num_seqs: memory.max_num_seqs,
        max_num_batched_tokens: memory.max_num_batched_tokens,
        max_waiting: MAX_WAITING,
        eos_token_ids,
        enable_prefix_cache: true,
        max_prefill_percent: Some(DEFAULT_MAX_PREFILL_PERCENT),
        speculation: match model.speculation {
            true => Speculation::Auto,
            false => Speculation::Off,
        },
    };
    let (first, first_token) = watch::channel(None);
    let load_signal = Arc::<LoadSignal>::default();
    let observer = Observer { metrics: metrics.clone(), first, load_signal: load_signal.clone() };
    let engine = Engine::start_observed(Box::new(runner), config, Box::new(observer));
    Ready {
        model_id: model.id.clone(),
        card: ModelCard {
            max_model_len: engine.max_model_len(),
            num_kv_blocks: memory.num_kv_blocks,
            block_size: memory.block_size,
        },
        engine,
        tokenizer,
        family,
        generate: model.generate,
        defaults: model.sampling.over(sampling_defaults(&generation)),
        vocab_size,
        output_ends,
        compiler: OnceLock::new(),
        metrics,
        first_token,
        load_signal,
        unsaved: Mutex::new(unsaved),
        prefault,
    }
}

/// The tokenizer's own end token is the primary one; those of the checkpoint come after it.
fn eos_token_ids(tokenizer: &[u32], generation: &[u32]) -> Vec<u32> {
    let mut ids = tokenizer.to_vec();
    ids.extend(generation.iter().filter(|id| !tokenizer.contains(id)));
    ids
}

fn sampling_defaults(generation: &GenerationDefaults) -> SamplingDefaults {
    SamplingDefaults {
        temperature: generation.temperature,
        top_p: generation.top_p,
        top_k: generation.top_k,
        min_p: generation.min_p,
        repetition_penalty: generation.repetition_penalty,
        presence_penalty: generation.presence_penalty,
        frequency_penalty: generation.frequency_penalty,
        max_new_tokens: generation.max_new_tokens,
    }
}

/// The engine's events as metrics, and as a signal that its load changed. What ends early by a
/// stop string is an abort to the engine, so ends are counted where the text is made.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) metrics: Arc<EngineMetrics>,
    /// The first token of the first request, once.
    pub(crate) first: watch::Sender<Option<FirstToken>>,
    pub(crate) load_signal: Arc<LoadSignal>,
}

impl EngineObserver for Observer {
    fn on_step(&mut self, _: &StepReport) {
        self.load_signal.notify();
    }

    fn on_idle(&mut self) {
        self.load_signal.notify();
    }

    fn on_first_token(&mut self, ttft_s: f64) {
        self.load_signal.first_token(ttft_s);
        self.metrics.first_token(seconds(ttft_s));
        FirstToken::note(&self.first, seconds(ttft_s));
    }

    fn on_next_token(&mut self, gap_s: f64) {
        self.metrics.next_token(seconds(gap_s));
    }

    fn on_finished(&mut self, finished: &Finished) {
        let Finished { queue_s, prefill_s, decode_s, num_output_tokens, .. } = *finished;
        if num_output_tokens == 0 {
            return;
        }
        let whole = seconds(queue_s + prefill_s + decode_s);
        self.metrics.request(whole, queue_s, prefill_s, decode_s);
    }
}

/// An error with its causes, as the controller gets it.
pub(crate) fn one_line(error: &dyn Error) -> String {
    with_causes(error.to_string(), error)
}

pub(crate) fn seconds(value: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokenizers_end_token_comes_first() {
        assert_eq!(eos_token_ids(&[7], &[3, 7, 9]), [7, 3, 9]);
        assert_eq!(eos_token_ids(&[], &[3]), [3]);
    }
}
