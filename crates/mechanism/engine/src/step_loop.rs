//! One step after the other: schedule, compute, sample, tell.

use crate::active::{Active, End, NewRequest};
use crate::observer::{EngineObserver, StepReport};
use crate::sampling::{self, Sampling};
use crate::shared::Shared;
use crate::{GeneratedToken, TokenEvent};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;
use tyndall_model::{Runner, SeqChunk, StepBatch, StepError};
use tyndall_sampling::{SampleError, Sampled, Scratch};
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
    /// `[L, V]`, reused.
    logits: Vec<f32>,
    /// One for each thread of the runner.
    scratch: Vec<Scratch>,
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
            scratch: Vec::new(),
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
        self.note_schedule(started);
        let computed = self.compute();
        let now = Instant::now();
        self.shared.beat(now);
        match computed {
            Ok(()) => {
                self.scheduler.complete_step();
                self.sample_rows(now);
                self.scheduler.observe_step(started.elapsed().as_secs_f64());
            }
            Err(error) => self.fail_rows(&error),
        }
        self.publish();
        self.report((now - started).as_secs_f64());
    }

    /// Makes the present state visible to handles.
    pub(crate) fn publish(&self) {
        self.shared.set_held(self.scheduler.num_running(), self.scheduler.num_preempted());
        self.shared.draft_tokens.store(self.scheduler.num_drafted(), Relaxed);
        self.shared.accepted_tokens.store(self.scheduler.num_accepted(), Relaxed);
        self.shared.set_kv_usage(self.kv_usage());
    }

    /// There is nothing to do: the thread sleeps next.
    pub(crate) fn rest(&mut self) {
        self.publish();
        self.observer.on_idle();
    }

    fn note_schedule(&mut self, now: Instant) {
        // Before the places are given back, so that work is always seen in one or the other.
        self.publish();
        let (output, shared) = (self.scheduler.output(), &self.shared);
        shared.steps.fetch_add(1, Relaxed);
        shared.num_preemptions.fetch_add(output.preempted.len() as u64, Relaxed);
        for admission in output.admitted.iter().filter(|admission| !admission.resumed) {
            if let Some(active) = &mut self.requests[admission.id.slot()] {
                active.times.begin(now);
                shared.running_tokens.fetch_add(u64::from(active.num_tokens), Relaxed);
                shared.give_place_back(active.num_tokens);
            }
            let num_tokens = u64::from(admission.num_tokens);
            shared.prompt_tokens.fetch_add(num_tokens, Relaxed);
            shared.prefix_cache_queries.fetch_add(num_tokens, Relaxed);
            shared.prefix_cache_hits.fetch_add(u64::from(admission.num_cached_tokens), Relaxed);
        }
    }

    fn compute(&mut self) -> Result<(), StepError> {
        let Self { scheduler, runner, logits, .. } = self;
        let output = scheduler.output();
        let chunk = |row: &Row| SeqChunk {
            num_tokens: row.num_tokens,
            context_len: row.context_len,
            block_table: scheduler.block_table(row.id),
            num_logits: row.num_logits(),
        };
        let seqs: Vec<SeqChunk<'_>> = output.rows.iter().map(chunk).collect();
        runner.step(&StepBatch { tokens: &output.tokens, seqs: &seqs }, logits)?;
        let rows: usize = seqs.iter().map(|seq| seq.num_logits as usize).sum();
        if logits.len() == rows * self.vocab_size {
            return Ok(());
        }
        let reason = format!("{} logits came back for {rows} tokens", logits.len());
        Err(StepError::Batch { reason })
    }

    fn sample_rows(&mut self, now: Instant) {
        let Self { runner, scheduler, requests, logits, scratch, vocab_size, .. } = self;
        let output = scheduler.output();
        let (mut token, mut logit) = (0, 0);
        let mut samplings = Vec::with_capacity(output.rows.len());
        for row in &output.rows {
            token += row.num_tokens as usize;
            let end = logit + row.num_logits() as usize * *vocab_size;
            let sampled = logit + row.num_prompt_logits() as usize * *vocab_size;
            let wanted = requests[row.id.slot()].take_if(|_| end > logit);
            samplings.extend(wanted.map(|active| Sampling {
                id: row.id,
                active,
                begin: (row.context_len - row.num_tokens) as usize,
                prompt_logits: &logits[logit..sampled],
                position: u64::from(row.own_len()),
                logits: &logits[sampled..end],
                drafts: &output.tokens[token - row.num_drafts as usize..token],
                sampled: Vec::new(),
                error: None,
            }));
            logit = end;
        }
        sampling::run(&**runner, &mut samplings, *vocab_size, scratch);
        let results: Vec<_> = samplings
            .into_iter()
            .map(|row| {
                requests[row.id.slot()] = Some(row.active);
                (row.id, row.sampled, row.error)
            })
            .collect();
        for (id, sampled, error) in results {
            self.deliver(id, sampled, now);
            if let Some(error) = error {
                let message = error.to_string();
                let end = match error {
                    SampleError::NoToken => End::Impossible { message },
                    SampleError::NotFinite | SampleError::Constraint(_) => End::Error { message },
                };
                self.discard(id, end);
            }
        }
    }

    /// Hands a row's tokens over, and the end if the last one is that.
    fn deliver(&mut self, id: SeqId, sampled: Vec<Sampled>, now: Instant) {
        let Some(active) = &mut self.requests[id.slot()] else { return };
        let num_tokens = sampled.len();
        if num_tokens > 0 && active.sampler.num_output() as usize == num_tokens {
            active.send_prompt(self.scheduler.num_cached_tokens(id));
        }
        let mut end = None;
        for (index, sampled) in sampled.into_iter().enumerate() {
            self.shared.generation_tokens.fetch_add(1, Relaxed);
            self.shared.running_tokens.fetch_add(1, Relaxed);
            active.num_tokens += 1;
            let full = match self.scheduler.append(id, sampled.token) {
                Some(Appended::Continues | Appended::Accepted) => None,
                Some(Appended::Full) | None => Some(End::Length),
            };
            let is_last_sampled = index + 1 == num_tokens;
            let by_token = active.end_by(sampled.token).filter(|_| is_last_sampled);
            let is_stop = by_token.is_some();
            end = by_token.or(full);
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
        }
        if let Some(end) = end {
            let summary = self.scheduler.finish(id);
            self.end(id, end, summary);
        }
    }

    /// Ends all requests of the step; what it left in the KV cache is anyone's guess.
    fn fail_rows(&mut self, error: &StepError) {
        let message = with_causes(error.to_string(), error);
        tracing::error!(error = %message, "a step failed");
        for row in self.scheduler.output().rows.clone() {
            self.discard(row.id, End::Error { message: message.clone() });
        }
    }

    /// Ends a request whose KV blocks are of no use to others.
    fn discard(&mut self, id: SeqId, end: End) {
        let summary = self.scheduler.discard(id);
        self.end(id, end, summary);
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
            self.shared.give_place_back(active.num_tokens);
        } else {
            self.shared.running_tokens.fetch_sub(u64::from(active.num_tokens), Relaxed);
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
