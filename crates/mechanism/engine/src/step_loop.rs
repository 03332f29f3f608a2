//! One step after the other: schedule, compute, sample, tell.

use crate::active::{Active, End, NewRequest};
use crate::observer::{EngineObserver, StepReport};
use crate::shared::Shared;
use crate::{GeneratedToken, TokenEvent};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;
use tyndall_model::{Runner, SeqChunk, StepBatch, StepError};
use tyndall_sampling::Scratch;
use tyndall_scheduler::{Appended, Row, Scheduler, SchedulerConfig, SeqId, SequenceSummary};
use tyndall_types::with_causes;

/// All that the engine's thread owns.
pub(crate) struct StepLoop {
    runner: Box<dyn Runner>,
    scheduler: Scheduler,
    observer: Box<dyn EngineObserver>,
    shared: Arc<Shared>,
    /// By the slot of the sequence.
    requests: Vec<Option<Active>>,
    /// `[R, V]`, reused.
    logits: Vec<f32>,
    scratch: Scratch,
    vocab_size: usize,
    seen_cancellations: u64,
}

impl StepLoop {
    pub(crate) fn new(
        runner: Box<dyn Runner>,
        config: SchedulerConfig,
        observer: Box<dyn EngineObserver>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            vocab_size: runner.vocab_size(),
            runner,
            scheduler: Scheduler::new(config),
            observer,
            shared,
            requests: Vec::new(),
            logits: Vec::new(),
            scratch: Scratch::default(),
            seen_cancellations: 0,
        }
    }

    pub(crate) fn max_model_len(&self) -> u32 {
        self.scheduler.config().max_model_len
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Queues a request.
    pub(crate) fn add(&mut self, request: NewRequest) {
        if request.active.is_cancelled() {
            return self.reject(request, &End::Abort);
        }
        if request.sequence.max_new_tokens == Some(0) {
            return self.reject(request, &End::Length);
        }
        let NewRequest { sequence, mut active } = request;
        match self.scheduler.add(sequence) {
            Ok(seq) => {
                active.seq = Some(seq);
                if self.requests.len() <= seq.slot() {
                    self.requests.resize_with(seq.slot() + 1, || None);
                }
                self.requests[seq.slot()] = Some(active);
            }
            Err(error) => {
                let end = End::Error { message: error.to_string() };
                self.tell_end(active, end, unstarted(0));
            }
        }
    }

    /// Ends a request that is not queued.
    pub(crate) fn reject(&mut self, request: NewRequest, end: &End) {
        let num_prompt = u32::try_from(request.sequence.prompt.len()).unwrap_or(u32::MAX);
        self.tell_end(request.active, end.clone(), unstarted(num_prompt));
    }

    /// Ends the requests whose streams were dropped.
    pub(crate) fn abort_cancelled(&mut self) {
        let cancellations = self.shared.cancellations.load(Acquire);
        if cancellations != self.seen_cancellations {
            self.seen_cancellations = cancellations;
            self.end_where(&End::Abort, Active::is_cancelled);
        }
    }

    /// Ends every request.
    pub(crate) fn end_all(&mut self, end: &End) {
        self.end_where(end, |_| true);
        self.publish();
    }

    /// Computes one step and tells everyone about it.
    pub(crate) fn step(&mut self) {
        self.scheduler.schedule();
        let started = Instant::now();
        self.shared.beat(started);
        self.note_schedule(started);
        let computed = self.compute();
        let now = Instant::now();
        self.shared.beat(now);
        match computed {
            Ok(()) => {
                self.scheduler.complete_step();
                self.sample_rows(now);
            }
            Err(error) => self.fail_rows(&error),
        }
        self.publish();
        self.report((now - started).as_secs_f64());
    }

    /// Makes the present state visible to handles.
    pub(crate) fn publish(&self) {
        self.shared.running.store(self.scheduler.num_running(), Relaxed);
        self.shared.preempted.store(self.scheduler.num_preempted(), Relaxed);
        self.shared.set_kv_usage(self.kv_usage());
    }

    fn note_schedule(&mut self, now: Instant) {
        let (output, shared) = (self.scheduler.output(), &self.shared);
        shared.steps.fetch_add(1, Relaxed);
        shared.num_preemptions.fetch_add(output.preempted.len() as u64, Relaxed);
        for admission in output.admitted.iter().filter(|admission| !admission.resumed) {
            if let Some(active) = &mut self.requests[admission.id.slot()] {
                active.times.begin(now);
            }
            shared.give_place_back();
            let num_tokens = u64::from(admission.num_tokens);
            shared.prompt_tokens.fetch_add(num_tokens, Relaxed);
            shared.prefix_cache_queries.fetch_add(num_tokens, Relaxed);
            shared.prefix_cache_hits.fetch_add(u64::from(admission.num_cached_tokens), Relaxed);
        }
        self.publish();
    }

    fn compute(&mut self) -> Result<(), StepError> {
        let Self { scheduler, runner, logits, .. } = self;
        let output = scheduler.output();
        let chunk = |row: &Row| SeqChunk {
            num_tokens: row.num_tokens,
            context_len: row.context_len,
            block_table: scheduler.block_table(row.id),
            wants_logits: row.wants_logits,
        };
        let seqs: Vec<SeqChunk<'_>> = output.rows.iter().map(chunk).collect();
        runner.step(&StepBatch { tokens: &output.tokens, seqs: &seqs }, logits)?;
        let rows = seqs.iter().filter(|seq| seq.wants_logits).count();
        if logits.len() == rows * self.vocab_size {
            return Ok(());
        }
        let reason = format!("{} logits came back for {rows} sequences", logits.len());
        Err(StepError::Batch { reason })
    }

    fn sample_rows(&mut self, now: Instant) {
        let mut begin = 0;
        for index in 0..self.scheduler.output().rows.len() {
            let row = self.scheduler.output().rows[index];
            if row.wants_logits {
                let end = begin + self.vocab_size;
                self.sample_row(row, begin..end, now);
                begin = end;
            }
        }
    }

    fn sample_row(&mut self, row: Row, logits: std::ops::Range<usize>, now: Instant) {
        let Some(active) = &mut self.requests[row.id.slot()] else { return };
        let position = u64::from(row.context_len);
        let sampled = active.sampler.sample(&self.logits[logits], position, &mut self.scratch);
        let sampled = match sampled {
            Ok(sampled) => sampled,
            Err(error) => return self.fail(row.id, &error.to_string()),
        };
        self.shared.generation_tokens.fetch_add(1, Relaxed);
        let appended = self.scheduler.append(row.id, sampled.token);
        let by_token = active.end_by(sampled.token);
        let is_stop = by_token.is_some();
        let end = by_token.or((appended != Some(Appended::Continues)).then_some(End::Length));
        match active.times.token(now) {
            None => self.observer.on_first_token(active.times.ttft_s()),
            Some(gap_s) => self.observer.on_next_token(gap_s),
        }
        active.send(TokenEvent::Token(GeneratedToken {
            id: sampled.token,
            logprob: sampled.logprobs,
            is_last: end.is_some(),
            is_stop,
        }));
        if let Some(end) = end {
            let summary = self.scheduler.finish(row.id);
            self.end(row.id, end, summary);
        }
    }

    /// Ends all requests of the step; what it left in the KV cache is anyone's guess.
    fn fail_rows(&mut self, error: &StepError) {
        let message = with_causes(error.to_string(), error);
        tracing::error!(error = %message, "a step failed");
        for row in self.scheduler.output().rows.clone() {
            self.fail(row.id, &message);
        }
    }

    fn fail(&mut self, id: SeqId, message: &str) {
        let summary = self.scheduler.discard(id);
        self.end(id, End::Error { message: message.to_owned() }, summary);
    }

    fn end_where(&mut self, end: &End, condition: impl Fn(&Active) -> bool) {
        for slot in 0..self.requests.len() {
            let active = self.requests[slot].as_ref().filter(|active| condition(active));
            if let Some(seq) = active.and_then(|active| active.seq) {
                let summary = self.scheduler.finish(seq);
                self.end(seq, end.clone(), summary);
            }
        }
    }

    /// Tells the end of a request that the scheduler has given up.
    fn end(&mut self, id: SeqId, end: End, summary: Option<SequenceSummary>) {
        if let Some(active) = self.requests[id.slot()].take() {
            self.tell_end(active, end, summary.unwrap_or(unstarted(0)));
        }
    }

    fn tell_end(&mut self, active: Active, end: End, summary: SequenceSummary) {
        if active.times.is_queued() {
            self.shared.give_place_back();
        }
        let finished = active.times.finished(end, summary, Instant::now());
        tracing::debug!(
            request_id = %active.id,
            reason = finished.reason.as_str(),
            prompt_tokens = finished.num_prompt_tokens,
            output_tokens = finished.num_output_tokens,
            "request finished"
        );
        self.observer.on_finished(&finished);
        active.send(TokenEvent::Finished(finished));
    }

    fn report(&mut self, duration_s: f64) {
        let num_tokens = u32::try_from(self.scheduler.output().tokens.len()).unwrap_or(u32::MAX);
        self.observer.on_step(&StepReport {
            num_tokens,
            running: self.scheduler.num_running(),
            waiting: self.scheduler.num_waiting(),
            kv_usage: self.kv_usage(),
            duration_s,
        });
    }

    fn kv_usage(&self) -> f64 {
        let pool = self.scheduler.pool();
        pool.num_in_use() as f64 / pool.num_blocks().max(1) as f64
    }
}

/// Of a request that computed nothing.
fn unstarted(num_prompt_tokens: u32) -> SequenceSummary {
    SequenceSummary {
        num_prompt_tokens,
        num_output_tokens: 0,
        num_cached_tokens: 0,
        num_preemptions: 0,
    }
}
