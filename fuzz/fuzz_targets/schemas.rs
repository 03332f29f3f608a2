//! Structured output: a wish is refused or kept. What is complete under a JSON schema is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use tyndall_fuzz::Choices;
use tyndall_structured_output::{Compiler, Vocabulary, check, structural_tag};
use tyndall_types::StructuredOutput;

const END: u32 = 256;

/// A token for each byte, and one that ends a text.
static COMPILER: LazyLock<Compiler> = LazyLock::new(|| {
    let tokens = (0..=255).map(|byte| vec![byte]).collect();
    Compiler::new(Arc::new(Vocabulary::new(tokens, &[END], 257).expect("a vocabulary")))
});

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let kind = choices.below(6);
    let (compact, closed) = (choices.flag(), choices.flag());
    let walk: Vec<usize> = (0..24).map(|_| choices.below(256)).collect();
    let text = choices.text();
    let json = |text: &str| serde_json::from_str(text).ok();
    let wish = match kind {
        0 | 1 => json(&text).map(|schema| StructuredOutput::Json { schema, compact, closed }),
        2 => Some(StructuredOutput::Regex(text.clone())),
        3 => Some(StructuredOutput::Grammar(text.clone())),
        4 => Some(StructuredOutput::Choice(text.split('\n').map(str::to_owned).collect())),
        _ => json(&text).and_then(|value| structural_tag(&value).ok()),
    };
    let Some(wish) = wish else { return };
    if let Err(error) = check(&wish) {
        assert!(!error.to_string().is_empty());
        assert!(COMPILER.compile(&wish).is_err(), "refused first, taken then");
        return;
    }
    let Ok(mut matcher) = COMPILER.compile(&wish) else { return };
    let mut written = Vec::new();
    for step in walk.iter().cycle().take(96) {
        let Ok(mask) = matcher.mask() else { return };
        let possible: Vec<u32> =
            (0..=END).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        // What is left without a token is complete.
        let Some(token) = possible.get(step % possible.len().max(1)) else { break };
        if *token == END || matcher.accept(*token).is_err() {
            break;
        }
        written.push(*token as u8);
    }
    if matches!(wish, StructuredOutput::Json { .. }) && matcher.can_end() {
        let text = String::from_utf8(written).expect("JSON is UTF-8");
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text:?}");
    }
});
