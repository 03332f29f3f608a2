//! What handles, streams and the thread share: atomics, and a watch that changes once.
//!
//! The heartbeat is two moments, the end of the last step and the last change from idle to busy;
//! its age is that of the later one while there is work. A handle that finds no work notes the
//! moment before it takes a place in the queue, and publishes both with the place: whoever sees
//! work sees since when. Two handles that both find no work note nearly the same moment. A handle
//! that takes the last request for work just when that ends notes none, but then the last step
//! ended just now. The thread publishes what runs before it gives the places back, so work that
//! goes from the queue into a step is never out of sight.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Why an engine does not run any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopCause {
    /// It was told to, or its last handle is gone.
    Shutdown,
    /// It cannot go on; the process should be replaced.
    Failed {
        /// What happened.
        reason: Arc<str>,
    },
}

impl std::fmt::Display for StopCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shutdown => f.write_str("it was shut down"),
            Self::Failed { reason } => f.write_str(reason),
        }
    }
}

/// A look at an engine; the numbers are each right, but not of exactly the same moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineStats {
    /// Requests that hold KV blocks.
    pub running: u32,
    /// Requests that wait for their first step or, preempted, for their next one.
    pub waiting: u32,
    /// Share of the KV blocks in use, 0 to 1.
    pub kv_usage: f64,
    /// Times that a request lost its KV blocks.
    pub num_preemptions: u64,
    /// Tokens of requests that began to run and have not ended, preempted ones included: their
    /// prompts and what they generated so far.
    pub running_tokens: u64,
    /// Prompt tokens of requests that wait for their first step.
    pub waiting_tokens: u64,
    /// Prompt tokens of requests that began to run.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Those found there.
    pub prefix_cache_hits: u64,
    /// Tokens computed in advance because they followed the same tokens before.
    pub draft_tokens: u64,
    /// Those of them that were sampled then.
    pub accepted_tokens: u64,
    /// Steps begun.
    pub steps: u64,
    /// Since the last step ended or, if that is later, since there is work again; `None` without
    /// work. It grows beyond the longest step when the thread hangs.
    pub step_age: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    started_at: Instant,
    /// Places taken in the waiting queue: submitted, not yet in a step.
    queued: AtomicU32,
    /// Rises with every cancelled request.
    pub(crate) cancellations: AtomicU64,
    pub(crate) shutdown: AtomicBool,
    /// Set as soon as the thread takes no more requests.
    cause: OnceLock<StopCause>,
    /// Becomes true when the thread has dropped everything.
    ended: watch::Sender<bool>,
    running: AtomicU32,
    preempted: AtomicU32,
    kv_usage_bits: AtomicU64,
    pub(crate) running_tokens: AtomicU64,
    waiting_tokens: AtomicU64,
    pub(crate) num_preemptions: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    pub(crate) prefix_cache_queries: AtomicU64,
    pub(crate) prefix_cache_hits: AtomicU64,
    pub(crate) draft_tokens: AtomicU64,
    pub(crate) accepted_tokens: AtomicU64,
    pub(crate) steps: AtomicU64,
    /// Since the start: the end of the last step.
    step_ended_ns: AtomicU64,
    /// Since the start: the last change from no work to some.
    busy_since_ns: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            started_at: Instant::now(),
            queued: AtomicU32::new(0),
            cancellations: AtomicU64::new(0),
            shutdown: AtomicBool::new(false),
            cause: OnceLock::new(),
            ended: watch::Sender::new(false),
            running: AtomicU32::new(0),
            preempted: AtomicU32::new(0),
            kv_usage_bits: AtomicU64::new(0),
            running_tokens: AtomicU64::new(0),
            waiting_tokens: AtomicU64::new(0),
            num_preemptions: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            prefix_cache_queries: AtomicU64::new(0),
            prefix_cache_hits: AtomicU64::new(0),
            draft_tokens: AtomicU64::new(0),
            accepted_tokens: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            step_ended_ns: AtomicU64::new(0),
            busy_since_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn stop_cause(&self) -> Option<&StopCause> {
        self.cause.get()
    }

    /// From here on requests are refused. The first cause counts.
    pub(crate) fn set_stop_cause(&self, cause: StopCause) {
        self.cause.get_or_init(|| cause);
    }

    /// The thread is done; a cause is set.
    pub(crate) fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    pub(crate) async fn wait_for_end(&self) {
        let mut ended = self.ended.subscribe();
        // It fails only when the sender is gone, which `self` holds.
        _ = ended.wait_for(|ended| *ended).await;
    }

    /// Takes a place in the queue for a prompt of so many tokens, or says how many are taken.
    pub(crate) fn take_place(&self, max: u32, num_tokens: u32) -> Result<(), u32> {
        if !self.has_work() {
            self.busy_since_ns.fetch_max(self.ns(Instant::now()), Relaxed);
        }
        self.queued.fetch_update(Release, Relaxed, |n| (n < max).then_some(n + 1))?;
        self.waiting_tokens.fetch_add(u64::from(num_tokens), Relaxed);
        Ok(())
    }

    pub(crate) fn give_place_back(&self, num_tokens: u32) {
        self.waiting_tokens.fetch_sub(u64::from(num_tokens), Relaxed);
        self.queued.fetch_sub(1, Release);
    }

    /// What the scheduler holds.
    pub(crate) fn set_held(&self, running: u32, preempted: u32) {
        self.running.store(running, Release);
        self.preempted.store(preempted, Release);
    }

    pub(crate) fn set_kv_usage(&self, usage: f64) {
        self.kv_usage_bits.store(usage.to_bits(), Relaxed);
    }

    /// A step ended.
    pub(crate) fn beat(&self, now: Instant) {
        self.step_ended_ns.store(self.ns(now), Relaxed);
    }

    fn has_work(&self) -> bool {
        [&self.queued, &self.running, &self.preempted].iter().any(|n| n.load(Acquire) > 0)
    }

    fn step_age(&self) -> Option<Duration> {
        self.has_work().then(|| {
            let sign = self.step_ended_ns.load(Relaxed).max(self.busy_since_ns.load(Relaxed));
            Duration::from_nanos(self.ns(Instant::now()).saturating_sub(sign))
        })
    }

    fn ns(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started_at).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    pub(crate) fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.running.load(Relaxed),
            waiting: self.queued.load(Relaxed) + self.preempted.load(Relaxed),
            kv_usage: f64::from_bits(self.kv_usage_bits.load(Relaxed)),
            num_preemptions: self.num_preemptions.load(Relaxed),
            running_tokens: self.running_tokens.load(Relaxed),
            waiting_tokens: self.waiting_tokens.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            generation_tokens: self.generation_tokens.load(Relaxed),
            prefix_cache_queries: self.prefix_cache_queries.load(Relaxed),
            prefix_cache_hits: self.prefix_cache_hits.load(Relaxed),
            draft_tokens: self.draft_tokens.load(Relaxed),
            accepted_tokens: self.accepted_tokens.load(Relaxed),
            steps: self.steps.load(Relaxed),
            step_age: self.step_age(),
        }
    }
}
