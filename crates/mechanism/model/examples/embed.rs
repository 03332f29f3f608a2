//! Embeds the lines of standard input, or scores them where they are pairs, and prints JSON.
//!
//! `cargo run --release -p tyndall-model --example embed -- DIR [--time ROUNDS] [--threads N]`
//!
//! A line is a text, or two texts with a tab between them. Texts that are too long lose their ends.
//! With `--time` it prints how long all lines together took, and each line alone, instead.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tyndall_kernels::{Cpu, CpuOptions};
use tyndall_model::{
    Encoder, EncoderInput, EncoderKind, EncoderPlanRequest, EncoderSpec, normalize, plan_encoder,
};
use tyndall_text::{Tokenizer, TypedOptions, TypedTokens};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = Path::new(arguments.first().ok_or("give a model directory")?);
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse::<usize>().ok())
    };
    let spec = EncoderSpec::from_dir(dir)?;
    let request = EncoderPlanRequest {
        max_len: None,
        memory_budget_bytes: None,
        available_bytes: 16 << 30,
        max_num_batched_tokens: option("--step").unwrap_or(2048) as u32,
    };
    let plan = plan_encoder(dir, &spec, &request)?;
    let cpu = Cpu::new(CpuOptions { threads: option("--threads"), isa: None })?;
    eprintln!("{plan}\n{:<14}{} threads of {}", "computes on", cpu.threads(), cpu.isa());
    let lower_case = spec.lower_case;
    let mut encoder = Encoder::load(dir, spec, &plan, Arc::new(cpu))?;
    let tokenizer = Tokenizer::load(dir)?;
    let lines: Vec<String> = std::io::stdin().lock().lines().collect::<Result<_, _>>()?;
    let encode = || encode(&tokenizer, &lines, (plan.max_len as usize, lower_case));
    match option("--time") {
        None => print_rows(&mut encoder, &inputs(&encode()?)),
        Some(rounds) => time(&mut encoder, &encode, rounds),
    }
}

fn encode(
    tokenizer: &Tokenizer,
    lines: &[String],
    (max_len, lower_case): (usize, bool),
) -> Result<Vec<TypedTokens>, Box<dyn Error>> {
    let options = TypedOptions { truncate_to: Some(max_len), ..TypedOptions::default() };
    let mut all = Vec::with_capacity(lines.len());
    for line in lines {
        let line = if lower_case { line.to_lowercase() } else { line.clone() };
        let (first, second) = match line.split_once('\t') {
            Some((first, second)) => (first, Some(second)),
            None => (line.as_str(), None),
        };
        all.push(tokenizer.encode_with_types(first, second, options)?);
    }
    Ok(all)
}

fn inputs(tokens: &[TypedTokens]) -> Vec<EncoderInput<'_>> {
    tokens.iter().map(|tokens| EncoderInput { ids: &tokens.ids, types: &tokens.types }).collect()
}

/// One line of JSON for each text: its embedding, or what a classifier makes of it.
fn print_rows(encoder: &mut Encoder, texts: &[EncoderInput<'_>]) -> Result<(), Box<dyn Error>> {
    let kind = encoder.spec().kind.clone();
    let rows = encoder.read(texts)?;
    let mut out = std::io::stdout().lock();
    for mut row in rows {
        match &kind {
            EncoderKind::Embed(embedding) if embedding.normalizes => normalize(&mut row),
            EncoderKind::Embed(_) => {}
            EncoderKind::Classify(classifier) if row.len() == 1 => classifier.score.apply(&mut row),
            EncoderKind::Classify(classifier) => classifier.classes.apply(&mut row),
        }
        let numbers: Vec<String> = row.iter().map(|value| format!("{value:e}")).collect();
        writeln!(out, "[{}]", numbers.join(","))?;
    }
    Ok(())
}

/// Tokenizing included. The best of some rounds: what the machine can do, not what else it does.
fn time(
    encoder: &mut Encoder,
    encode: &dyn Fn() -> Result<Vec<TypedTokens>, Box<dyn Error>>,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let mut together = f64::INFINITY;
    let mut tokenizing = f64::INFINITY;
    let mut alone = Vec::new();
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let tokens = encode()?;
        tokenizing = tokenizing.min(start.elapsed().as_secs_f64());
        encoder.read(&inputs(&tokens))?;
        together = together.min(start.elapsed().as_secs_f64());
        for text in inputs(&tokens) {
            let start = Instant::now();
            encoder.read(&[text])?;
            alone.push(start.elapsed().as_secs_f64());
        }
    }
    let tokens = encode()?;
    let count: usize = tokens.iter().map(|tokens| tokens.ids.len()).sum();
    alone.sort_by(f64::total_cmp);
    writeln!(
        std::io::stdout(),
        "{} texts of {count} tokens: {:.3} s ({:.3} s of it tokenizing), {:.1} texts/s, {:.0} tokens/s; \
         alone {:.2} ms (median)",
        tokens.len(),
        together,
        tokenizing,
        tokens.len() as f64 / together,
        count as f64 / together,
        alone.get(alone.len() / 2).copied().unwrap_or(0.0) * 1e3,
    )?;
    Ok(())
}
