use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use tyndall_types::StructuredOutput;

use super::{END, compile, json};
use crate::{Compiler, MatchError, Vocabulary, structural_tag};

fn allowed(mask: &[u32]) -> Vec<u32> {
    (0..mask.len() as u32 * 32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

/// `{"a":` ends, `{` begins, two ends, a token twice, a special token without text, and logits
/// beyond the tokens.
fn vocabulary() -> Arc<Vocabulary> {
    let tokens = ["{", "}", "{\"a\":", "1", "", "", "1", "", "}x", "12"];
    let tokens = tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
    Arc::new(Vocabulary::new(tokens, &[4, 5], 70).unwrap())
}

#[test]
fn the_end_is_possible_only_where_the_text_is_complete() {
    let compiler = Compiler::new(vocabulary());
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["a"],
        "properties": {"a": {"type": "integer"}}});
    let output = StructuredOutput::Json { schema, compact: true, closed: false };
    let mut matcher = compiler.compile(&output).unwrap();
    assert_eq!(matcher.mask().unwrap().len(), 3);
    assert_eq!(allowed(matcher.mask().unwrap()), [0, 2]);
    assert_eq!(matcher.accept(4), Err(MatchError::Impossible(4)));
    assert_eq!(matcher.accept(7), Err(MatchError::Impossible(7)));
    assert_eq!(matcher.accept(69), Err(MatchError::Impossible(69)));
    assert_eq!(matcher.accept(7_000), Err(MatchError::Impossible(7_000)));
    matcher.accept(2).unwrap();
    assert_eq!(allowed(matcher.mask().unwrap()), [3, 6, 9]);
    assert!(!matcher.can_end());
    assert_eq!(matcher.valid_prefix(&[6, 9, 1, 1]), Ok(3));
    matcher.accept(6).unwrap();
    assert_eq!(allowed(matcher.mask().unwrap()), [1, 3, 6, 9]);
    matcher.accept(1).unwrap();
    assert!(matcher.can_end() && matcher.is_complete());
    assert_eq!(allowed(matcher.mask().unwrap()), [4, 5]);
    assert_eq!(matcher.accept(1), Err(MatchError::Impossible(1)));
    matcher.accept(5).unwrap();
    assert_eq!(matcher.mask(), Err(MatchError::Ended));
    assert_eq!(matcher.accept(5), Err(MatchError::Ended));
    matcher.rollback(3).unwrap();
    assert_eq!(allowed(matcher.mask().unwrap()), [3, 6, 9]);
}

#[test]
fn text_may_go_on_behind_a_possible_end() {
    let mut matcher = compile(&StructuredOutput::Regex("a+".to_owned())).unwrap();
    assert_eq!(allowed(matcher.mask().unwrap()), [u32::from(b'a')]);
    matcher.accept(u32::from(b'a')).unwrap();
    assert_eq!(allowed(matcher.mask().unwrap()), [u32::from(b'a'), END]);
    assert!(matcher.can_end() && !matcher.is_complete());
    matcher.accept(END).unwrap();
    matcher.rollback(2).unwrap();
    assert_eq!(allowed(matcher.mask().unwrap()), [u32::from(b'a')]);
}

#[test]
fn a_vocabulary_without_a_way_on_is_an_error() {
    let compiler = Compiler::new(vocabulary());
    let mut matcher = compiler.compile(&StructuredOutput::Regex("z1".to_owned())).unwrap_err();
    assert!(matcher.cause.contains("no text fits"), "{matcher}");
    matcher = compiler.compile(&json(json!({"type": "string"}))).unwrap_err();
    assert!(matcher.cause.contains("no text fits"), "{matcher}");
    let mut stuck = compiler.compile(&StructuredOutput::Regex("1[12]*z|12".to_owned())).unwrap();
    stuck.accept(3).unwrap();
    assert_eq!(allowed(stuck.mask().unwrap()), [3, 6, 9]);
    stuck = compiler.compile(&StructuredOutput::Regex("(1|12)z".to_owned())).unwrap();
    stuck.accept(3).unwrap();
    assert_eq!(stuck.mask(), Err(MatchError::NoToken));
}

#[test]
fn what_is_compiled_again_begins_anew() {
    let compiler = Compiler::new(vocabulary());
    for _ in 0..3 {
        for count in 1..100 {
            let output = StructuredOutput::Regex(format!("1{{{count}}}"));
            let mut matcher = compiler.compile(&output).unwrap();
            for _ in 0..count {
                assert!(!matcher.can_end());
                matcher.accept(3).unwrap();
            }
            assert!(matcher.is_complete());
        }
    }
}

#[test]
fn matchers_cross_threads() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    is_send::<crate::Matcher>();
    is_shared::<Compiler>();
}

/// Words and marks, with and without blanks, as tokenizers have them.
fn words() -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let parts =
        ["a", "the", "tool", "call", "é", "long and longer", "{", "\"", "\\", "<", ">", "/"];
    let glue = ["", " ", "\n", "\": ", "_", "1", "</"];
    for first in parts {
        for between in glue {
            tokens.extend(parts.map(|second| format!("{first}{between}{second}").into_bytes()));
            tokens.push(format!("{between}{first}").into_bytes());
        }
    }
    tokens.extend((1..100).map(|n| vec![b' '; n]));
    let num_tokens = tokens.len();
    Vocabulary::new(tokens, &[num_tokens as u32], num_tokens + 1).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The mask is made by shortcuts over sets of tokens; it is what trying each would give.
    #[test]
    fn a_mask_has_exactly_the_tokens_that_are_accepted(choices in prop::collection::vec(any::<u32>(), 12)) {
        let compiler = Compiler::new(Arc::new(words()));
        let end = compiler.vocabulary().vocab_size() as u32 - 1;
        let schema = json!({"type": "object", "required": ["the", "a"], "properties": {
            "the": {"type": "string", "maxLength": 12}, "a": {"enum": ["a tool", "tool\"", 1]}}});
        let tag = structural_tag(&json!({"triggers": ["<tool", "</"], "structures": [
            {"begin": "<tool_call>", "schema": &schema, "end": "</a>"},
            {"begin": "</", "schema": true, "end": ""}]})).unwrap();
        let pattern = StructuredOutput::Regex(r"[a-z]+( [a-z]+){2,9}[^a-y]*!".to_owned());
        for output in [json(schema.clone()), StructuredOutput::JsonObject, tag, pattern] {
            let mut matcher = compiler.compile(&output).unwrap();
            for choice in &choices {
                let Ok(mask) = matcher.mask() else { break };
                let found = allowed(mask);
                for token in 0..end {
                    let possible = matcher.valid_prefix(&[token]).unwrap() == 1;
                    let in_mask = found.binary_search(&token).is_ok();
                    prop_assert_eq!(possible, in_mask, "token {} of {:?}", token, output);
                }
                prop_assert_eq!(matcher.can_end(), found.last() == Some(&end));
                let token = found[*choice as usize % found.len()];
                matcher.accept(token).unwrap();
            }
        }
    }
}
