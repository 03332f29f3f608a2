//! One sequence as text: tokens in, text that is final out.
//!
//! Text comes out when it is whole characters and can no longer become part of a stop string. A
//! stop string ends the sequence: the engine is told by dropping its stream. The last item of every
//! sequence, and only that, has an end.

use std::sync::Arc;
use std::time::Instant;
use tyndall_engine::{
    ComputedPrompt, Finished, GeneratedToken, TokenEvent, TokenLogprobs, TokenStream,
};
use tyndall_telemetry::EngineMetrics;
use tyndall_text::{Detokenizer, StopMatcher, Tokenizer};
use tyndall_types::{FinishReason, RepetitionDetection, SamplingParams, StopReason};

/// What is new in a sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Piece {
    /// May be empty.
    pub(crate) text: String,
    /// Tokens since the last piece that are part of the text, when they were asked for.
    pub(crate) tokens: Vec<TextToken>,
    /// How many tokens there were since the last piece, whether or not they are listed.
    pub(crate) num_tokens: u32,
    /// How the prompt was computed, in the first piece of a sequence with a token.
    pub(crate) prompt: Option<ComputedPrompt>,
    /// In the last piece.
    pub(crate) end: Option<End>,
}

impl Piece {
    fn has_news(&self) -> bool {
        self.end.is_some() || !self.text.is_empty() || !self.tokens.is_empty()
    }
}

/// A token of the text, or the one that ended it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextToken {
    pub(crate) id: u32,
    /// When log-probabilities were asked for.
    pub(crate) logprobs: Option<TokenLogprobs>,
}

/// What is told of a sequence beside its text.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextOptions {
    /// Special tokens that are shown although others are skipped.
    pub(crate) shown: Arc<[u32]>,
    /// Tokens are listed.
    pub(crate) lists_tokens: bool,
}

/// How a sequence ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    pub(crate) stop: Option<StopReason>,
    /// What failed, when the reason is an error.
    pub(crate) error: Option<String>,
    /// It failed because of what the request asks for.
    pub(crate) is_impossible: bool,
    pub(crate) times: Times,
}

/// Where the time of a sequence went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Times {
    pub(crate) queue_s: f64,
    pub(crate) prefill_s: f64,
    pub(crate) decode_s: f64,
}

impl Times {
    pub(crate) fn total_s(&self) -> f64 {
        self.queue_s + self.prefill_s + self.decode_s
    }
}

/// The text side of a sequence that is not yet submitted.
pub(crate) struct TextStream {
    tokenizer: Tokenizer,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    min_tokens: u32,
    includes_stop: bool,
    lists_tokens: bool,
    repetition: Option<RepetitionDetection>,
    /// The output, where repetitions end it.
    output: Vec<u32>,
    metrics: Arc<EngineMetrics>,
}

impl TextStream {
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        prompt: &[u32],
        params: &SamplingParams,
        options: &TextOptions,
        metrics: Arc<EngineMetrics>,
    ) -> Self {
        let detokenizer = Detokenizer::new(tokenizer, prompt, params.skip_special_tokens);
        Self {
            tokenizer: tokenizer.clone(),
            detokenizer: detokenizer.showing(options.shown.clone()),
            stops: StopMatcher::new(&params.stop, params.include_stop_str_in_output),
            min_tokens: params.min_tokens,
            includes_stop: params.include_stop_str_in_output,
            lists_tokens: options.lists_tokens,
            repetition: params.repetition_detection,
            output: Vec::new(),
            metrics,
        }
    }

    /// Joins it with its tokens.
    pub(crate) fn of(self, tokens: TokenStream) -> Sequence {
        Sequence {
            text: self,
            tokens: Some(tokens),
            submitted: Instant::now(),
            first_token: None,
            prompt: None,
            num_output_tokens: 0,
            num_reported: 0,
        }
    }

    /// The text that a token settles, and the stop string that it completes.
    fn push(&mut self, token: &GeneratedToken, num_output_tokens: u32) -> (String, Option<String>) {
        let text = match (token.is_stop, self.includes_stop) {
            (true, false) => return (String::new(), None),
            // Shown even where special tokens are left out.
            (true, true) => {
                let mut text = self.detokenizer.finish();
                text.push_str(&self.tokenizer.token_text(token.id));
                text
            }
            (false, _) => self.detokenizer.push(token.id),
        };
        if num_output_tokens < self.min_tokens {
            return (text, None);
        }
        let out = self.stops.push(&text);
        (out.emit, out.matched)
    }

    /// Whether a token closes a circle.
    fn repeats(&mut self, token: u32) -> bool {
        let Some(repetition) = self.repetition else { return false };
        self.output.push(token);
        repetition.matches(&self.output)
    }

    /// The text that the end settles.
    fn finish(&mut self) -> (String, Option<String>) {
        let rest = self.detokenizer.finish();
        let mut out = self.stops.push(&rest);
        if out.matched.is_none() {
            out.emit.push_str(&self.stops.finish());
        }
        (out.emit, out.matched)
    }
}

/// A submitted sequence. Dropping it aborts it.
pub(crate) struct Sequence {
    text: TextStream,
    /// None after the end.
    tokens: Option<TokenStream>,
    submitted: Instant,
    first_token: Option<Instant>,
    /// Until it is told.
    prompt: Option<ComputedPrompt>,
    num_output_tokens: u32,
    /// Those that earlier pieces counted.
    num_reported: u32,
}

impl Sequence {
    /// The next piece; none after the one with the end. Pieces without news are left out.
    ///
    /// # Cancel safety
    /// Cancel safe: it awaits only the next token, of which none is lost.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        loop {
            let mut piece = match self.tokens.as_mut()?.next().await? {
                TokenEvent::Prompt(computed) => {
                    self.prompt = Some(computed);
                    continue;
                }
                TokenEvent::Token(token) => self.on_token(token),
                TokenEvent::Finished(finished) => self.on_finished(finished),
            };
            if piece.has_news() {
                piece.prompt = self.prompt.take();
                piece.num_tokens = self.num_output_tokens - self.num_reported;
                self.num_reported = self.num_output_tokens;
                return Some(piece);
            }
        }
    }

    fn on_token(&mut self, token: GeneratedToken) -> Piece {
        self.first_token.get_or_insert_with(Instant::now);
        self.num_output_tokens += 1;
        let (mut text, matched) = self.text.push(&token, self.num_output_tokens);
        // With the one that ended it: clients count on an entry for each token of the usage.
        let listed =
            self.text.lists_tokens.then_some(TextToken { id: token.id, logprobs: token.logprob });
        let end = match matched {
            Some(matched) => Some(self.stopped_by(FinishReason::Stop, matched)),
            None if !token.is_last && self.text.repeats(token.id) => {
                text.push_str(&self.text.finish().0);
                Some(self.stopped_by(FinishReason::Repetition, "repetition_detected".to_owned()))
            }
            None => None,
        };
        Piece { text, tokens: listed.into_iter().collect(), end, ..Piece::default() }
    }

    /// The text ends it: the engine need not go on, and says nothing more.
    fn stopped_by(&mut self, reason: FinishReason, matched: String) -> End {
        self.tokens = None;
        let first = self.first_token.unwrap_or(self.submitted);
        let times = Times {
            queue_s: 0.0,
            prefill_s: (first - self.submitted).as_secs_f64(),
            decode_s: first.elapsed().as_secs_f64(),
        };
        self.end(End {
            reason,
            stop: Some(StopReason::Text(matched)),
            error: None,
            is_impossible: false,
            times,
        })
    }

    fn on_finished(&mut self, finished: Finished) -> Piece {
        self.tokens = None;
        let (text, matched) = self.text.finish();
        let stop = match matched {
            Some(matched) => Some(StopReason::Text(matched)),
            None => finished.stop_token.map(StopReason::Token),
        };
        let is_text = matches!(stop, Some(StopReason::Text(_)));
        let end = self.end(End {
            reason: if is_text { FinishReason::Stop } else { finished.reason },
            stop,
            error: finished.error,
            is_impossible: finished.is_impossible,
            times: Times {
                queue_s: finished.queue_s,
                prefill_s: finished.prefill_s,
                decode_s: finished.decode_s,
            },
        });
        Piece { text, end: Some(end), ..Piece::default() }
    }

    fn end(&self, end: End) -> End {
        self.text.metrics.finished(end.reason);
        end
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if self.tokens.is_some() {
            self.text.metrics.finished(FinishReason::Abort);
        }
    }
}
