//! Loading fixtures and driving a model token by token.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tyndall_kernels::{Cpu, CpuOptions, Isa};
use tyndall_model::{MemoryPlan, Model, ModelSpec, PlanRequest, Runner, SeqChunk, StepBatch, plan};

/// What the reference says about a fixture.
pub(crate) struct Golden {
    pub(crate) sigma: f32,
    pub(crate) prompts: Vec<Vec<u32>>,
    /// Which prompt was continued greedily, and how.
    pub(crate) greedy_from: usize,
    pub(crate) greedy_tokens: Vec<u32>,
    /// After each prompt.
    pub(crate) logits: Vec<Vec<f32>>,
    /// After each greedy token.
    pub(crate) greedy: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct GoldenJson {
    sigma: f32,
    prompts: Vec<Vec<u32>>,
    greedy_from: usize,
    greedy_tokens: Vec<u32>,
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// All fixtures, by name.
pub(crate) fn fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("")).expect("the fixtures are committed");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert!(names.len() >= 15, "only {names:?}");
    names
}

impl Golden {
    pub(crate) fn read(name: &str) -> Golden {
        let json = std::fs::read(fixture(name).join("golden.json")).expect("golden.json");
        let json: GoldenJson = serde_json::from_slice(&json).expect("its fields");
        let file =
            std::fs::read(fixture(name).join("golden.safetensors")).expect("golden.safetensors");
        Golden {
            sigma: json.sigma,
            logits: read_rows(&file, "logits"),
            greedy: read_rows(&file, "greedy"),
            prompts: json.prompts,
            greedy_from: json.greedy_from,
            greedy_tokens: json.greedy_tokens,
        }
    }
}

/// An f32 matrix of a safetensors file, read without the code under test.
pub(crate) fn read_rows(file: &[u8], name: &str) -> Vec<Vec<f32>> {
    let (length, rest) = file.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).expect("a header");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let [start, end] = [0, 1].map(|side| number(&header[name]["data_offsets"][side]));
    let cols = number(&header[name]["shape"][1]);
    let values: Vec<f32> = data[start..end]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect();
    values.chunks(cols).map(<[f32]>::to_vec).collect()
}

/// The instruction sets of this machine.
pub(crate) fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|&isa| Cpu::new(options(1, isa)).is_ok()).collect()
}

fn options(threads: usize, isa: Isa) -> CpuOptions {
    CpuOptions { threads: Some(threads), isa: Some(isa) }
}

pub(crate) fn cpu(threads: usize, isa: Isa) -> Arc<Cpu> {
    Arc::new(Cpu::new(options(threads, isa)).expect("an available instruction set"))
}

pub(crate) const REQUEST: PlanRequest = PlanRequest {
    max_model_len: None,
    memory_budget_bytes: Some(64 << 20),
    available_bytes: 1 << 30,
    max_num_seqs: 8,
    max_num_batched_tokens: 256,
    quantization: None,
};

pub(crate) fn plan_of(dir: &Path) -> (ModelSpec, MemoryPlan) {
    let spec = ModelSpec::from_dir(dir).expect("a supported config");
    let plan = plan(dir, &spec, &REQUEST).expect("it fits");
    (spec, plan)
}

pub(crate) fn load(name: &str, cpu: Arc<Cpu>) -> Model {
    let dir = fixture(name);
    let (spec, plan) = plan_of(&dir);
    Model::load(&dir, spec, &plan, cpu).expect("it loads")
}

/// A sequence in the making: its tokens, its blocks, how far it has come.
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) blocks: Vec<u32>,
    pub(crate) computed: usize,
}

impl Sequence {
    /// Blocks start at `first_block` and run backwards by odd steps, so that none adjoin.
    pub(crate) fn new(tokens: &[u32], first_block: u32) -> Sequence {
        let blocks = (0..4).rev().map(|block| first_block + 2 * block).collect();
        Sequence { tokens: tokens.to_vec(), blocks, computed: 0 }
    }
}

/// Computes `chunks[i]` further tokens of sequence `i`; returns the logits of each.
pub(crate) fn step(
    model: &mut Model,
    sequences: &mut [&mut Sequence],
    chunks: &[usize],
) -> Vec<Vec<f32>> {
    let mut tokens = Vec::new();
    for (sequence, &chunk) in std::iter::zip(&mut *sequences, chunks) {
        tokens.extend(&sequence.tokens[sequence.computed..sequence.computed + chunk]);
        sequence.computed += chunk;
    }
    let seqs: Vec<SeqChunk<'_>> = std::iter::zip(&*sequences, chunks)
        .map(|(sequence, &chunk)| SeqChunk {
            num_tokens: chunk as u32,
            context_len: sequence.computed as u32,
            block_table: &sequence.blocks,
            num_logits: 1,
        })
        .collect();
    let mut logits = Vec::new();
    model.step(&StepBatch { tokens: &tokens, seqs: &seqs }, &mut logits).expect("a good batch");
    logits.chunks(model.vocab_size()).map(<[f32]>::to_vec).collect()
}

/// The logits after the last of `tokens`, computed in one step.
pub(crate) fn logits_after(model: &mut Model, tokens: &[u32]) -> Vec<f32> {
    let mut sequence = Sequence::new(tokens, 0);
    step(model, &mut [&mut sequence], &[tokens.len()]).remove(0)
}

pub(crate) fn argmax(row: &[f32]) -> usize {
    let best = row.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.expect("a row has entries").0
}
