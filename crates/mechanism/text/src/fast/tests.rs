use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::Tokenizer;

fn fixture(name: &str) -> Tokenizer {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/demo");
    Tokenizer::load(&if name == "demo" { demo } else { tests.join(name) }).expect("a tokenizer")
}

fn by_library(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.inner().encode_fast(text, special).expect("ids").get_ids().to_vec()
}

#[test]
fn usual_tokenizers_are_known_and_others_are_not() {
    for (name, expected) in [
        ("demo", true),
        ("gpt2", true),
        ("qwen2", true),
        ("opt", true),
        ("llama2", false),
        ("pairs/bert", false),
    ] {
        assert_eq!(FastPath::of(fixture(name).inner()).is_some(), expected, "{name}");
    }
}

#[test]
fn what_is_not_normalised_is_left_to_the_library() {
    let qwen = fixture("qwen2");
    let path = FastPath::of(qwen.inner()).expect("a usual tokenizer");
    let encode = |text: &str| path.encode(qwen.inner().get_model(), text, false);
    assert!(encode("e\u{301}").is_none() && encode("\u{e9}").is_some());
    assert_eq!(encode("").expect("ours"), Ok(Vec::new()));
}

#[test]
fn several_splits_follow_each_other() {
    let split = |regex: &str| {
        serde_json::json!({
            "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
        })
    };
    let bytes = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let steps = serde_json::json!({
        "type": "Sequence", "pretokenizers": [split(r"\p{N}{1,3}"), split("[a-z]+"), bytes],
    });
    assert_eq!(expressions(&steps), Some(vec![r"\p{N}{1,3}", "[a-z]+"]));
    let mut inner = fixture("gpt2").inner().clone();
    let steps: tokenizers::PreTokenizerWrapper =
        serde_json::from_value(steps).expect("a pre-tokenizer");
    inner.with_pre_tokenizer(Some(steps));
    let path = FastPath::of(&inner).expect("a usual tokenizer");
    for text in ["ab12345cd  e9", "  x", "12 ab"] {
        let expected = inner.encode_fast(text, false).expect("ids").get_ids().to_vec();
        assert_eq!(path.encode(inner.get_model(), text, false), Some(Ok(expected)), "{text}");
    }
    let mut removed = split("a");
    removed["behavior"] = "Removed".into();
    assert_eq!(expressions(&serde_json::json!({"pretokenizers": [removed, split("b")]})), None);
}

#[test]
fn a_template_without_its_token_is_the_librarys() {
    let processor = serde_json::json!({
        "type": "TemplateProcessing", "special_tokens": {},
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    });
    let processor: tokenizers::PostProcessorWrapper =
        serde_json::from_value(processor).expect("a post-processor");
    let mut inner = fixture("gpt2").inner().clone();
    inner.with_post_processor(Some(processor));
    assert!(FastPath::of(&inner).is_none());
}

/// Texts of what such tokenizers are sensitive to.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("<|endoftext|>".to_owned()),
        Just("<|im_start|>".to_owned()),
        Just("<|im_end|>\n".to_owned()),
        Just("<|im_".to_owned()),
        Just("'ll".to_owned()),
        Just("  \t\r\n ".to_owned()),
        "[a-zA-Z]{1,8}",
        " ?[0-9]{1,5}",
        "[ \n\u{a0}\u{3000}]{1,4}",
        "[!-/:-@]{1,4}",
        "[é東京ñß\u{301}🙂\u{200d}א]{1,4}",
        "\\PC{0,6}",
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn ids_are_those_of_the_library(text in texts(), special in any::<bool>()) {
        for name in ["demo", "gpt2", "qwen2", "opt"] {
            let tokenizer = fixture(name);
            let path = FastPath::of(tokenizer.inner()).expect("a usual tokenizer");
            if let Some(found) = path.encode(tokenizer.inner().get_model(), &text, special) {
                prop_assert_eq!(found, Ok(by_library(&tokenizer, &text, special)), "{}", name);
            }
        }
    }
}
