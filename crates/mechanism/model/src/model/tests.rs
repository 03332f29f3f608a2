use tyndall_kernels::CpuOptions;

use super::*;
use crate::batch::SeqChunk;
use crate::plan::{PlanRequest, plan};

fn model(name: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let spec = ModelSpec::from_dir(&dir).expect("a supported config");
    let request = PlanRequest {
        max_model_len: None,
        memory_budget_bytes: None,
        available_bytes: 1 << 30,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        quantization: None,
    };
    let plan = plan(&dir, &spec, &request).expect("it fits");
    let options = CpuOptions { threads: Some(1), isa: None };
    Model::load(&dir, spec, &plan, Arc::new(Cpu::new(options).expect("a processor")))
        .expect("it loads")
}

/// Address of every buffer, and its room where it tells; two of them may trade places.
fn buffers(model: &Model) -> Vec<(usize, usize)> {
    let Scratch { x, normed, inner, q, k, v, attended, mlp, up, cos, sin } = &model.scratch;
    let floats = [x, normed, inner, q, k, v, attended, mlp, up];
    let angles = [cos, sin];
    let Prepared { positions, slots, q_starts, context_lens, logits_rows } = &model.prepared;
    let counts = [positions, slots, q_starts, context_lens, logits_rows];
    let mut buffers: Vec<_> = floats
        .map(|buffer| (buffer.as_ptr().addr(), 0))
        .into_iter()
        .chain(angles.map(|buffer| (buffer.as_ptr().addr(), buffer.capacity())))
        .chain(counts.map(|buffer| (buffer.as_ptr().addr(), buffer.capacity())))
        .chain([(model.block_tables.as_ptr().addr(), model.block_tables.capacity())])
        .collect();
    buffers.sort_unstable();
    buffers
}

#[test]
fn steps_reuse_their_buffers() {
    for name in ["opt-350m-kind-f16", "llama-bias-linear-f16", "qwen3-bf16"] {
        let mut model = model(name);
        let mut logits = Vec::new();
        let tables = [[0, 2], [1, 3]];
        let mut run = |model: &mut Model, lengths: [u32; 2]| {
            let tokens = vec![7; lengths.iter().sum::<u32>() as usize];
            let seqs = [0, 1].map(|index| SeqChunk {
                num_tokens: lengths[index],
                context_len: lengths[index],
                block_table: &tables[index],
                num_logits: 1,
            });
            model
                .step(&StepBatch { tokens: &tokens, seqs: &seqs }, &mut logits)
                .expect("a good batch");
        };
        run(&mut model, [33, 17]);
        let warm = buffers(&model);
        // An empty buffer dangles at its alignment.
        let has_room = |&&(at, _): &&(usize, usize)| at > 64;
        assert!(warm.iter().filter(has_room).count() >= 13, "{name}: {warm:?}");
        for lengths in [[1, 1], [33, 17], [2, 40], [1, 49]] {
            run(&mut model, lengths);
            assert_eq!(buffers(&model), warm, "{name}: a step of {lengths:?}");
        }
    }
}
