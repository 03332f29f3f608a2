//! Files of checkpoints: `config.json`, headers of safetensors, PyTorch's pickles. Damaged ones are
//! refused; nothing of a file is believed before it is checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use tyndall_fuzz::Choices;
use tyndall_model::{CheckpointSpec, PlanRequest};

/// Weights beyond this are cut off: what is fuzzed is their description.
const MAX_FILE_BYTES: usize = 256 << 10;

struct Fixture {
    config: Vec<u8>,
    weights: Vec<u8>,
    name: &'static str,
}

static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(|| {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/mechanism/model/tests");
    let mut found = Vec::new();
    for group in ["fixtures", "encoder-fixtures"] {
        let entries = std::fs::read_dir(tests.join(group)).expect("fixtures");
        let mut dirs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        dirs.sort();
        for dir in dirs {
            for name in ["model.safetensors", "pytorch_model.bin"] {
                let read = |file| std::fs::read(dir.join(file));
                if let (Ok(config), Ok(weights)) = (read("config.json"), read(name))
                    && weights.len() <= MAX_FILE_BYTES
                {
                    found.push(Fixture { config, weights, name });
                }
            }
        }
    }
    assert!(
        found.iter().any(|one| one.name == "pytorch_model.bin"),
        "no pickle among the fixtures"
    );
    found
});

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let fixture = &FIXTURES[choices.below(FIXTURES.len())];
    let (mut config, mut weights) = (fixture.config.clone(), fixture.weights.clone());
    let damages_config = choices.flag();
    let mut number = || choices.below(256) << 16 | choices.below(256) << 8 | choices.below(256);
    let (place, length) = (number(), number());
    let file = if damages_config { &mut config } else { &mut weights };
    // Descriptions stand at the beginning of safetensors, and at both ends of a zip.
    let from = match place % 3 {
        0 => place / 3 % file.len(),
        1 => place / 3 % file.len().min(4096),
        _ => file.len() - 1 - place / 3 % file.len().min(4096),
    };
    let to = (from + length % 64).min(file.len());
    file.splice(from..to, choices.bytes().iter().copied().take(512));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.json"), &config).expect("a file");
    std::fs::write(dir.path().join(fixture.name), &weights).expect("a file");
    let request = PlanRequest {
        max_model_len: Some(8),
        memory_budget_bytes: Some(64 << 20),
        available_bytes: 64 << 20,
        max_num_seqs: 1,
        max_num_batched_tokens: 8,
        quantization: None,
    };
    match CheckpointSpec::from_dir(dir.path()) {
        Ok(spec) => {
            _ = spec.task();
            if let Err(error) = spec.plan(dir.path(), &request) {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
