//! A sequence's bits do not depend on what else is computed, in which pieces, or by how many
//! threads.

use crate::common::{Golden, Sequence, cpu, fixtures, isas, load, logits_after, step};
use proptest::prelude::*;
use tyndall_kernels::Isa;
use tyndall_model::Model;

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|value| value.to_bits()).collect()
}

/// The longest prompt's logits after each cut of `chunks`.
fn in_chunks(model: &mut Model, tokens: &[u32], chunks: &[usize]) -> Vec<f32> {
    let mut sequence = Sequence::new(tokens, 1);
    let mut last = Vec::new();
    for &chunk in chunks {
        last = step(model, &mut [&mut sequence], &[chunk]).remove(0);
    }
    assert_eq!(sequence.computed, tokens.len());
    last
}

fn each_model(check: impl Fn(&str, Isa, &Golden)) {
    for name in fixtures() {
        let golden = Golden::read(&name);
        for isa in isas() {
            check(&name, isa, &golden);
        }
    }
}

#[test]
fn chunked_prefill_and_decode_equal_the_whole_prompt() {
    each_model(|name, isa, golden| {
        let mut model = load(name, cpu(1, isa));
        let prompt = golden.prompts.iter().max_by_key(|prompt| prompt.len()).expect("prompts");
        let whole = bits(&logits_after(&mut model, prompt));
        let one_by_one = vec![1; prompt.len()];
        for chunks in [&[32, 32, 6][..], &[1, 40, 3, 26], &one_by_one] {
            let found = bits(&in_chunks(&mut model, prompt, chunks));
            assert!(found == whole, "{name} on {isa}: chunks {chunks:?} change bits");
        }
    });
}

#[test]
fn a_batch_equals_each_sequence_alone() {
    each_model(|name, isa, golden| {
        let mut model = load(name, cpu(1, isa));
        let alone: Vec<_> =
            golden.prompts.iter().map(|prompt| bits(&logits_after(&mut model, prompt))).collect();
        let mut sequences: Vec<Sequence> = (0..)
            .zip(&golden.prompts)
            .map(|(index, prompt)| {
                let blocks = (0..3).map(|block| block * 6 + index).collect();
                Sequence { blocks, ..Sequence::new(prompt, 0) }
            })
            .collect();
        let lengths: Vec<usize> = golden.prompts.iter().map(Vec::len).collect();
        let mut sequences: Vec<&mut Sequence> = sequences.iter_mut().collect();
        let together = step(&mut model, &mut sequences, &lengths);
        for (index, (row, alone)) in std::iter::zip(together, alone).enumerate() {
            assert!(bits(&row) == alone, "{name} on {isa}: sequence {index} changes in a batch");
        }
    });
}

#[test]
fn two_threads_equal_one() {
    each_model(|name, isa, golden| {
        let mut one = load(name, cpu(1, isa));
        let mut two = load(name, cpu(2, isa));
        for prompt in &golden.prompts {
            let equal =
                bits(&logits_after(&mut one, prompt)) == bits(&logits_after(&mut two, prompt));
            assert!(equal, "{name} on {isa}: {} tokens change with threads", prompt.len());
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Two sequences advance by random pieces in random company.
    #[test]
    fn any_schedule_gives_the_same_bits(
        cuts in prop::collection::vec((0usize..20, 0usize..20), 8),
    ) {
        let golden = Golden::read("mistral-window-bf16");
        let mut model = load("mistral-window-bf16", cpu(2, isas()[0]));
        let (long, short) = (&golden.prompts[5], &golden.prompts[3]);
        let expected = [long, short].map(|prompt| bits(&logits_after(&mut model, prompt)));
        let mut sequences = [Sequence::new(long, 0), Sequence::new(short, 1)];
        let mut last = [Vec::new(), Vec::new()];
        for (a, b) in cuts.into_iter().chain([(70, 70)]) {
            let mut running = Vec::new();
            let mut chunks = Vec::new();
            let mut who = Vec::new();
            for ((index, sequence), wish) in sequences.iter_mut().enumerate().zip([a, b]) {
                let chunk = wish.min(sequence.tokens.len() - sequence.computed);
                if chunk > 0 {
                    running.push(sequence);
                    chunks.push(chunk);
                    who.push(index);
                }
            }
            for (row, index) in std::iter::zip(step(&mut model, &mut running, &chunks), who) {
                last[index] = bits(&row);
            }
        }
        prop_assert!(last == expected);
    }
}
