//! Texts and pairs with types equal those of transformers; `tools/fixtures/make_pairs.py` wrote them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be read fails the test")]

use std::path::PathBuf;

use serde::Deserialize;
use tyndall_text::{Tokenizer, TypedOptions, TypedTokens};

#[derive(Deserialize)]
struct Case {
    first: String,
    second: Option<String>,
    limit: Option<usize>,
    left: bool,
    /// Tokens without a limit.
    whole: usize,
    ids: Vec<u32>,
    types: Vec<u32>,
}

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pairs").join(name)
}

fn check(name: &str) {
    let tokenizer = Tokenizer::load(&dir(name)).unwrap();
    let cases = std::fs::read(dir(name).join("pairs.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() > 100, "{name}");
    for case in cases {
        let options = TypedOptions {
            add_special_tokens: true,
            truncate_to: case.limit,
            truncate_left: case.left,
        };
        let (first, second) = (case.first.as_str(), case.second.as_deref());
        let found = tokenizer.encode_with_types(first, second, options).unwrap();
        let expected =
            TypedTokens { ids: case.ids, types: case.types, untruncated_len: case.whole };
        assert_eq!(found, expected, "{name}: {first:?} {second:?} {options:?}");
        if second.is_none() && case.limit.is_none() {
            assert_eq!(tokenizer.encode(first, true).unwrap(), found.ids, "{name}: {first:?}");
        }
    }
}

#[test]
fn bert_is_as_in_transformers() {
    check("bert");
}

#[test]
fn bert_without_tokenizer_json_is_as_in_transformers() {
    check("bert-vocab");
}

#[test]
fn roberta_is_as_in_transformers() {
    check("roberta");
}

#[test]
fn xlm_roberta_is_as_in_transformers() {
    check("xlmr");
}

#[test]
fn too_small_a_limit_is_an_error() {
    let tokenizer = Tokenizer::load(&dir("bert")).unwrap();
    let encode = |second, most| {
        let options = TypedOptions { truncate_to: Some(most), ..TypedOptions::default() };
        tokenizer.encode_with_types("Hello world", second, options)
    };
    assert_eq!(encode(None, 2).unwrap().ids, [2, 3]);
    let message = encode(Some("Hello"), 2).unwrap_err().to_string();
    assert!(message.contains("special tokens alone are 3"), "{message}");
}

#[test]
fn a_vocabulary_without_its_special_tokens_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vocab.txt"), "a\nb\n[UNK]\n[CLS]\n").unwrap();
    let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("vocab.txt") && message.contains("[SEP]"), "{message}");
}
