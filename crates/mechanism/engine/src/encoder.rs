//! The engine of models that read whole texts and write none.
//!
//! One thread owns the encoder. A step is filled with texts of all requests in turns, one of each,
//! so that a request of many texts holds up nobody by more than a step; a request is answered when
//! its last text is read. Without work the thread sleeps in the channel, and a request whose caller
//! is gone is forgotten before the next step.

use crate::observer::NoObserver;
use crate::shared::Shared;
use crate::thread::{Outcome, guarded, spawn_named};
use crate::{EngineObserver, EngineStats, StepReport, StopCause, SubmitError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Instant;
use tokio::sync::oneshot;
use tyndall_model::{Encoder, EncoderInput, StepError};
use tyndall_scheduler::AddError;

/// What an engine of this kind runs: an [`Encoder`], or a stand-in.
pub trait TextReader: Send {
    /// How many of the first texts one step computes; at least one, where there is one.
    fn step_len(&self, texts: &[EncoderInput<'_>]) -> usize;

    /// One row of numbers for each text.
    ///
    /// # Errors
    /// [`StepError`]; none of the texts is read then.
    fn read(&mut self, texts: &[EncoderInput<'_>]) -> Result<Vec<Vec<f32>>, StepError>;
}

impl TextReader for Encoder {
    fn step_len(&self, texts: &[EncoderInput<'_>]) -> usize {
        Encoder::step_len(self, texts)
    }

    fn read(&mut self, texts: &[EncoderInput<'_>]) -> Result<Vec<Vec<f32>>, StepError> {
        Encoder::read(self, texts)
    }
}

/// A text or a pair as token ids, as in [`EncoderInput`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderText {
    /// With all special tokens.
    pub ids: Vec<u32>,
    /// The type of each token, or none at all.
    pub types: Vec<u32>,
}

impl EncoderText {
    fn input(&self) -> EncoderInput<'_> {
        EncoderInput { ids: &self.ids, types: &self.types }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct TextsRead {
    /// A row for each text, in order.
    pub rows: Vec<Vec<f32>>,
    /// Seconds from the request to its first step.
    pub queue_s: f64,
    /// Seconds from its first step to the end of its last one.
    pub compute_s: f64,
}

/// Why texts were not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The request was not taken.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A step failed, or the engine ended.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

/// A handle on a running engine; clones share it. The engine ends with its last handle.
#[derive(Debug, Clone)]
pub struct EncoderEngine {
    requests: SyncSender<Option<Request>>,
    shared: Arc<Shared>,
    max_waiting: u32,
}

/// Texts that wait for their rows. The caller has gone when the channel of `answer` is closed.
#[derive(Debug)]
struct Request {
    texts: Vec<EncoderText>,
    num_tokens: u32,
    submitted: Instant,
    answer: AnswerSender,
}

/// What was read, or why nothing was.
type Answer = Result<TextsRead, String>;
type AnswerSender = oneshot::Sender<Answer>;

impl EncoderEngine {
    /// Starts the engine's thread; at most `max_waiting` requests wait for their first step.
    #[must_use]
    pub fn start(reader: Box<dyn TextReader>, max_waiting: u32) -> Self {
        Self::start_observed(reader, max_waiting, Box::new(NoObserver))
    }

    /// [`EncoderEngine::start`] with someone who watches: of a request it hears the end of its last
    /// step as its first token. An engine whose thread cannot be started is stopped from the
    /// beginning.
    #[must_use]
    pub fn start_observed(
        reader: Box<dyn TextReader>,
        max_waiting: u32,
        observer: Box<dyn EngineObserver>,
    ) -> Self {
        let shared = Arc::new(Shared::new());
        // One more place is for the wake-up of a shutdown.
        let (requests, receiver) = sync_channel(max_waiting as usize + 1);
        let desk = Desk {
            reader,
            observer,
            shared: shared.clone(),
            held: BTreeMap::new(),
            turns: VecDeque::new(),
            next_id: 0,
        };
        let for_thread = shared.clone();
        spawn_named("encoder", &shared, move || run(desk, &receiver, &for_thread));
        Self { requests, shared, max_waiting }
    }

    /// Reads texts: one row of numbers for each.
    ///
    /// # Errors
    /// [`ReadError`]; then no text was read.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the request before the next step.
    pub async fn read(&self, texts: Vec<EncoderText>) -> Result<TextsRead, ReadError> {
        if texts.is_empty() {
            return Ok(TextsRead { rows: Vec::new(), queue_s: 0.0, compute_s: 0.0 });
        }
        let answered = self.submit(texts)?;
        match answered.await {
            Ok(answer) => answer.map_err(|reason| ReadError::Failed { reason }),
            Err(_) => Err(self.stopped_error().into()),
        }
    }

    fn submit(&self, texts: Vec<EncoderText>) -> Result<oneshot::Receiver<Answer>, SubmitError> {
        let shared = &*self.shared;
        if shared.stop_cause().is_some() || shared.shutdown.load(Acquire) {
            return Err(self.stopped_error());
        }
        let tokens = texts.iter().map(|text| text.ids.len()).sum::<usize>();
        let num_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let max = self.max_waiting;
        let full = |waiting| AddError::QueueFull { waiting, max };
        shared.take_place(max, num_tokens).map_err(full)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { texts, num_tokens, submitted: Instant::now(), answer };
        match self.requests.try_send(Some(request)) {
            Ok(()) => Ok(answered),
            Err(error) => {
                shared.give_place_back(num_tokens);
                Err(match error {
                    TrySendError::Full(_) => full(max).into(),
                    TrySendError::Disconnected(_) => self.stopped_error(),
                })
            }
        }
    }

    fn stopped_error(&self) -> SubmitError {
        let cause = self.shared.stop_cause().cloned().unwrap_or(StopCause::Shutdown);
        SubmitError::Stopped { cause }
    }

    /// A snapshot of the engine's counters, without a lock. There are no KV blocks.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Ends the engine after the step in progress; all requests fail. Does not wait.
    pub fn shutdown(&self) {
        self.shared.shutdown.store(true, Release);
        // When the channel is full, the thread has something to wake up for.
        _ = self.requests.try_send(None);
    }

    /// Waits until the engine has ended and dropped its reader.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn stopped(&self) -> StopCause {
        self.shared.wait_for_end().await;
        self.shared.stop_cause().cloned().unwrap_or(StopCause::Shutdown)
    }
}

fn run(mut desk: Desk, requests: &Receiver<Option<Request>>, shared: &Shared) {
    let cause = match guarded(|| desk.work(requests)) {
        Outcome::Done => StopCause::Shutdown,
        Outcome::Panicked(reason) => StopCause::Failed { reason: reason.into() },
    };
    shared.set_stop_cause(cause);
    // Whoever waits learns it from the closed channel.
    drop(desk);
    shared.set_ended();
}

/// A request of which the first step was begun, or that waits for it.
struct Held {
    request: Request,
    /// Texts of it that were taken into steps.
    num_taken: usize,
    rows: Vec<Vec<f32>>,
    began: Option<Instant>,
}

/// What the thread works on.
struct Desk {
    reader: Box<dyn TextReader>,
    observer: Box<dyn EngineObserver>,
    shared: Arc<Shared>,
    held: BTreeMap<u64, Held>,
    /// Requests with texts that are not read, the next one first.
    turns: VecDeque<u64>,
    next_id: u64,
}

impl Desk {
    /// Reads until it is told to end.
    fn work(&mut self, requests: &Receiver<Option<Request>>) {
        loop {
            if self.turns.is_empty() {
                self.tell_held();
                self.observer.on_idle();
                let Ok(request) = requests.recv() else { return };
                self.take(request);
            }
            loop {
                match requests.try_recv() {
                    Ok(request) => self.take(request),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if self.shared.shutdown.load(Acquire) {
                return;
            }
            self.forget_cancelled();
            if !self.turns.is_empty() {
                self.step();
            }
        }
    }

    fn take(&mut self, request: Option<Request>) {
        let Some(request) = request else { return };
        let id = self.next_id;
        self.next_id += 1;
        self.held.insert(id, Held { request, num_taken: 0, rows: Vec::new(), began: None });
        self.turns.push_back(id);
    }

    fn forget_cancelled(&mut self) {
        let is_gone = |held: &Held| held.request.answer.is_closed();
        let gone: Vec<u64> =
            self.held.iter().filter(|(_, held)| is_gone(held)).map(|(id, _)| *id).collect();
        for id in gone {
            _ = self.remove(id);
        }
    }

    /// Takes a request off the desk.
    fn remove(&mut self, id: u64) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.turns.retain(|turn| *turn != id);
        match held.began {
            Some(_) => {
                _ = self.shared.running_tokens.fetch_sub(held.request.num_tokens.into(), Relaxed);
            }
            None => self.shared.give_place_back(held.request.num_tokens),
        }
        Some(held)
    }

    /// Fills a step and computes it.
    fn step(&mut self) {
        let picked = self.pick();
        self.begin(&picked);
        let Self { reader, held, .. } = self;
        let inputs: Vec<EncoderInput<'_>> =
            picked.iter().map(|(id, text)| held[id].request.texts[*text].input()).collect();
        let num_tokens = inputs.iter().map(|input| input.ids.len()).sum::<usize>();
        let started = Instant::now();
        let read = reader.read(&inputs);
        let ended = Instant::now();
        self.shared.beat(ended);
        let answers = match read {
            Ok(rows) => self.deliver(&picked, rows, ended),
            Err(error) => self.fail(&picked, &error),
        };
        // The counters come first: who has an answer does not find itself among those that run.
        self.tell_held();
        for (sender, answer) in answers {
            // Nobody listens when the caller is gone.
            _ = sender.send(answer);
        }
        let stats = self.shared.stats();
        self.observer.on_step(&StepReport {
            num_tokens: u32::try_from(num_tokens).unwrap_or(u32::MAX),
            running: stats.running,
            waiting: stats.waiting,
            kv_usage: 0.0,
            duration_s: ended.duration_since(started).as_secs_f64(),
        });
    }

    /// Texts for a step, by request and place: one of each request in turns for as long as they fit.
    fn pick(&mut self) -> Vec<(u64, usize)> {
        let Self { reader, held, turns, .. } = self;
        let (mut picked, mut inputs) = (Vec::new(), Vec::new());
        let mut taken: BTreeMap<u64, usize> = BTreeMap::new();
        while let Some(&id) = turns.front() {
            let texts = &held[&id].request.texts;
            let next = taken.entry(id).or_insert(held[&id].num_taken);
            inputs.push(texts[*next].input());
            if reader.step_len(&inputs) < inputs.len() {
                break;
            }
            picked.push((id, *next));
            *next += 1;
            turns.pop_front();
            if *next < texts.len() {
                turns.push_back(id);
            }
        }
        for (id, num) in taken {
            if let Some(held) = held.get_mut(&id) {
                held.num_taken = num;
            }
        }
        picked
    }

    /// Notes which requests run from now on.
    fn begin(&mut self, picked: &[(u64, usize)]) {
        let now = Instant::now();
        let mut begun = Vec::new();
        for (id, _) in picked {
            let Some(held) = self.held.get_mut(id) else { continue };
            if held.began.is_none() {
                held.began = Some(now);
                begun.push(held.request.num_tokens);
            }
        }
        for &num_tokens in &begun {
            self.shared.running_tokens.fetch_add(num_tokens.into(), Relaxed);
            self.shared.prompt_tokens.fetch_add(num_tokens.into(), Relaxed);
        }
        self.shared.steps.fetch_add(1, Relaxed);
        // Before the places are given back: see `shared`.
        self.tell_held();
        begun.iter().for_each(|&num_tokens| self.shared.give_place_back(num_tokens));
    }

    /// The answers of requests whose last texts were read.
    fn deliver(
        &mut self,
        picked: &[(u64, usize)],
        rows: Vec<Vec<f32>>,
        now: Instant,
    ) -> Vec<(AnswerSender, Answer)> {
        let mut answers = Vec::new();
        for ((id, _), row) in std::iter::zip(picked, rows) {
            let Some(held) = self.held.get_mut(id) else { continue };
            held.rows.push(row);
            if held.rows.len() < held.request.texts.len() {
                continue;
            }
            let Some(Held { request, rows, began, .. }) = self.remove(*id) else { continue };
            let began = began.unwrap_or(now);
            let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
            self.observer.on_first_token(seconds(request.submitted, now));
            let read = TextsRead {
                rows,
                queue_s: seconds(request.submitted, began),
                compute_s: seconds(began, now),
            };
            answers.push((request.answer, Ok(read)));
        }
        answers
    }

    /// The answers of all requests of a step that failed.
    fn fail(&mut self, picked: &[(u64, usize)], error: &StepError) -> Vec<(AnswerSender, Answer)> {
        let reason = format!("a step failed: {error}");
        tracing::error!(%reason, "texts were not read");
        let failed = |(id, _): &(u64, usize)| {
            self.remove(*id).map(|held| (held.request.answer, Err(reason.clone())))
        };
        picked.iter().filter_map(failed).collect()
    }

    fn tell_held(&self) {
        let running = self.held.values().filter(|held| held.began.is_some()).count();
        self.shared.set_held(u32::try_from(running).unwrap_or(u32::MAX), 0);
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
