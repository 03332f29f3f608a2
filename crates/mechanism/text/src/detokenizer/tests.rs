use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// Byte-level three times, then byte fallback.
static TOKENIZERS: LazyLock<[Tokenizer; 4]> = LazyLock::new(|| {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    ["gpt2", "opt", "qwen2", "llama2"].map(|name| Tokenizer::load(&fixtures.join(name)).unwrap())
});

fn llama2() -> &'static Tokenizer {
    &TOKENIZERS[3]
}

fn stream(tokenizer: &Tokenizer, prompt: &[u32], output: &[u32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer, prompt, skip_special);
    let mut text: String = output.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

/// Text of many scripts, as words that the fixtures know and characters that they do not.
fn texts() -> impl Strategy<Value = String> {
    let words = [
        "the ",
        "replica",
        " \u{2581}",
        "東京",
        "🙂",
        "👨\u{200d}👩",
        "é",
        "\n",
        "  ",
        "</s>",
        "<s>",
    ];
    let piece = prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn portions_decode_like_the_whole(
        portions in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..4),
                prop::sample::select(vec!["é", "日本", "🙂", "a b"]).prop_map(|t| t.as_bytes().to_vec()),
                prop::sample::select(vec![&[0xf0, 0x9f][..], &[0x99, 0x82], &[0xe6], &[0x97, 0xa5]])
                    .prop_map(<[u8]>::to_vec),
            ],
            0..12,
        ),
    ) {
        let mut stream = Utf8Stream::new(&Pieces::ByteLevel);
        let mut text = String::new();
        for portion in &portions {
            stream.push(portion, &mut text);
            prop_assert!(stream.open.len() < 4);
        }
        stream.finish(&mut text);
        let whole = portions.concat();
        prop_assert_eq!(text, String::from_utf8_lossy(&whole));
    }

    #[test]
    fn byte_level_output_equals_the_library(
        which in 0..3_usize,
        ids in prop::collection::vec(0..430_u32, 0..40),
        skip_special: bool,
    ) {
        let tokenizer = &TOKENIZERS[which];
        let expected = tokenizer.library_decode(&ids, skip_special);
        prop_assert_eq!(&tokenizer.decode(&ids, skip_special), &expected);
        prop_assert_eq!(stream(tokenizer, &[], &ids, skip_special), expected);
    }

    #[test]
    fn byte_fallback_output_equals_the_library(texts in prop::collection::vec(texts(), 1..4), skip_special: bool) {
        let mut ids = Vec::new();
        for text in &texts {
            ids.extend(llama2().encode(text, true).unwrap());
        }
        let expected = llama2().library_decode(&ids, skip_special);
        prop_assert_eq!(&llama2().decode(&ids, skip_special), &expected);
        prop_assert_eq!(stream(llama2(), &[], &ids, skip_special), expected);
    }

    #[test]
    fn any_output_equals_its_decoding(
        which in 0..4_usize,
        ids in prop::collection::vec(0..460_u32, 0..40),
        skip_special: bool,
    ) {
        let tokenizer = &TOKENIZERS[which];
        prop_assert_eq!(stream(tokenizer, &[], &ids, skip_special), tokenizer.decode(&ids, skip_special));
    }

    #[test]
    fn output_continues_its_prompt(which in 0..4_usize, text in texts(), at: prop::sample::Index, skip_special: bool) {
        let tokenizer = &TOKENIZERS[which];
        let ids = tokenizer.encode(&text, true).unwrap();
        let (prompt, output) = ids.split_at(at.index(ids.len() + 1));
        let whole = tokenizer.decode(&ids, skip_special);
        let before = tokenizer.decode(prompt, skip_special);
        let before = before.trim_end_matches(char::REPLACEMENT_CHARACTER);
        prop_assume!(!text.contains(char::REPLACEMENT_CHARACTER));
        let output = stream(tokenizer, prompt, output, skip_special);
        // A prompt that ends within a character leaves the whole character to the output.
        let output = output.trim_end_matches(char::REPLACEMENT_CHARACTER);
        prop_assert_eq!(format!("{before}{output}"), whole);
    }

    #[test]
    fn the_window_equals_the_library(which in 0..4_usize, text in texts(), skip_special: bool) {
        let tokenizer = TOKENIZERS[which].decoding_by_library();
        let ids = tokenizer.encode(&text, true).unwrap();
        let mut detokenizer = Detokenizer::new(&tokenizer, &[], skip_special);
        let mut out = String::new();
        for &id in &ids {
            out.push_str(&detokenizer.push(id));
            let State::Window { ids, .. } = &detokenizer.state else { unreachable!() };
            prop_assert!(ids.len() <= 2 * MAX_WAITING_TOKENS);
        }
        out.push_str(&detokenizer.finish());
        prop_assert_eq!(out, tokenizer.library_decode(&ids, skip_special));
    }
}

#[test]
fn an_incomplete_character_waits() {
    let mut stream = Utf8Stream::new(&Pieces::ByteLevel);
    let mut text = String::new();
    for (bytes, expected) in
        [(&[b'a', 0xf0, 0x9f][..], "a"), (&[0x99], "a"), (&[0x82, b'b'], "a🙂b")]
    {
        stream.push(bytes, &mut text);
        assert_eq!(text, expected);
    }
}

#[test]
fn an_emoji_in_byte_tokens_comes_out_whole_and_at_once() {
    let ids: Vec<u32> =
        "🙂".bytes().map(|b| llama2().token_id(&format!("<0x{b:02X}>")).unwrap()).collect();
    let mut detokenizer = Detokenizer::new(llama2(), &[], true);
    let portions: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    assert_eq!(portions, ["", "", "", "🙂"]);
    assert_eq!(detokenizer.push(ids[0]), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn a_leading_space_stays_after_a_prompt_only() {
    let the = llama2().encode("the", false).unwrap();
    assert_eq!(stream(llama2(), &[], &the, true), "the");
    assert_eq!(stream(llama2(), &[llama2().bos_token_id().unwrap()], &the, true), "the");
    assert_eq!(stream(llama2(), &the, &the, true), " the");
}
