//! Tokens per second of decoding, over a real socket, prefill not counted.

use crate::llama::LlamaBench;
use crate::summary::Summary;
use crate::{Common, say};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;
use tyndall_testkit::Server;

#[derive(Args)]
pub(crate) struct Options {
    /// Streams side by side.
    #[arg(short = 'c', long, default_value_t = 1)]
    concurrency: usize,
    /// Tokens of each stream.
    #[arg(short = 't', long, default_value_t = 64)]
    tokens: usize,
    /// Worker threads, also of the peer.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// llama.cpp's `llama-bench`, run in turn with ours.
    #[arg(long, requires = "gguf")]
    llama_bench: Option<PathBuf>,
    /// The same model as GGUF, for the peer.
    #[arg(long)]
    gguf: Option<PathBuf>,
}

/// Ours and the peer in turn, so that a drift of the machine meets both.
pub(crate) fn run(common: &Common, options: &Options) -> Result<()> {
    let peer = options.llama_bench.as_ref().zip(options.gguf.as_ref()).map(|(binary, gguf)| {
        LlamaBench { binary, gguf, threads: options.threads, tokens: options.tokens }
    });
    let server = start(common, options)?;
    let (mut ours, mut theirs, mut ratios) =
        (Summary::default(), Summary::default(), Summary::default());
    for run in 0..=common.runs {
        let own = ours_once(&server, &common.model_id()?, options)?;
        let other = peer.as_ref().map(LlamaBench::run).transpose()?;
        if run == 0 {
            continue;
        }
        ours.add(own);
        if let Some(other) = other {
            theirs.add(other);
            ratios.add(own / other);
        }
    }
    let (streams, threads) = (options.concurrency, options.threads);
    say(&format!("decode, {streams} stream(s), {threads} threads: {}", ours.show("tok/s")));
    if let Some(peer) = &peer {
        say(&format!("llama-bench {}: {}", peer.flags().join(" "), theirs.show("tok/s")));
        say(&format!("ratio, run by run: {}", ratios.show("x")));
    }
    Ok(())
}

fn start(common: &Common, options: &Options) -> Result<Server> {
    let server = common
        .server()?
        .arg("--threads", &options.threads.to_string())
        .arg("--max-replicas", "1")
        .arg("--min-replicas", "1")
        .start(&common.model)?;
    server.wait_for_replicas(1)?;
    Ok(server)
}

/// One round of all streams: tokens after each first one, over the time they took together.
fn ours_once(server: &Server, model: &str, options: &Options) -> Result<f64> {
    let body = json!({"model": model, "prompt": "import return self", "temperature": 0,
        "max_tokens": options.tokens + 1, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true}});
    let spans = thread::scope(|scope| {
        let streams: Vec<_> =
            (0..options.concurrency).map(|_| scope.spawn(|| one_stream(server, &body))).collect();
        streams.into_iter().map(|s| s.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let first = spans.iter().map(|span| span.0).min().expect("at least one stream");
    let last = spans.iter().map(|span| span.1).max().expect("at least one stream");
    let tokens = options.tokens * options.concurrency;
    Ok(tokens as f64 / (last - first).as_secs_f64())
}

/// When the first and the last token came.
fn one_stream(server: &Server, body: &serde_json::Value) -> Result<(Instant, Instant)> {
    let mut stream = server.stream("/v1/completions", body)?;
    ensure!(stream.status == 200, "status {}", stream.status);
    ensure!(stream.next().is_some(), "the stream is empty");
    let first = Instant::now();
    let rest: Vec<String> = stream.collect();
    ensure!(rest.last().is_some_and(|event| event == "[DONE]"), "the stream broke off");
    Ok((first, Instant::now()))
}
