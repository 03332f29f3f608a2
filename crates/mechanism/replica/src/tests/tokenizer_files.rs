//! A tokenizer of single bytes, as files of a model directory.

use serde_json::{Map, Value, json};
use std::path::Path;

/// The first byte's id, after padding, beginning and end.
pub(super) const FIRST_BYTE: u32 = 3;

/// `<s>` begins a text, `</s>` ends it; every other token is one byte.
pub(super) fn write(dir: &Path) {
    let mut vocab = Map::new();
    for (id, token) in ["<pad>", "<s>", "</s>"].iter().enumerate() {
        vocab.insert((*token).to_owned(), id.into());
    }
    // GPT-2's names of bytes: printable ones are themselves, the others follow from 256 on.
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    for byte in 0..=255_u8 {
        let name = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(name.to_string(), (FIRST_BYTE + u32::from(byte)).into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    let template = "{% if messages[0].role != 'user' %}{{ raise_exception('a user must speak') }}\
                    {% endif %}{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
        "eos_token": "</s>", "pad_token": "<pad>", "chat_template": template});
    put(dir, "tokenizer.json", &tokenizer);
    put(dir, "tokenizer_config.json", &config);
}

fn put(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}
