//! Keeping an answer to its structure, thoughts left free.

use crate::ready::Ready;
use std::collections::HashSet;
use std::sync::Arc;
use tyndall_engine::{Constraint, ConstraintError};
use tyndall_openai::ApiError;
use tyndall_parsers::{Beginning, ReasoningFormat};
use tyndall_structured_output::{Compiler, Matcher};
use tyndall_text::Tokenizer;
use tyndall_types::StructuredOutput;

/// What is possible in the answers of one request.
#[derive(Debug, Clone)]
pub(crate) struct Structure {
    /// None leaves the answer free.
    answer: Option<StructuredOutput>,
    compiler: Arc<Compiler>,
    thoughts: Thoughts,
}

/// The thoughts before an answer.
#[derive(Debug, Clone)]
struct Thoughts {
    begin: Begin,
    /// Texts that end them, as bytes.
    ends: Vec<Vec<u8>>,
    /// The tokens that end them, where they are ended by force.
    end_ids: Vec<u32>,
    /// After so many tokens they are.
    budget: Option<u32>,
    tokenizer: Tokenizer,
    /// Tokens that would end the output, impossible before the answer.
    output_ends: Arc<HashSet<u32>>,
    vocab_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Answer,
    Thoughts,
    /// This token begins thoughts, any other the answer.
    ThoughtsWith(u32),
}

/// How a request thinks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Thinking {
    pub(crate) format: Option<ReasoningFormat>,
    pub(crate) is_on: bool,
    pub(crate) prompt_opens: bool,
    pub(crate) budget: Option<u32>,
}

impl Structure {
    /// Of an answer without thoughts.
    ///
    /// # Errors
    /// 400, where it cannot be honoured.
    pub(crate) fn new(ready: &Ready, output: &StructuredOutput) -> Result<Self, ApiError> {
        Ok(Self::after_thoughts(ready, Some(output), Thinking::default())?
            .expect("an output was given"))
    }

    /// Of an answer that comes after thoughts; none where nothing is bound.
    ///
    /// # Errors
    /// 400, where it cannot be honoured.
    pub(crate) fn after_thoughts(
        ready: &Ready,
        output: Option<&StructuredOutput>,
        thinking: Thinking,
    ) -> Result<Option<Self>, ApiError> {
        let budget = thinking.budget.filter(|_| thinking.format.is_some());
        if output.is_none() && budget.is_none() {
            return Ok(None);
        }
        let compiler = ready.compiler()?;
        if let Some(output) = output {
            // Compiled here, so that a structure that cannot be honoured is refused in time.
            compile(&compiler, output)?;
        }
        let beginning = thinking.format.map_or(Beginning::Answer, |format| {
            format.beginning(thinking.is_on, thinking.prompt_opens)
        });
        let begin = match beginning {
            Beginning::Answer => Begin::Answer,
            Beginning::Reasoning => Begin::Thoughts,
            Beginning::Either { start } => match ready.encode(start.trim_end(), false)?[..] {
                [id] => Begin::ThoughtsWith(id),
                // Where the marker is no token of its own, the answer comes at once.
                _ => Begin::Answer,
            },
        };
        let ends = thinking.format.map(ReasoningFormat::end_markers).unwrap_or_default();
        let end_ids = match thinking.format {
            Some(format) => ready.encode(format.end_marker(), false)?,
            None => Vec::new(),
        };
        Ok(Some(Self {
            answer: output.cloned(),
            compiler,
            thoughts: Thoughts {
                begin,
                ends: ends.iter().map(|text| text.as_bytes().to_vec()).collect(),
                end_ids,
                budget,
                tokenizer: ready.tokenizer.clone(),
                output_ends: ready.output_ends.clone(),
                vocab_size: ready.vocab_size,
            },
        }))
    }

    /// The constraint of one sequence.
    ///
    /// # Errors
    /// As [`after_thoughts`](Self::after_thoughts).
    pub(crate) fn begin(&self) -> Result<Box<dyn Constraint>, ApiError> {
        let state = match self.thoughts.begin {
            Begin::Answer => State::Answer,
            Begin::Thoughts => State::thinking(),
            Begin::ThoughtsWith(id) => State::Open(id),
        };
        let compile = |output| compile(&self.compiler, output);
        let answer = self.answer.as_ref().map(compile).transpose()?;
        let thoughts = self.thoughts.clone();
        Ok(Box::new(Sequence { answer, thoughts, state, mask: Vec::new() }))
    }
}

/// Where a sequence is.
#[derive(Debug)]
enum State {
    /// Nothing is output; this token begins thoughts.
    Open(u32),
    Thinking {
        num_tokens: u32,
        tail: Vec<u8>,
    },
    /// The thoughts are ended by force; so many tokens of the end are output.
    Ending(usize),
    Answer,
}

impl State {
    fn thinking() -> Self {
        Self::Thinking { num_tokens: 0, tail: Vec::new() }
    }
}

#[derive(Debug)]
struct Sequence {
    /// None leaves the answer free.
    answer: Option<Matcher>,
    thoughts: Thoughts,
    state: State,
    /// Reused.
    mask: Vec<u32>,
}

impl Constraint for Sequence {
    fn allowed(&mut self) -> Result<Option<&[u32]>, ConstraintError> {
        let Self { answer, thoughts, .. } = self;
        let words = thoughts.vocab_size.div_ceil(32);
        match &self.state {
            State::Answer => match answer {
                Some(answer) => answer.mask().map(Some).map_err(failed),
                None => Ok(None),
            },
            State::Open(begin) => {
                let Some(answer) = answer else { return Ok(None) };
                self.mask.clear();
                self.mask.extend_from_slice(answer.mask().map_err(failed)?);
                self.mask.resize(words, 0);
                allow(&mut self.mask, *begin);
                Ok(Some(&self.mask))
            }
            State::Thinking { .. } if answer.is_none() => Ok(None),
            State::Thinking { .. } => {
                // An answer was asked for, so the output does not end with the thoughts.
                self.mask.clear();
                self.mask.resize(words, u32::MAX);
                for &end in thoughts.output_ends.iter() {
                    if let Some(word) = self.mask.get_mut(end as usize / 32) {
                        *word &= !(1 << (end % 32));
                    }
                }
                Ok(Some(&self.mask))
            }
            State::Ending(at) => {
                self.mask.clear();
                self.mask.resize(words, 0);
                allow(&mut self.mask, thoughts.end_ids[*at]);
                Ok(Some(&self.mask))
            }
        }
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        let Self { answer, thoughts, .. } = self;
        match &mut self.state {
            State::Open(begin) if *begin == token => {
                self.state = thoughts.after(0, State::thinking())
            }
            State::Answer | State::Open(_) => {
                self.state = State::Answer;
                if let Some(answer) = answer {
                    answer.accept(token).map_err(failed)?;
                }
            }
            State::Thinking { num_tokens, tail } => {
                *num_tokens += 1;
                tail.extend(thoughts.tokenizer.token_bytes(token).unwrap_or_default());
                if thoughts.is_ended(tail) {
                    self.state = State::Answer;
                } else {
                    let longest = thoughts.ends.iter().map(Vec::len).max().unwrap_or_default();
                    let spare = tail.len().saturating_sub(longest.saturating_sub(1));
                    tail.drain(..spare);
                    let num_tokens = *num_tokens;
                    let state = std::mem::replace(&mut self.state, State::Answer);
                    self.state = thoughts.after(num_tokens, state);
                }
            }
            State::Ending(at) => {
                *at += 1;
                if *at == thoughts.end_ids.len() {
                    self.state = State::Answer;
                }
            }
        }
        Ok(())
    }
}

impl Thoughts {
    fn is_ended(&self, tail: &[u8]) -> bool {
        let holds = |end: &Vec<u8>| tail.windows(end.len()).any(|window| window == &end[..]);
        self.ends.iter().any(holds)
    }

    /// `state` after so many tokens of thoughts, or their forced end.
    fn after(&self, num_tokens: u32, state: State) -> State {
        let is_spent = self.budget.is_some_and(|budget| num_tokens >= budget);
        if is_spent && !self.end_ids.is_empty() { State::Ending(0) } else { state }
    }
}

fn allow(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}

fn failed(error: impl std::fmt::Display) -> ConstraintError {
    ConstraintError { reason: error.to_string() }
}

fn compile(compiler: &Compiler, output: &StructuredOutput) -> Result<Matcher, ApiError> {
    compiler.compile(output).map_err(|error| ApiError::structure(&error))
}
