//! Compares with what transformers made of the same files; `tools/fixtures/make_text.py` wrote them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be read fails the test")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value};
use tyndall_text::{
    ChatInput, Detokenizer, TemplateError, Tokenizer, TokenizerCache, TokenizerError,
};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer, &[], skip_special);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

fn check_decoding(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool, expected: &Value) {
    assert_eq!(*expected, tokenizer.decode(ids, skip_special), "{ids:?}");
    assert_eq!(*expected, stream(tokenizer, ids, skip_special), "{ids:?}");
}

/// As loaded from the files, and as loaded from the tables that were saved.
fn check_tokenizer(name: &str) {
    check_golden(&Tokenizer::load(&fixtures().join(name)).unwrap(), name);
    let model = PaddedModel::of(name);
    let (tokenizer, unsaved) = Tokenizer::load_cached(model.path(), None).unwrap();
    check_golden(&tokenizer, name);
    let saved = unsaved.unwrap().save().unwrap();
    assert!(saved.starts_with(model.path().join(".tyndall")), "{saved:?}");
    let (tokenizer, unsaved) = Tokenizer::load_cached(model.path(), None).unwrap();
    assert!(unsaved.is_none(), "{name} was saved");
    check_golden(&tokenizer, name);
}

/// A copy of a fixture whose tokenizer files are as long as those that are worth saving.
struct PaddedModel(tempfile::TempDir);

impl PaddedModel {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
            let path = entry.unwrap().path();
            let mut text = std::fs::read_to_string(&path).unwrap();
            let file = path.file_name().unwrap();
            if file == "tokenizer.json" || file == "vocab.json" {
                text.push_str(&" ".repeat(256 << 10));
            }
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self, user_cache: Option<&Path>) -> (Tokenizer, Option<TokenizerCache>) {
        Tokenizer::load_cached(self.path(), user_cache).unwrap()
    }
}

#[test]
fn damaged_tables_are_ignored_and_replaced() {
    let model = PaddedModel::of("qwen2");
    let save = || model.load(None).1.unwrap().save().unwrap();
    let path = save();
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let foreign = b"something else".to_vec();
    for damaged in [flipped, whole[..whole.len() - 4].to_vec(), foreign, Vec::new()] {
        std::fs::write(&path, damaged).unwrap();
        check_golden(&model.load(None).0, "qwen2");
        assert_eq!(save(), path);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(model.load(None).1.is_none());
    }
    // Tables of another vocabulary under this one's name.
    let gpt2 = PaddedModel::of("gpt2");
    std::fs::copy(gpt2.load(None).1.unwrap().save().unwrap(), &path).unwrap();
    check_golden(&model.load(None).0, "qwen2");
}

#[test]
fn a_changed_tokenizer_does_not_meet_old_tables() {
    let model = PaddedModel::of("gpt2");
    model.load(None).1.unwrap().save().unwrap();
    let json = model.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::write(&json, text + " ").unwrap();
    assert!(model.load(None).1.is_some());
}

#[test]
fn tables_go_to_the_user_where_the_model_cannot_be_written() {
    let model = PaddedModel::of("llama2");
    // A file in the directory's place refuses everybody, root too.
    std::fs::write(model.path().join(".tyndall"), "").unwrap();
    let user = tempfile::tempdir().unwrap();
    let cache = user.path().join("a/b");
    let unsaved = model.load(Some(&cache)).1.unwrap();
    assert!(unsaved.save().unwrap().starts_with(&cache));
    let (tokenizer, unsaved) = model.load(Some(&cache));
    assert!(unsaved.is_none());
    check_golden(&tokenizer, "llama2");
    let nowhere = model.load(None).1.unwrap().save().unwrap_err();
    assert!(!nowhere.to_string().is_empty());
}

fn check_golden(tokenizer: &Tokenizer, name: &str) {
    let golden = read(&format!("{name}/golden.json"));
    assert_eq!(golden["length"], tokenizer.vocab_size());
    for (name, token) in golden["named"].as_object().unwrap() {
        assert_eq!(token[0], *tokenizer.named_token(name).unwrap(), "{name}");
        assert_eq!(token[1], tokenizer.named_token_id(name).unwrap(), "{name}");
    }
    assert_eq!(ids(&golden["special_ids"]), tokenizer.special_token_ids());
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let (plain, special) = (ids(&case["ids"]), ids(&case["ids_with_special"]));
        assert_eq!(tokenizer.encode(text, false).unwrap(), plain, "{name} {text:?}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), special, "{name} {text:?}");
        check_decoding(tokenizer, &plain, false, &case["decoded"]);
        check_decoding(tokenizer, &special, true, &case["decoded_skipping"]);
    }
    for case in golden["mixed"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        check_decoding(tokenizer, &ids, false, &case["decoded"]);
        check_decoding(tokenizer, &ids, true, &case["decoded_skipping"]);
    }
}

#[test]
fn gpt2_as_one_file() {
    check_tokenizer("gpt2");
}

#[test]
fn opt_as_vocabulary_and_merges() {
    check_tokenizer("opt");
    let tokenizer = Tokenizer::load(&fixtures().join("opt")).unwrap();
    assert_eq!(tokenizer.encode("", true).unwrap(), [2]);
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_ids()), (Some(2), &[2][..]));
}

#[test]
fn llama2_with_byte_fallback() {
    check_tokenizer("llama2");
}

#[test]
fn qwen2_with_its_own_splitting() {
    check_tokenizer("qwen2");
}

#[test]
fn token_bytes_are_the_true_bytes() {
    for name in ["gpt2", "opt", "llama2", "qwen2"] {
        let tokenizer = Tokenizer::load(&fixtures().join(name)).unwrap();
        let text = "naïve 🙂 東京 token";
        let ids = tokenizer.encode(text, false).unwrap();
        let bytes: Vec<u8> =
            ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        // A SentencePiece vocabulary begins every text with a space.
        assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text, "{name}");
        assert_eq!(tokenizer.token_bytes(99_999), None);
        assert_eq!(tokenizer.token_text(99_999), "");
    }
}

#[test]
fn templates_render_like_transformers() {
    let tokenizer = Tokenizer::load(&fixtures().join("llama2")).unwrap();
    let golden = read("chat.json");
    let mut failures = Vec::new();
    for run in golden["runs"].as_array().unwrap() {
        let source = golden["templates"][run["template"].as_str().unwrap()].as_str().unwrap();
        let chat = run["chat"].as_str().unwrap();
        let flag = |name: &str| run.get(name).and_then(Value::as_bool).unwrap_or(false);
        let input = ChatInput {
            messages: golden["chats"][chat].as_array().unwrap().clone(),
            add_generation_prompt: flag("add_generation_prompt"),
            continue_final_message: flag("continue_final_message"),
            tools: run.get("tools").cloned(),
            kwargs: run.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
        };
        let got = tokenizer.with_chat_template(source).render_chat(&input);
        let matches = match (&got, run.get("expected"), run.get("error")) {
            (Ok(text), Some(expected), _) => expected == text,
            (Err(TemplateError::Raised { message }), None, Some(error)) => error == message,
            (Err(_), None, Some(_)) => true,
            _ => false,
        };
        if !matches {
            failures.push(format!("{} {chat}\n got {got:?}\nwant {run:?}", run["template"]));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn without_a_template_the_error_says_what_to_do() {
    let tokenizer = Tokenizer::load(&fixtures().join("opt")).unwrap();
    assert!(tokenizer.chat_template().is_none());
    let error = tokenizer.render_chat(&ChatInput::default()).unwrap_err();
    assert!(
        error.is_client_error() && error.to_string().contains("chat_template.jinja"),
        "{error}"
    );
}

fn load_files(files: &[(&str, &str)]) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Tokenizer::load(dir.path())
}

#[test]
fn unusable_directories_say_why() {
    let check = |files: &[(&str, &str)], words: &[&str]| {
        let message = load_files(files).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    check(&[], &["neither tokenizer.json nor vocab.json", "download"]);
    check(&[("vocab.json", "{}")], &["neither tokenizer.json"]);
    check(&[("tokenizer.model", "x")], &["tokenizer.model", "save_pretrained"]);
    check(&[("tokenizer.json", "{\"version\": \"1.0\", ")], &["tokenizer.json", "EOF", "download"]);
    check(&[("tokenizer.json", "{}")], &["tokenizer.json", "model"]);
    check(&[("vocab.json", "{\"a\": -1}"), ("merges.txt", "")], &["vocab.json", "line 1"]);
    check(
        &[("vocab.json", "{\"a\": 1}"), ("merges.txt", "#version\na\n")],
        &["merges.txt", "line 2"],
    );
    check(&[("vocab.json", "{\"a\": 1}"), ("merges.txt", "a b")], &["merges.txt"]);
}

#[test]
fn bare_files_follow_the_configuration() {
    let vocab = ("vocab.json", r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "Ġ": 4, "Ġa": 5}"#);
    let merges = ("merges.txt", "#version: 0.2\na b\nĠ a\n");
    let check = |more: &[(&str, &str)], expected: &[u32]| {
        let files: Vec<_> = [vocab, merges].iter().chain(more).copied().collect();
        assert_eq!(load_files(&files).unwrap().encode("ab", true).unwrap(), expected, "{more:?}");
    };
    check(&[], &[2]);
    check(&[("config.json", r#"{"model_type":"opt"}"#)], &[3, 2]);
    let off = ("tokenizer_config.json", r#"{"add_bos_token":false}"#);
    check(&[("config.json", r#"{"model_type":"opt"}"#), off], &[2]);
    check(
        &[("tokenizer_config.json", r#"{"add_bos_token":true,"add_eos_token":true}"#)],
        &[3, 2, 3],
    );
    check(&[("tokenizer_config.json", r#"{"add_prefix_space":true}"#)], &[4, 2]);
    check(&[("added_tokens.json", r#"{"ab":6}"#), ("special_tokens_map.json", "{}")], &[2]);
}

#[test]
fn threads_share_a_tokenizer() {
    fn assert_shareable<T: Send + Sync + Clone + 'static>(_: &T) {}
    let tokenizer = Tokenizer::load(&fixtures().join("qwen2")).unwrap();
    assert_shareable(&tokenizer);
    let expected = tokenizer.encode("The replica wakes.", false).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(tokenizer.encode("The replica wakes.", false).unwrap(), expected)
            });
        }
    });
}

#[test]
fn a_rendered_chat_is_encoded_without_a_second_bos() {
    let tokenizer = Tokenizer::load(&fixtures().join("llama2")).unwrap();
    let tokenizer = tokenizer.with_chat_template("{{ bos_token }}{{ messages[0].content }}");
    let message: Map<String, Value> = [("content".to_owned(), "hi".into())].into_iter().collect();
    let input = ChatInput { messages: vec![message.into()], ..ChatInput::default() };
    let prompt = tokenizer.render_chat(&input).unwrap();
    let ids = tokenizer.encode(&prompt, false).unwrap();
    assert_eq!(ids.iter().filter(|&&id| Some(id) == tokenizer.bos_token_id()).count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to a file: a tokenizer or an error comes out.
    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(vec![
            "qwen2/tokenizer.json",
            "llama2/tokenizer.json",
            "llama2/tokenizer_config.json",
            "opt/vocab.json",
            "opt/merges.txt",
            "opt/tokenizer_config.json",
        ]),
        at: prop::sample::Index,
        length in 0..40_usize,
        patch in prop::sample::select(vec!["", "\"", "0", "-1", "null", "{}", "[]", "\\p{", " a", "9999999999", "é"]),
    ) {
        let (folder, file) = name.split_once('/').unwrap();
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixtures().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let mut bytes = std::fs::read(dir.path().join(file)).unwrap();
        let start = at.index(bytes.len());
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, patch.bytes());
        std::fs::write(dir.path().join(file), bytes).unwrap();
        match Tokenizer::load(dir.path()) {
            Ok(tokenizer) => {
                if let Ok(ids) = tokenizer.encode("the replica 🙂 </s>", true) {
                    let _text = stream(&tokenizer, &ids, false);
                }
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert!(message.contains(file) || message.contains("merges.txt"), "{}", message);
            }
        }
    }
}
