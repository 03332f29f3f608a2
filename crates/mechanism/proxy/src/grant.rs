//! A request that a key was let in with, to its last byte: what it uses is its key's.

use crate::access::Holder;
use crate::tally::Tally;
use std::sync::Arc;
use tyndall_router::Flow;
use tyndall_telemetry::ProxyMetrics;
use tyndall_types::TokenUsage;

/// A request of a key. It is over when this is dropped.
///
/// What it used is counted as it becomes known: from the head of the answer, from notes in the
/// stream, and from the trailer. Nothing is guessed.
#[derive(Debug)]
pub(crate) struct Grant {
    holder: Arc<Holder>,
    metrics: Arc<ProxyMetrics>,
    tally: Arc<Tally>,
    known: TokenUsage,
}

impl Grant {
    pub(crate) fn new(holder: Arc<Holder>, metrics: Arc<ProxyMetrics>, tally: Arc<Tally>) -> Self {
        let name = holder.key.name.text();
        metrics.keys().taken(name);
        tally.add(name, |usage| usage.requests += 1);
        Self { holder, metrics, tally, known: TokenUsage::default() }
    }

    /// Whose it is where requests wait.
    pub(crate) fn flow(&self) -> Flow {
        self.holder.flow
    }

    /// It is within the limits of its key, and asks for what the key may not use.
    pub(crate) fn is_refused(&self) {
        self.holder.count_refusal("model", &self.metrics, &self.tally);
    }

    /// So many tokens of completions there are up to now.
    pub(crate) fn learn_completion(&mut self, completion: u64) {
        self.learn(TokenUsage { completion, ..self.known });
    }

    /// It used so much up to now. Counts never go back.
    pub(crate) fn learn(&mut self, usage: TokenUsage) {
        let more = TokenUsage {
            prompt: usage.prompt.saturating_sub(self.known.prompt),
            cached: usage.cached.saturating_sub(self.known.cached),
            completion: usage.completion.saturating_sub(self.known.completion),
        };
        if more == TokenUsage::default() {
            return;
        }
        self.known.prompt += more.prompt;
        self.known.cached += more.cached;
        self.known.completion += more.completion;
        self.holder.charge(more.total());
        let name = self.holder.key.name.text();
        self.metrics.keys().used(name, more);
        self.tally.add(name, |usage| {
            usage.prompt_tokens += more.prompt;
            usage.cached_tokens += more.cached;
            usage.completion_tokens += more.completion;
        });
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.holder.leave();
    }
}
