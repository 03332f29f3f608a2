//! Puts reasoning and answer together.

use crate::answer::{Answer, AroundReasoning};
use crate::grammars::grammar;
use crate::harmony::Harmony;
use crate::names::{ReasoningFormat, ToolFormat};
use crate::output::Output;
use crate::reasoning::Reasoner;
use crate::scan::Step;
use tyndall_types::{MessageDelta, Tool, ToolChoice};

/// What is known of a text before it comes.
#[derive(Debug, Clone, Default)]
pub struct ParserOptions {
    /// How the family writes reasoning; none takes it for content.
    pub reasoning: Option<ReasoningFormat>,
    /// The template was told to let the model think, which matters for families that can do without.
    pub thinking: bool,
    /// The prompt ends with the start marker, so the text begins inside of reasoning.
    pub prompt_opens_reasoning: bool,
    /// The request's functions. Types of arguments that are not JSON are looked up here.
    pub tools: Vec<Tool>,
    /// What the model may or must call.
    pub choice: ToolChoice,
    /// How the family writes calls; none takes them for content.
    pub format: Option<ToolFormat>,
    /// Several calls may be made; else those after the first are dropped.
    pub parallel: bool,
}

/// Reads a model's text as it comes and gives out what it means.
///
/// See the crate's documentation for the rules.
#[derive(Debug)]
pub struct MessageParser {
    machine: Machine,
    /// Text that means something only with more behind it.
    pending: String,
    out: Output,
}

#[derive(Debug)]
enum Machine {
    Plain(Box<Plain>),
    Harmony(Box<Harmony>),
}

/// Reasoning, then the answer.
#[derive(Debug)]
struct Plain {
    /// None where there is no reasoning.
    reasoner: Option<Reasoner>,
    is_answering: bool,
    answer: Answer,
}

impl MessageParser {
    /// A parser for one message.
    #[must_use]
    pub fn new(options: ParserOptions) -> Self {
        let out = Output::new(options.choice != ToolChoice::None, options.parallel);
        Self { machine: Machine::new(options), pending: String::new(), out }
    }

    /// Reads the next piece of text, however it is cut.
    pub fn push(&mut self, text: &str) -> Vec<MessageDelta> {
        if self.pending.is_empty() {
            let read = self.run(text, false);
            self.pending.push_str(&text[read..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.push_str(text);
            let read = self.run(&pending, false);
            pending.drain(..read);
            self.pending = pending;
        }
        self.out.take()
    }

    /// Reads what was held back: no more text comes.
    ///
    /// A call that the text breaks off in stays as it is: half an argument must not look like a
    /// whole one.
    pub fn finish(&mut self) -> Vec<MessageDelta> {
        let pending = std::mem::take(&mut self.pending);
        let read = self.run(&pending, true);
        self.machine.finish(&mut self.out);
        self.out.content(&pending[read..]);
        self.out.finish();
        self.out.take()
    }

    /// Whether the text that comes next is reasoning.
    ///
    /// Families that may answer at once are not in reasoning before their start marker. Harmony is,
    /// headers and all, until a message to the user or to a function begins.
    #[must_use]
    pub fn is_reasoning(&self) -> bool {
        match &self.machine {
            Machine::Plain(plain) => {
                !plain.is_answering && plain.reasoner.as_ref().is_some_and(Reasoner::is_inside)
            }
            Machine::Harmony(harmony) => harmony.is_reasoning(),
        }
    }

    /// Calls that began.
    #[must_use]
    pub fn num_calls(&self) -> u32 {
        self.out.num_calls()
    }

    /// Bytes that were read.
    fn run(&mut self, text: &str, last: bool) -> usize {
        let mut at = 0;
        loop {
            match self.machine.step(&text[at..], last, &mut self.out) {
                Step::Wait(read) => return at + read,
                Step::Go(read) | Step::Done(read) | Step::Fail(read) => at += read,
            }
        }
    }
}

impl Machine {
    fn new(options: ParserOptions) -> Self {
        let ParserOptions { reasoning, tools, choice, format, .. } = options;
        let is_harmony =
            reasoning == Some(ReasoningFormat::Harmony) || format == Some(ToolFormat::Harmony);
        if is_harmony {
            let names = || tools.iter().map(|tool| tool.name.clone()).collect();
            let functions = (choice != ToolChoice::None).then(names);
            let answer = Answer::new(&choice, None, tools, &AroundReasoning::default());
            let harmony = Harmony::new(answer, functions, options.prompt_opens_reasoning);
            return Self::Harmony(Box::new(harmony));
        }
        let marks = reasoning.and_then(ReasoningFormat::marks);
        let (reasoner, around) = marks.map_or_else(Default::default, |marks| {
            Reasoner::new(&marks, options.thinking, options.prompt_opens_reasoning)
        });
        let answer = Answer::new(&choice, format.and_then(grammar), tools, &around);
        Self::Plain(Box::new(Plain { is_answering: reasoner.is_none(), reasoner, answer }))
    }

    fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match self {
            Self::Harmony(harmony) => harmony.step(text, last, out),
            Self::Plain(plain) => plain.step(text, last, out),
        }
    }

    fn finish(&mut self, out: &mut Output) {
        match self {
            Self::Harmony(harmony) => harmony.finish(out),
            Self::Plain(plain) => plain.answer.finish(out),
        }
    }
}

impl Plain {
    fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match &mut self.reasoner {
            Some(reasoner) if !self.is_answering => {
                let step = reasoner.step(text, last, out);
                self.is_answering = matches!(step, Step::Done(_));
                step
            }
            reasoner => {
                let step = self.answer.step(text, last, out);
                if let (Step::Done(_), Some(reasoner)) = (step, reasoner) {
                    reasoner.reopen();
                    self.is_answering = false;
                }
                step
            }
        }
    }
}
