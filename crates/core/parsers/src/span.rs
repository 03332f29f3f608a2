//! Where the reasoning of a text lies, for those who steer it token by token.

use crate::names::ReasoningFormat;
use crate::reasoning::Begins;

/// How a text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// With the answer.
    Answer,
    /// Inside of reasoning.
    Reasoning,
    /// With the answer, or with this marker and then reasoning.
    Either {
        /// The marker.
        start: &'static str,
    },
}

impl ReasoningFormat {
    /// Whether a prompt ends with the marker that begins reasoning.
    #[must_use]
    pub fn prompt_opens(self, prompt: &str) -> bool {
        let prompt = prompt.trim_end();
        let opens = |start: &&str| prompt.ends_with(start.trim_end());
        self.marks().is_some_and(|marks| marks.start.iter().any(opens))
    }

    /// How the text after a prompt begins: one that opens reasoning or not, with thinking on or off.
    #[must_use]
    pub fn beginning(self, thinking: bool, prompt_opens: bool) -> Beginning {
        let Some(marks) = self.marks() else { return Beginning::Reasoning };
        match marks.begins {
            _ if prompt_opens => Beginning::Reasoning,
            Begins::Inside => Beginning::Reasoning,
            Begins::IfThinking if thinking => Beginning::Reasoning,
            Begins::IfThinking => Beginning::Answer,
            Begins::WithMarker | Begins::WithEveryMarker => match marks.start {
                [start, ..] => Beginning::Either { start },
                [] => Beginning::Answer,
            },
        }
    }

    /// Texts of which the first one to come ends reasoning.
    #[must_use]
    pub fn end_markers(self) -> Vec<&'static str> {
        match self.marks() {
            Some(marks) => marks.end.to_vec(),
            None => vec!["<|channel|>final<|message|>"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_begin_as_their_family_and_the_prompt_say() {
        let check = |format: ReasoningFormat, thinking, prompt: &str, expected| {
            let opens = format.prompt_opens(prompt);
            assert_eq!(format.beginning(thinking, opens), expected, "{format:?} {prompt}");
        };
        use Beginning::{Answer, Either, Reasoning};
        check(ReasoningFormat::Qwen3, true, "<|im_start|>assistant\n", Reasoning);
        check(ReasoningFormat::Qwen3, false, "<think>\n\n</think>\n\n", Answer);
        check(ReasoningFormat::Qwen3, false, "assistant\n<think>\n", Reasoning);
        check(ReasoningFormat::DeepseekR1, false, "", Reasoning);
        check(ReasoningFormat::DeepseekV3, true, "", Reasoning);
        check(ReasoningFormat::Mistral, true, "[/INST]", Either { start: "[THINK]" });
        check(ReasoningFormat::Mistral, true, "[/INST][THINK]", Reasoning);
        check(ReasoningFormat::Harmony, true, "<|start|>assistant", Reasoning);
        for format in ReasoningFormat::all() {
            assert!(format.end_markers().iter().all(|marker| !marker.is_empty()));
        }
    }
}
