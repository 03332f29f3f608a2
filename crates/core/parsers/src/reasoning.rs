//! Where reasoning begins and ends.

use crate::answer::AroundReasoning;
use crate::names::ReasoningFormat;
use crate::output::Output;
use crate::scan::{Found, Markers, Step, leading_space};

/// White space before the start marker is not waited on beyond so many bytes.
const MAX_BLANK: usize = 256;

/// The marks of a family.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) start: &'static [&'static str],
    pub(crate) end: &'static [&'static str],
    /// Texts that end reasoning without belonging to it.
    pub(crate) implied_end: &'static [&'static str],
    /// Texts around the answer, left out of it.
    pub(crate) noise: &'static [&'static str],
    pub(crate) begins: Begins,
}

/// Whether a text begins with reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// Always.
    Inside,
    /// If thinking is on; else there is none.
    IfThinking,
    /// If it begins with the start marker.
    WithMarker,
    /// So, and again wherever the marker comes.
    WithEveryMarker,
}

impl ReasoningFormat {
    /// None for Harmony, which is more than reasoning.
    pub(crate) fn marks(self) -> Option<Marks> {
        let think = Marks {
            start: &["<think>"],
            end: &["</think>"],
            implied_end: &[],
            noise: &["</think>"],
            begins: Begins::Inside,
        };
        Some(match self {
            Self::DeepseekR1 => think,
            Self::DeepseekV3 => Marks { begins: Begins::IfThinking, ..think },
            Self::Qwen3 => {
                Marks { begins: Begins::IfThinking, implied_end: &["<tool_call>"], ..think }
            }
            Self::KimiK2 => Marks {
                begins: Begins::IfThinking,
                implied_end: &["<|tool_calls_section_begin|>"],
                ..think
            },
            Self::HunyuanA13b => Marks {
                start: &["<think>\n"],
                end: &["\n</think>\n", "</think>"],
                noise: &["</think>", "<answer>\n", "\n</answer>"],
                begins: Begins::WithMarker,
                ..think
            },
            Self::SeedOss => Marks {
                start: &["<seed:think>"],
                end: &["</seed:think>"],
                implied_end: &[],
                noise: &["</seed:think>"],
                begins: Begins::WithMarker,
            },
            Self::Mistral => Marks {
                start: &["[THINK]"],
                end: &["[/THINK]"],
                implied_end: &[],
                noise: &["[/THINK]"],
                begins: Begins::WithEveryMarker,
            },
            Self::Granite => Marks {
                start: &["Here is my thought process:", "Here's my thought process:"],
                end: &["Here is my response:", "Here's my response:"],
                implied_end: &[],
                noise: &[],
                begins: Begins::WithMarker,
            },
            Self::Harmony => return None,
        })
    }
}

/// Reads reasoning and stops where the answer begins.
#[derive(Debug)]
pub(crate) struct Reasoner {
    start: Markers,
    inside: Markers,
    num_end: usize,
    num_implied_end: usize,
    is_inside: bool,
}

impl Reasoner {
    /// None if there will be no reasoning at all. The second value is what content must look for.
    pub(crate) fn new(
        marks: &Marks,
        thinks: bool,
        prompt_opens: bool,
    ) -> (Option<Self>, AroundReasoning) {
        if marks.begins == Begins::IfThinking && !thinks && !prompt_opens {
            return (None, AroundReasoning::default());
        }
        let reopens = marks.begins == Begins::WithEveryMarker;
        let around =
            AroundReasoning { noise: marks.noise, start: if reopens { marks.start } else { &[] } };
        let inside = marks.end.iter().chain(marks.implied_end).chain(marks.start);
        let is_inside = prompt_opens || matches!(marks.begins, Begins::Inside | Begins::IfThinking);
        let reasoner = Self {
            start: Markers::new(marks.start.iter().copied()),
            inside: Markers::new(inside.copied()),
            num_end: marks.end.len(),
            num_implied_end: marks.implied_end.len(),
            is_inside,
        };
        (Some(reasoner), around)
    }

    /// Whether what comes next is reasoning for sure.
    pub(crate) fn is_inside(&self) -> bool {
        self.is_inside
    }

    /// The start marker was read elsewhere.
    pub(crate) fn reopen(&mut self) {
        self.is_inside = true;
    }

    /// `Done` says that the answer begins.
    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        if !self.is_inside {
            return self.before(text, last);
        }
        let (read, which) = match self.inside.find(text, last) {
            Found::Marker { at, which } => (at, Some(which)),
            Found::Partial { at } => (at, None),
            Found::Nothing => (text.len(), None),
        };
        out.reasoning(&text[..read]);
        let Some(which) = which else {
            return Step::Wait(read);
        };
        let end = read + self.inside.len_of(which);
        if which < self.num_end {
            Step::Done(end)
        } else if which < self.num_end + self.num_implied_end {
            Step::Done(read)
        } else {
            Step::Go(end)
        }
    }

    fn before(&mut self, text: &str, last: bool) -> Step {
        let space = leading_space(text);
        let rest = &text[space..];
        if space > MAX_BLANK {
            return Step::Done(0);
        }
        if rest.is_empty() {
            return if last { Step::Done(0) } else { Step::Wait(0) };
        }
        match self.start.starts(rest, last) {
            Found::Marker { which, .. } => {
                self.is_inside = true;
                Step::Go(space + self.start.len_of(which))
            }
            Found::Partial { .. } => Step::Wait(0),
            Found::Nothing => Step::Done(0),
        }
    }
}
