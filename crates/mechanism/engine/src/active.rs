//! A request as the engine's thread knows it.

use crate::{ComputedPrompt, Finished, TokenEvent};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;
use tyndall_sampling::{SampleError, Sampler, TokenLogprobs};
use tyndall_scheduler::{NewSequence, SeqId, SequenceSummary};
use tyndall_types::{FinishReason, RequestId, SamplingParams};

/// Tokens that end a request's output.
#[derive(Debug)]
pub(crate) struct StopTokens {
    /// The model's primary end token: it is no stop token to speak of.
    primary: Option<u32>,
    others: Vec<u32>,
    min_tokens: u32,
}

impl StopTokens {
    pub(crate) fn new(params: &SamplingParams, eos_token_ids: &[u32]) -> Self {
        let eos = if params.ignore_eos { &[] } else { eos_token_ids };
        let (primary, rest) = match eos.split_first() {
            Some((first, rest)) => (Some(*first), rest),
            None => (None, eos),
        };
        let others = rest.iter().chain(&params.stop_token_ids).copied().collect();
        Self { primary, others, min_tokens: params.min_tokens }
    }

    /// All of them, for the sampler to mask.
    pub(crate) fn all(&self) -> Vec<u32> {
        self.primary.iter().chain(&self.others).copied().collect()
    }

    /// Whether `token`, the `num_output`th, ends the output; and the stop token to report.
    fn matched(&self, token: u32, num_output: u32) -> Option<Option<u32>> {
        if num_output <= self.min_tokens {
            return None;
        }
        if self.primary == Some(token) {
            return Some(None);
        }
        self.others.contains(&token).then_some(Some(token))
    }
}

/// Why a request ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Stop {
        stop_token: Option<u32>,
    },
    Length,
    Abort,
    /// What the request asks for leaves no token.
    Impossible {
        message: String,
    },
    Error {
        message: String,
    },
}

/// A request on its way to the thread.
#[derive(Debug)]
pub(crate) struct NewRequest {
    pub(crate) sequence: NewSequence,
    pub(crate) active: Active,
}

/// How likely the tokens of a prompt are, each after those before it.
#[derive(Debug)]
pub(crate) struct PromptScores {
    prompt: Vec<u32>,
    num_top: u32,
    /// Of the second token and those after it, as far as computed.
    scores: Vec<TokenLogprobs>,
}

impl PromptScores {
    pub(crate) fn new(prompt: &[u32], num_top: u32) -> Self {
        Self { prompt: prompt.to_vec(), num_top, scores: Vec::with_capacity(prompt.len()) }
    }

    /// Takes the `logits` of the prompt's tokens from `begin` on, `[N, V]`.
    pub(crate) fn add(
        &mut self,
        begin: usize,
        logits: &[f32],
        vocab_size: usize,
    ) -> Result<(), SampleError> {
        // A preempted prompt is computed anew.
        self.scores.truncate(begin);
        for (logits, &token) in logits.chunks_exact(vocab_size).zip(&self.prompt[begin + 1..]) {
            self.scores.push(TokenLogprobs::of_prompt(logits, token, self.num_top as usize)?);
        }
        Ok(())
    }
}

/// Everything about a request that the scheduler does not know.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) id: RequestId,
    /// Set when the scheduler has it.
    pub(crate) seq: Option<SeqId>,
    pub(crate) sampler: Sampler,
    /// Until they are told.
    pub(crate) prompt: Option<PromptScores>,
    pub(crate) stop_tokens: StopTokens,
    pub(crate) events: mpsc::Sender<TokenEvent>,
    pub(crate) cancelled: Arc<AtomicBool>,
    /// Of the prompt and those generated so far.
    pub(crate) num_tokens: u32,
    pub(crate) times: Times,
}

impl Active {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether the token just sampled ends the request by itself.
    pub(crate) fn end_by(&self, token: u32) -> Option<End> {
        let stop_token = self.stop_tokens.matched(token, self.sampler.num_output())?;
        Some(End::Stop { stop_token })
    }

    /// Tells how the prompt was computed.
    pub(crate) fn send_prompt(&mut self, num_cached_tokens: u32) {
        let logprobs = self.prompt.take().map(|prompt| prompt.scores);
        self.send(TokenEvent::Prompt(ComputedPrompt { num_cached_tokens, logprobs }));
    }

    /// Hands an event over. A reader that is gone has set the flag, so the loss does not matter,
    /// and the channel has room for every event of the request.
    pub(crate) fn send(&self, event: TokenEvent) {
        _ = self.events.try_send(event);
    }
}

/// The moments that divide a request's life into phases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    submitted: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Times {
    pub(crate) fn new(submitted: Instant) -> Self {
        Self { submitted, first_step: None, first_token: None, last_token: None }
    }

    pub(crate) fn is_queued(&self) -> bool {
        self.first_step.is_none()
    }

    pub(crate) fn begin(&mut self, now: Instant) {
        self.first_step = Some(now);
    }

    /// Takes note of a token; returns the seconds since the previous one, if any.
    pub(crate) fn token(&mut self, now: Instant) -> Option<f64> {
        let previous = self.last_token.replace(now);
        self.first_token.get_or_insert(now);
        previous.map(|previous| seconds(previous, now))
    }

    /// Seconds from `submit` to the first token.
    pub(crate) fn ttft_s(&self) -> f64 {
        self.first_token.map_or(0.0, |first| seconds(self.submitted, first))
    }

    pub(crate) fn finished(&self, end: End, summary: SequenceSummary, now: Instant) -> Finished {
        let first_step = self.first_step.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        let last_token = self.last_token.unwrap_or(now);
        let is_impossible = matches!(end, End::Impossible { .. });
        let (reason, stop_token, error) = match end {
            End::Stop { stop_token } => (FinishReason::Stop, stop_token, None),
            End::Length => (FinishReason::Length, None, None),
            End::Abort => (FinishReason::Abort, None, None),
            End::Impossible { message } | End::Error { message } => {
                (FinishReason::Error, None, Some(message))
            }
        };
        Finished {
            reason,
            stop_token,
            error,
            is_impossible,
            num_prompt_tokens: summary.num_prompt_tokens,
            num_cached_tokens: summary.num_cached_tokens,
            num_output_tokens: summary.num_output_tokens,
            num_preemptions: summary.num_preemptions,
            queue_s: seconds(self.submitted, first_step),
            prefill_s: seconds(first_step, first_token),
            decode_s: seconds(first_token, last_token),
        }
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_primary_end_token_is_not_reported() {
        let check = |ignore_eos, token, num_output, expected| {
            let params = SamplingParams {
                ignore_eos,
                min_tokens: 2,
                stop_token_ids: vec![7],
                ..SamplingParams::default()
            };
            let stop = StopTokens::new(&params, &[1, 2]);
            assert_eq!(stop.matched(token, num_output), expected, "{ignore_eos} {token}");
        };
        check(false, 1, 3, Some(None));
        check(false, 2, 3, Some(Some(2)));
        check(false, 7, 3, Some(Some(7)));
        check(false, 3, 3, None);
        check(true, 1, 3, None);
        check(true, 2, 3, None);
        check(true, 7, 3, Some(Some(7)));
        check(false, 1, 2, None);
    }

    #[test]
    fn phases_add_up() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut times = Times::new(start);
        times.begin(at(1));
        assert_eq!(times.token(at(3)), None);
        assert_eq!(times.token(at(7)), Some(4.0));
        let summary = SequenceSummary {
            num_prompt_tokens: 1,
            num_output_tokens: 2,
            num_cached_tokens: 0,
            num_preemptions: 0,
        };
        let finished = times.finished(End::Length, summary, at(8));
        assert_eq!((finished.queue_s, finished.prefill_s, finished.decode_s), (1.0, 2.0, 4.0));
        assert_eq!((finished.ttft_s(), times.ttft_s()), (3.0, 3.0));
        let unstarted = Times::new(start).finished(End::Abort, summary, at(8));
        assert_eq!((unstarted.queue_s, unstarted.ttft_s(), unstarted.decode_s), (8.0, 8.0, 0.0));
    }
}
