//! Request sent at zero replicas → first token, over a real socket.

use crate::summary::Summary;
use crate::{Common, say};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Instant;

/// Wakes the model `runs` times, after one wake that is not counted and warms the page cache.
pub(crate) fn run(common: &Common) -> Result<()> {
    let server = common.server()?.arg("--idle-timeout", "0").start(&common.model)?;
    let body = json!({"model": common.model_id()?, "prompt": "Hello there", "temperature": 0,
        "max_tokens": 2, "ignore_eos": true, "stream": true});
    let mut times = Summary::default();
    for run in 0..=common.runs {
        server.wait_for_replicas(0)?;
        let start = Instant::now();
        let mut stream = server.stream("/v1/completions", &body)?;
        ensure!(stream.status == 200, "status {}", stream.status);
        ensure!(stream.next().is_some(), "the stream is empty");
        if run > 0 {
            times.add(start.elapsed().as_secs_f64() * 1e3);
        }
        stream.for_each(drop);
    }
    say(&format!("cold start to first token: {}", times.show("ms")));
    let output = server.output();
    for line in output.lines().filter(|line| line.contains(" woke in ")).skip(1) {
        say(&format!("  {}", line.trim()));
    }
    Ok(())
}
