//! `tyndall-bench`: figures of a whole server, printed, never asserted.
//!
//! `cargo build --release && cargo run --release -p tyndall-bench -- all --model DIR` runs them all;
//! `bench/README.md` says how the models and the peers are had.
#![forbid(unsafe_code)]

mod cold_start;
mod decode;
mod idle;
mod llama;
mod machine;
mod summary;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use tyndall_testkit::{Builder, Server};

#[derive(Parser)]
#[command(name = "tyndall-bench", about = "Prints figures of a whole server beside a peer's")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

/// What every benchmark needs.
#[derive(Args)]
struct Common {
    /// The server's binary; default: `tyndall` beside this one.
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// A checkpoint's directory, or `demo`.
    #[arg(long, global = true, default_value = "demo")]
    model: PathBuf,
    /// How often.
    #[arg(short = 'n', long, global = true, default_value_t = 5)]
    runs: usize,
}

#[derive(Subcommand)]
enum What {
    /// Request sent at zero replicas → first token.
    ColdStart,
    /// Memory and processor time of all processes at zero replicas.
    Idle {
        /// How long to watch, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Tokens per second of decoding, alone and side by side.
    Decode(decode::Options),
}

impl Common {
    fn server(&self) -> Result<Builder> {
        let beside = std::env::current_exe()?.with_file_name("tyndall");
        Ok(Server::builder(self.binary.as_ref().unwrap_or(&beside)))
    }

    /// The id under which a server of this model answers.
    fn model_id(&self) -> Result<String> {
        let name = self.model.file_name().context("the model has no name")?;
        Ok(name.to_string_lossy().into_owned())
    }
}

fn main() -> Result<()> {
    let Arguments { what, common } = Arguments::parse();
    say(&machine::describe());
    match what {
        What::ColdStart => cold_start::run(&common),
        What::Idle { seconds } => idle::run(&common, seconds),
        What::Decode(options) => decode::run(&common, &options),
    }
}

#[expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]
fn say(line: &str) {
    println!("{line}");
}
