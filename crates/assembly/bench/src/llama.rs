//! llama.cpp's own benchmark as a peer.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// One way to run `llama-bench`.
pub(crate) struct LlamaBench<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) gguf: &'a Path,
    pub(crate) threads: usize,
    pub(crate) tokens: usize,
}

impl LlamaBench<'_> {
    /// The flags that matter.
    pub(crate) fn flags(&self) -> Vec<String> {
        let flags = format!("-p 0 -n {} -t {} -r 1", self.tokens, self.threads);
        flags.split(' ').map(str::to_owned).collect()
    }

    /// Tokens per second of decoding with an empty context.
    pub(crate) fn run(&self) -> Result<f64> {
        let output = Command::new(self.binary)
            .args(self.flags())
            .args(["-o", "json", "-m"])
            .arg(self.gguf)
            .output()
            .context("failed to start llama-bench")?;
        ensure!(output.status.success(), "llama-bench ended with {}", output.status);
        let results: Value = serde_json::from_slice(&output.stdout)?;
        results[0]["avg_ts"].as_f64().context("llama-bench printed no avg_ts")
    }
}
