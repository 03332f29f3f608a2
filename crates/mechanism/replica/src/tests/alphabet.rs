//! A model that knows one thing: which letter comes next.

use super::tokenizer_files::{self, FIRST_BYTE};
use crate::app::App;
use crate::engine_load::LoadSignal;
use crate::family::{Family, ParserNames};
use crate::load::Observer;
use crate::phases::PhaseClock;
use crate::ready::Ready;
use crate::served::Served;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tyndall_engine::{Engine, EngineConfig, Speculation};
use tyndall_model::{Runner, StepBatch, StepError};
use tyndall_openai::SamplingDefaults;
use tyndall_telemetry::{EngineLabels, EngineMetrics};
use tyndall_text::Tokenizer;
use tyndall_transport::{Client, Listener, ServeOptions, serve};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{GenerateDefaults, ModelCard};

pub(super) const CONTEXT: usize = 64;
pub(super) const MAX_WAITING: u32 = 16;
pub(super) const MAX_NUM_SEQS: u32 = 8;
pub(super) const VOCAB: usize = 304;
pub(super) const END: u32 = 2;

pub(super) fn id(letter: char) -> u32 {
    FIRST_BYTE + letter as u32
}

/// After a letter comes the next one, after 'z' the end, after '.' a space, after a space 'a'.
#[derive(Clone)]
pub(super) struct Alphabet {
    gate: Gate,
    fails_at: Option<char>,
    panics: bool,
}

/// How many steps the model may make.
#[derive(Clone)]
pub(super) struct Gate(Arc<(Mutex<u64>, Condvar)>);

impl Gate {
    fn new(steps: u64) -> Self {
        Self(Arc::new((Mutex::new(steps), Condvar::new())))
    }

    pub(super) fn allow(&self, steps: u64) {
        let (left, changed) = &*self.0;
        *left.lock().unwrap() += steps;
        changed.notify_all();
    }

    pub(super) fn open(&self) {
        self.allow(u64::from(u32::MAX));
    }

    fn pass(&self) {
        let (left, changed) = &*self.0;
        let mut left = changed.wait_while(left.lock().unwrap(), |left| *left == 0).unwrap();
        *left -= 1;
    }
}

impl Alphabet {
    pub(super) fn open() -> Self {
        Self { gate: Gate::new(u64::from(u32::MAX)), fails_at: None, panics: false }
    }

    pub(super) fn gated() -> (Self, Gate) {
        let gate = Gate::new(0);
        (Self { gate: gate.clone(), fails_at: None, panics: false }, gate)
    }

    /// A step fails in which this letter is read.
    pub(super) fn failing_at(letter: char) -> Self {
        Self::open().and_failing_at(letter)
    }

    /// Its first step takes the engine with it.
    pub(super) fn panicking() -> Self {
        Self { panics: true, ..Self::open() }
    }

    pub(super) fn and_failing_at(self, letter: char) -> Self {
        Self { fails_at: Some(letter), ..self }
    }
}

fn next(token: u32) -> u32 {
    match char::from_u32(token.saturating_sub(FIRST_BYTE)) {
        Some('z') => END,
        Some('.') => id(' '),
        Some(' ') => id('a'),
        _ if token < FIRST_BYTE => id('a'),
        _ => token + 1,
    }
}

impl Runner for Alphabet {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn step(&mut self, batch: &StepBatch<'_>, logits: &mut Vec<f32>) -> Result<(), StepError> {
        self.gate.pass();
        assert!(!self.panics, "it was told to panic");
        logits.clear();
        let mut end = 0;
        for seq in batch.seqs {
            end += seq.num_tokens as usize;
            let last = batch.tokens[end - 1];
            if self.fails_at.is_some_and(|letter| id(letter) == last) {
                return Err(StepError::Batch { reason: "it was told to fail".to_owned() });
            }
            if seq.num_logits > 0 {
                let mut row = vec![0.0; VOCAB];
                row[next(last) as usize] = 100.0;
                logits.extend(row);
            }
        }
        Ok(())
    }
}

pub(super) struct Replica {
    pub(super) client: Client,
    pub(super) app: App,
    pub(super) ready: Arc<Ready>,
    server: JoinHandle<usize>,
    _dir: tempfile::TempDir,
}

impl Replica {
    pub(super) fn start(runner: Alphabet) -> Self {
        Self::serving(|tokenizer| ready(runner, tokenizer))
    }

    /// One whose model never comes.
    pub(super) fn starting() -> Self {
        Self::starting_with(Alphabet::open())
    }

    /// One that serves what is made of its tokenizer.
    pub(super) fn serving(make: impl FnOnce(Tokenizer) -> Ready) -> Self {
        let replica = Self::made(make);
        let clock = PhaseClock::since(Instant::now());
        replica.app.set_running(Served::Generator(replica.ready.clone()), clock);
        replica
    }

    fn starting_with(runner: Alphabet) -> Self {
        Self::made(|tokenizer| ready(runner, tokenizer))
    }

    fn made(make: impl FnOnce(Tokenizer) -> Ready) -> Self {
        let dir = tempfile::tempdir().unwrap();
        tokenizer_files::write(dir.path());
        let ready = Arc::new(make(Tokenizer::load(dir.path()).unwrap()));
        let app = App::new(ReplicaId::new("r0"));
        let socket = dir.path().join("r0.sock");
        let listener = Listener::bind_unix(&socket).unwrap();
        let forever = std::future::pending();
        let server = tokio::spawn(serve(listener, app.clone(), ServeOptions::default(), forever));
        Self { client: Client::unix(socket), app, ready, server, _dir: dir }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(super) fn ready(runner: impl Runner + 'static, tokenizer: Tokenizer) -> Ready {
    ready_for(runner, tokenizer, CONTEXT as u32, PLAIN)
}

/// A family that neither thinks nor calls.
const PLAIN: ParserNames<'static> = ParserNames { tools: None, reasoning: None };

/// The same for a context and a family of one's own.
pub(super) fn ready_for(
    runner: impl Runner + 'static,
    tokenizer: Tokenizer,
    max_model_len: u32,
    names: ParserNames<'_>,
) -> Ready {
    let labels = EngineLabels { model: "org/alphabet".into(), replica: "r0".into() };
    let metrics = Arc::new(EngineMetrics::new(labels));
    let (first, first_token) = watch::channel(None);
    let config = EngineConfig {
        block_size: 4,
        num_blocks: 256,
        max_model_len,
        max_num_seqs: MAX_NUM_SEQS,
        max_num_batched_tokens: 64,
        max_waiting: MAX_WAITING,
        eos_token_ids: vec![END],
        enable_prefix_cache: true,
        max_prefill_percent: None,
        speculation: Speculation::Off,
    };
    let load_signal = Arc::<LoadSignal>::default();
    let observer = Observer { metrics: metrics.clone(), first, load_signal: load_signal.clone() };
    Ready {
        model_id: "org/alphabet".to_owned(),
        card: ModelCard { max_model_len, num_kv_blocks: 256, block_size: 4 },
        engine: Engine::start_observed(Box::new(runner), config, Box::new(observer)),
        family: Family::of(Path::new("/nowhere"), &tokenizer, names).unwrap(),
        tokenizer,
        generate: GenerateDefaults { max_new_tokens: 8, temperature: 0.0, top_p: 1.0 },
        defaults: SamplingDefaults::default(),
        vocab_size: VOCAB,
        output_ends: Arc::new([END].into()),
        compiler: OnceLock::new(),
        metrics,
        first_token,
        load_signal,
        unsaved: std::sync::Mutex::default(),
        prefault: None,
    }
}
