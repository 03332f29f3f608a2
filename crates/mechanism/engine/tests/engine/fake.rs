//! A runner whose logits are a function of all tokens of a sequence, read back from its own paged
//! store through the block table. A wrong block, slot, chunk or position gives another token.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;
use tyndall_engine::{Engine, EngineConfig, EngineRequest, Finished, GeneratedToken};
use tyndall_engine::{Speculation, TokenEvent, TokenLogprobs, TokenStream};
use tyndall_model::{Runner, StepBatch, StepError};
use tyndall_sampling::philox4x32_10;
use tyndall_types::{RequestId, SamplingParams};

pub(crate) const VOCAB: usize = 61;
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The logits that follow a sequence.
pub(crate) fn logits_after(tokens: &[u32]) -> Vec<f32> {
    let mut state = [1, 2, 3, 4];
    for &token in tokens {
        state = philox4x32_10(state, [token, 5]);
    }
    let words = (0..VOCAB as u32).map(|id| philox4x32_10(state, [id, 6])[0]);
    words.map(|word| (word >> 8) as f32 / (1 << 21) as f32 - 4.0).collect()
}

/// The same of a model with habits: after most sequences one token, which depends on the last one
/// alone, stands out. Its output is loops that stumble now and then.
pub(crate) fn habitual_logits_after(tokens: &[u32]) -> Vec<f32> {
    let mut logits = logits_after(tokens);
    let last = tokens.last().copied().unwrap_or_default();
    logits[(3 * last as usize + 1) % 8] += 5.0;
    logits
}

pub(crate) type Logits = fn(&[u32]) -> Vec<f32>;

pub(crate) struct FakeRunner {
    logits_after: Logits,
    block_size: usize,
    store: Vec<Option<u32>>,
}

impl FakeRunner {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let slots = (config.block_size * config.num_blocks) as usize;
        let block_size = config.block_size as usize;
        Self { logits_after, block_size, store: vec![None; slots] }
    }

    pub(crate) fn habitual(config: &EngineConfig) -> Self {
        Self { logits_after: habitual_logits_after, ..Self::new(config) }
    }

    fn slot(&self, table: &[u32], position: usize) -> usize {
        table[position / self.block_size] as usize * self.block_size + position % self.block_size
    }
}

impl Runner for FakeRunner {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn step(&mut self, batch: &StepBatch<'_>, logits: &mut Vec<f32>) -> Result<(), StepError> {
        logits.clear();
        let mut tokens = batch.tokens.iter();
        let mut written = HashSet::new();
        for seq in batch.seqs {
            for position in seq.context_len - seq.num_tokens..seq.context_len {
                let slot = self.slot(seq.block_table, position as usize);
                assert!(written.insert(slot), "two sequences write to slot {slot}");
                self.store[slot] = Some(*tokens.next().expect("as many tokens as the rows say"));
            }
        }
        assert_eq!(tokens.next(), None);
        for seq in batch.seqs {
            let read = |position| self.store[self.slot(seq.block_table, position)];
            let read: Option<Vec<u32>> = (0..seq.context_len as usize).map(read).collect();
            let read = read.expect("every position was written");
            for end in read.len() - seq.num_logits as usize..read.len() {
                logits.extend((self.logits_after)(&read[..=end]));
            }
        }
        Ok(())
    }
}

/// A step as the test sees it while the runner waits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) chunks: Vec<u32>,
}

/// What the runner does when it goes on.
pub(crate) enum Then {
    Compute,
    Fail,
    Panic,
    Nan { row: usize },
}

/// A fake runner that stops before each step until the test says how to go on.
pub(crate) struct GatedRunner {
    inner: FakeRunner,
    seen: SyncSender<Seen>,
    then: Receiver<Then>,
}

pub(crate) struct Gate {
    pub(crate) seen: Receiver<Seen>,
    then: Sender<Then>,
}

impl Gate {
    /// Waits for a step to begin; returns the tokens of each row.
    pub(crate) fn wait(&self) -> Vec<u32> {
        self.seen.recv_timeout(DEADLINE).expect("a step begins").chunks
    }

    pub(crate) fn go(&self, then: Then) {
        self.then.send(then).expect("the runner waits");
    }

    /// Lets everything run. The runner does not wait for a gate that is gone.
    pub(crate) fn open(self) {}
}

pub(crate) fn gated(config: &EngineConfig) -> (GatedRunner, Gate) {
    let (seen_tx, seen_rx) = sync_channel(1000);
    let (then_tx, then_rx) = channel();
    let runner = GatedRunner { inner: FakeRunner::new(config), seen: seen_tx, then: then_rx };
    (runner, Gate { seen: seen_rx, then: then_tx })
}

impl Runner for GatedRunner {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn step(&mut self, batch: &StepBatch<'_>, logits: &mut Vec<f32>) -> Result<(), StepError> {
        let chunks = batch.seqs.iter().map(|seq| seq.num_tokens).collect();
        _ = self.seen.try_send(Seen { chunks });
        let then = self.then.recv().unwrap_or(Then::Compute);
        match then {
            Then::Compute | Then::Nan { .. } => self.inner.step(batch, logits)?,
            Then::Fail => return Err(StepError::Batch { reason: "told to fail".to_owned() }),
            Then::Panic => panic!("told to panic"),
        }
        if let Then::Nan { row } = then {
            logits[row * VOCAB + 3] = f32::NAN;
        }
        Ok(())
    }
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        block_size: 4,
        num_blocks: 64,
        max_model_len: 128,
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_waiting: 100,
        eos_token_ids: Vec::new(),
        enable_prefix_cache: true,
        // Without times nothing depends on the machine: the tests that look at steps need that.
        max_prefill_percent: None,
        speculation: Speculation::Off,
    }
}

pub(crate) fn params(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::default() }
}

pub(crate) fn request(prompt: &[u32], params: SamplingParams) -> EngineRequest {
    EngineRequest::new(RequestId::new("r"), prompt.to_vec(), params, 11)
}

/// The whole answer.
pub(crate) async fn read(stream: TokenStream) -> (Vec<GeneratedToken>, Finished) {
    let (prompt, tokens, finished) = read_scored(stream).await;
    assert_eq!(prompt, None);
    (tokens, finished)
}

/// The whole answer, and how likely the prompt was.
pub(crate) async fn read_scored(
    mut stream: TokenStream,
) -> (Option<Vec<TokenLogprobs>>, Vec<GeneratedToken>, Finished) {
    let mut prompt = None;
    let mut tokens = Vec::new();
    let all = async {
        loop {
            match stream.next().await.expect("no end before Finished") {
                TokenEvent::Prompt(computed) => {
                    assert!(tokens.is_empty() && prompt.replace(computed).is_none());
                }
                TokenEvent::Token(token) => tokens.push(token),
                TokenEvent::Finished(finished) => return finished,
            }
        }
    };
    let finished = tokio::time::timeout(DEADLINE, all).await.expect("the request ends");
    assert_eq!(stream.next().await, None);
    if let Some((last, rest)) = tokens.split_last() {
        assert!(rest.iter().all(|token| !token.is_last && !token.is_stop));
        let complete = matches!(finished.reason.as_str(), "stop" | "length");
        assert!(last.is_last || !complete);
    }
    assert_eq!(prompt.is_some(), !tokens.is_empty());
    let cached = prompt.as_ref().map_or(0, |prompt| prompt.num_cached_tokens);
    assert!(cached == finished.num_cached_tokens || prompt.is_none());
    (prompt.and_then(|prompt| prompt.logprobs), tokens, finished)
}

pub(crate) fn ids(tokens: &[GeneratedToken]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// Waits for a condition that another thread brings about.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

pub(crate) fn start(config: &EngineConfig) -> Engine {
    Engine::start(Box::new(FakeRunner::new(config)), config.clone())
}
