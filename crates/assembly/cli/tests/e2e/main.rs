//! End to end: the real binary, its real processes, real sockets.

mod applications;
mod bad_input;
mod clients;
mod failures;
mod keys;
mod lifecycle;
mod models;
mod programs;
mod python;
mod rollouts;
mod streams;

use serde_json::{Value, json};
use std::path::PathBuf;
use tyndall_testkit::{Builder, Server};

/// A server builder of the binary that cargo just built.
fn server() -> Builder {
    Server::builder(env!("CARGO_BIN_EXE_tyndall"))
}

/// A request that a model answers with a few tokens.
fn haiku() -> Value {
    json!({"prompt": "Write a haiku about Ray Serve.", "generation_kwargs": {"temperature": 0}})
}

/// A completion that goes on until the context ends or somebody stops it: long enough for a test
/// that does not get the processor for a while.
fn endless(stream: bool) -> Value {
    json!({"model": "demo", "prompt": "Hello", "n": 8, "max_tokens": 900, "ignore_eos": true, "stream": stream})
}

/// A writable copy of the demo checkpoint.
fn demo_copy() -> anyhow::Result<(tempfile::TempDir, PathBuf)> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../mechanism/hub/demo");
    let home = tempfile::tempdir()?;
    let copy = home.path().join("tiny");
    std::fs::create_dir(&copy)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.join(entry.file_name()))?;
    }
    Ok((home, copy))
}
