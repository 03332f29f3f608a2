//! Files of tokenizers: damaged ones are refused or used, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use tyndall_fuzz::Choices;
use tyndall_text::{Tokenizer, TypedOptions};

/// Small tokenizers of every kind, as the unit tests have them.
static FIXTURES: LazyLock<Vec<(Vec<u8>, Vec<u8>)>> = LazyLock::new(|| {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/mechanism/text/tests/fixtures");
    ["gpt2", "llama2", "qwen2", "pairs/bert", "pairs/xlmr", "pairs/roberta"]
        .iter()
        .map(|name| {
            let read = |file| std::fs::read(root.join(name).join(file)).expect("a fixture");
            (read("tokenizer.json"), read("tokenizer_config.json"))
        })
        .collect()
});

/// Panics of the library are caught where it is called, and are no crash then; others are one.
static HOOK: LazyLock<()> = LazyLock::new(|| std::panic::set_hook(Box::new(|_| ())));

fuzz_target!(|data: &[u8]| {
    LazyLock::force(&HOOK);
    if std::panic::catch_unwind(|| check(data)).is_err() {
        std::process::abort();
    }
});

fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (tokenizer, config) = &FIXTURES[choices.below(FIXTURES.len())];
    let (mut tokenizer, mut config) = (tokenizer.clone(), config.clone());
    let damages_config = choices.flag();
    let places: Vec<usize> = (0..2)
        .map(|_| choices.below(256) << 16 | choices.below(256) << 8 | choices.below(256))
        .collect();
    let file = if damages_config { &mut config } else { &mut tokenizer };
    let new = choices.bytes();
    let from = places[0] % file.len();
    let to = (from + places[1] % 64).min(file.len());
    file.splice(from..to, new.iter().copied().take(512));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("tokenizer.json"), &tokenizer).expect("a file");
    std::fs::write(dir.path().join("tokenizer_config.json"), &config).expect("a file");
    let tokenizer = match Tokenizer::load(dir.path()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let text = "Größe 東京 \u{1f642} <s> [SEP]\n\thello  world's";
    for special in [false, true] {
        if let Ok(ids) = tokenizer.encode(text, special) {
            _ = tokenizer.decode(&ids, special);
        }
    }
    let options = TypedOptions { truncate_to: Some(5), ..TypedOptions::default() };
    _ = tokenizer.encode_with_types(text, Some("b"), options);
    _ = (
        tokenizer.decode(&[0, 1, u32::MAX], false),
        tokenizer.token_bytes(7),
        tokenizer.eos_token_ids().len(),
    );
}
