//! One message: a sequence's text, read in the form of its model's family.

use crate::logprobs::TokenNames;
use crate::text_stream::{Piece, TextToken};
use tyndall_engine::TokenLogprobs;
use tyndall_openai::{MessageEnd, MessagePiece, PromptDetails};
use tyndall_parsers::MessageParser;
use tyndall_text::Tokenizer;
use tyndall_types::{FinishReason, MessageDelta};

/// What an answer tells beside its text.
#[derive(Debug, Clone)]
pub(crate) struct Details {
    /// Log-probabilities of tokens.
    pub(crate) logprobs: bool,
    /// Ids of tokens, also of the prompt.
    pub(crate) token_ids: bool,
    /// Log-probabilities of the prompt.
    pub(crate) prompt_logprobs: bool,
    /// How tokens are named.
    pub(crate) names: TokenNames,
}

impl Details {
    /// The text and nothing else.
    pub(crate) fn of_text(tokenizer: &Tokenizer) -> Self {
        let names = TokenNames { tokenizer: tokenizer.clone(), as_ids: false };
        Self { logprobs: false, token_ids: false, prompt_logprobs: false, names }
    }

    /// Tokens are told as ids.
    pub(crate) fn named_by_id(mut self, as_ids: bool) -> Self {
        self.names.as_ids = as_ids;
        self
    }

    /// Whether the tokens of the text are needed.
    pub(crate) fn lists_tokens(&self) -> bool {
        self.logprobs || self.token_ids
    }
}

/// What comes before the text of the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Echo {
    pub(crate) text: String,
    /// All of them are told like tokens of the text.
    pub(crate) tokens: Vec<u32>,
    /// Nothing comes after it.
    pub(crate) is_all: bool,
}

/// Reads one sequence.
#[derive(Debug)]
pub(crate) struct MessageReader {
    /// None takes the text as it is.
    parser: Option<MessageParser>,
    /// Until it is given out.
    echo: Option<Echo>,
    is_all: bool,
    details: Details,
    /// Tokens of the prompt, where they are told.
    prompt: Vec<u32>,
    told: PromptDetails,
    num_reasoning_tokens: u32,
}

impl MessageReader {
    pub(crate) fn new(parser: Option<MessageParser>, details: Details) -> Self {
        Self {
            parser,
            echo: None,
            is_all: false,
            details,
            prompt: Vec::new(),
            told: PromptDetails::default(),
            num_reasoning_tokens: 0,
        }
    }

    /// Gives out this first.
    pub(crate) fn with_echo(mut self, echo: Option<Echo>) -> Self {
        self.is_all = echo.as_ref().is_some_and(|echo| echo.is_all);
        self.echo = echo;
        self
    }

    /// Tells of this prompt what the details say.
    pub(crate) fn with_prompt(mut self, prompt: &[u32]) -> Self {
        if self.details.token_ids {
            self.told.token_ids = Some(prompt.to_vec());
        }
        if self.details.prompt_logprobs {
            self.prompt = prompt.to_vec();
        }
        self
    }

    /// What a piece of the sequence adds to the message.
    pub(crate) fn read(&mut self, piece: Piece) -> MessagePiece {
        let mut message = MessagePiece::default();
        let scores = piece.prompt.and_then(|prompt| prompt.logprobs);
        if let Some(scores) = &scores
            && self.details.prompt_logprobs
        {
            let prompt = std::mem::take(&mut self.prompt);
            self.told.logprobs = Some(self.details.names.prompt(&prompt, scores));
        }
        if let Some(echo) = self.echo.take() {
            self.give_out(echo, scores.as_deref(), &mut message);
        }
        if !self.is_all {
            self.add_text(&piece.text, piece.num_tokens, &mut message.deltas);
            self.add_tokens(&piece.tokens, &mut message);
        }
        if let Some(end) = piece.end {
            if let Some(parser) = &mut self.parser {
                message.deltas.extend(parser.finish());
            }
            let reason = if self.is_all { FinishReason::Length } else { end.reason };
            let stop = end.stop.filter(|_| !self.is_all);
            message.end = Some(MessageEnd { reason, stop });
        }
        message
    }

    /// Tokens of thoughts; none where the family has none.
    pub(crate) fn num_reasoning_tokens(&self) -> u32 {
        self.num_reasoning_tokens
    }

    /// Nothing of what the engine generates is told.
    pub(crate) fn is_all_echo(&self) -> bool {
        self.is_all
    }

    /// What is told of the prompt.
    pub(crate) fn take_prompt(&mut self) -> PromptDetails {
        std::mem::take(&mut self.told)
    }

    fn add_text(&mut self, text: &str, num_tokens: u32, deltas: &mut Vec<MessageDelta>) {
        let Some(parser) = &mut self.parser else {
            if !text.is_empty() {
                deltas.push(MessageDelta::Content(text.to_owned()));
            }
            return;
        };
        let was_reasoning = parser.is_reasoning();
        deltas.extend(parser.push(text));
        if was_reasoning {
            // The token of the end marker is no thought.
            let ended = u32::from(!parser.is_reasoning());
            self.num_reasoning_tokens += num_tokens.saturating_sub(ended);
        }
    }

    fn add_tokens(&self, tokens: &[TextToken], message: &mut MessagePiece) {
        if self.details.token_ids {
            message.token_ids.extend(tokens.iter().map(|token| token.id));
        }
        let found = tokens.iter().filter_map(|token| Some((token.id, token.logprobs.as_ref()?)));
        let names = &self.details.names;
        message.logprobs.extend(found.map(|(id, found)| names.scored(id, found)));
    }

    fn give_out(&self, echo: Echo, scores: Option<&[TokenLogprobs]>, message: &mut MessagePiece) {
        message.deltas.push(MessageDelta::Content(echo.text));
        if self.details.token_ids {
            message.token_ids.extend(&echo.tokens);
        }
        if let Some((scores, (first, rest))) = scores.zip(echo.tokens.split_first())
            && self.details.logprobs
        {
            let names = &self.details.names;
            message.logprobs.push(names.unscored(*first));
            message
                .logprobs
                .extend(rest.iter().zip(scores).map(|(id, found)| names.scored(*id, found)));
        }
    }
}
