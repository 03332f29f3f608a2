use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A safetensors file of this header and so many zero bytes.
fn file(header: &Value, data_len: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_len, 0);
    file
}

fn tensor(dtype: &str, shape: &[u64], start: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

fn message(file: &[u8]) -> String {
    let flaw = safetensors::read(file).expect_err("a flaw");
    flaw.at(Path::new("model.safetensors")).to_string()
}

fn check_refused(header: Value, data_len: usize, words: &[&str]) {
    let message = message(&file(&header, data_len));
    for word in words.iter().chain(&["model.safetensors"]) {
        assert!(message.contains(word), "{header}: '{message}' lacks '{word}'");
    }
}

#[test]
fn a_good_header_lists_its_tensors() {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "b": tensor("BF16", &[2, 3], 0, 12),
        "a": tensor("I64", &[], 12, 20),
        "none": tensor("F32", &[0, 4], 20, 20),
    });
    let file = file(&header, 20);
    let base = file.len() - 20;
    let entries = safetensors::read(&file).expect("a good file");
    assert_eq!(
        entries,
        [
            (
                "b".into(),
                StoredType::Float(DType::BF16),
                vec![2, 3],
                Layout::Contiguous(base..base + 12)
            ),
            (
                "a".into(),
                StoredType::Other("I64".into()),
                vec![],
                Layout::Contiguous(base + 12..base + 20)
            ),
            (
                "none".into(),
                StoredType::Float(DType::F32),
                vec![0, 4],
                Layout::Contiguous(base + 20..base + 20)
            ),
        ]
    );
}

#[test]
fn lies_about_lengths_are_refused() {
    assert!(message(b"").contains("0 bytes are too few"));
    assert!(message(&[1, 2, 3]).contains("3 bytes"));
    assert!(message(&u64::MAX.to_le_bytes()).contains("truncated"));
    let mut short = file(&json!({}), 0);
    short[0] = 3;
    assert!(message(&short).contains("truncated"));
    assert!(message(&[2, 0, 0, 0, 0, 0, 0, 0, b'[', b']']).contains("header is not valid"));
    check_refused(json!({"a": tensor("F32", &[4], 0, 16)}), 15, &["'a'", "15 bytes", "truncated"]);
    check_refused(json!({"a": tensor("F32", &[4], 0, 16)}), 18, &["last 2 bytes"]);
    check_refused(json!({"a": tensor("F32", &[4], 16, 0)}), 16, &["'a'", "before it starts"]);
    check_refused(json!({"a": tensor("F32", &[5], 0, 16)}), 16, &["'a'", "[5]", "16 bytes"]);
    check_refused(json!({"a": tensor("F32", &[1 << 62, 4], 0, 16)}), 16, &["'a'"]);
    check_refused(json!({"a": tensor("F32", &[1; 9], 0, 4)}), 4, &["'a'", "9 dimensions"]);
}

#[test]
fn overlaps_gaps_and_doubles_are_refused() {
    let overlap = json!({"a": tensor("F32", &[2], 0, 8), "b": tensor("F32", &[2], 4, 12)});
    check_refused(overlap, 12, &["'b'", "overlaps"]);
    let gap = json!({"a": tensor("F32", &[2], 0, 8), "b": tensor("F32", &[1], 12, 16)});
    check_refused(gap, 16, &["'b'", "4 bytes before it"]);
    let header = br#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},
        "a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    let mut twice = (header.len() as u64).to_le_bytes().to_vec();
    twice.extend(header);
    assert!(message(&twice).contains("'a' is listed twice"));
}

#[test]
fn strided_elements_are_gathered_in_row_major_order() {
    let storage: Vec<u8> = (0..12).collect();
    // The transpose of a [3, 2] matrix of two-byte elements.
    assert_eq!(gather(&storage, &[2, 3], &[1, 2], 2), [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]);
    assert_eq!(gather(&storage, &[], &[], 2), [0, 1]);
    assert!(gather(&storage, &[0, 3], &[3, 1], 2).is_empty());
}

fn index_message(weight_map: Value, shards: &[(&str, Vec<u8>)]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let index = json!({"weight_map": weight_map}).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).expect("a file");
    for (name, bytes) in shards {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
    }
    Checkpoint::open(dir.path()).err().expect("an error").to_string()
}

#[test]
fn bad_shards_are_named() {
    let shard = file(&json!({"a": tensor("F32", &[1], 0, 4)}), 4);
    let message = index_message(
        json!({"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"}),
        &[("one.safetensors", shard.clone())],
    );
    assert!(message.contains("three.safetensors, two.safetensors"), "{message}");
    let message = index_message(json!({"a": "../one.safetensors"}), &[]);
    assert!(message.contains("'../one.safetensors' is not a plain file name"), "{message}");
    let message = index_message(
        json!({"a": "one.safetensors", "b": "one.safetensors"}),
        &[("one.safetensors", shard)],
    );
    assert!(message.contains("tensor 'b'") && message.contains("not there"), "{message}");
    let message = index_message(json!(7), &[]);
    assert!(message.contains("no valid shard index"), "{message}");
}

#[test]
fn a_directory_without_weights_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let message = Checkpoint::open(dir.path()).err().expect("an error").to_string();
    assert!(
        message.contains("model.safetensors") && message.contains("pytorch_model.bin"),
        "{message}"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_header_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(safetensors::read(&bytes).is_err());
    }

    #[test]
    fn no_change_makes_the_header_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let header = json!({
            "a": tensor("F32", &[2, 3], 0, 24), "b": tensor("F16", &[4], 24, 32),
            "c": tensor("U8", &[1], 32, 33),
        });
        let mut file = file(&header, 33);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len()) + 1);
        if let Ok(entries) = safetensors::read(&file) {
            for (_, _, _, layout) in entries {
                let Layout::Contiguous(range) = layout else { panic!("always contiguous") };
                prop_assert!(range.start <= range.end && range.end <= file.len());
            }
        }
    }
}
