//! What the matchers let through, wish by wish, over single bytes.

mod json;
mod random;
mod text;
mod tokens;

use std::sync::{Arc, LazyLock};

use tyndall_types::StructuredOutput;

use crate::{Compiler, Matcher, StructuredOutputError, Vocabulary};

const END: u32 = 256;

static COMPILER: LazyLock<Compiler> =
    LazyLock::new(|| Compiler::new(Arc::new(Vocabulary::bytes().unwrap())));

fn compile(output: &StructuredOutput) -> Result<Matcher, StructuredOutputError> {
    COMPILER.compile(output)
}

/// Whether a matcher takes all of the text and its end then.
pub(crate) fn possible(output: &StructuredOutput, text: &str) -> bool {
    let mut matcher = compile(output).unwrap();
    text.bytes().all(|byte| matcher.accept(u32::from(byte)).is_ok()) && matcher.accept(END).is_ok()
}

#[track_caller]
pub(crate) fn check(output: &StructuredOutput, yes: &[&str], no: &[&str]) {
    crate::check(output).unwrap();
    for text in yes {
        assert!(possible(output, text), "{text:?} is possible");
    }
    for text in no {
        assert!(!possible(output, text), "{text:?} is not possible");
    }
}

fn json(schema: serde_json::Value) -> StructuredOutput {
    StructuredOutput::Json { schema, compact: false, closed: false }
}
