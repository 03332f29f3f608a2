//! Paged attention by the definition of softmax.

use super::{load, store};
use crate::tensor::{AttentionArgs, KvLayer};

/// Indices of the values of a slot and kv head in the two halves of a cache.
pub(crate) fn places(kv: &KvLayer<'_>, slot: usize, head: usize, d: usize) -> (usize, usize) {
    let (block, offset) = (slot / kv.block_size, slot % kv.block_size);
    let of_head = (block * kv.num_kv_heads + head) * kv.block_size * kv.head_dim;
    (of_head + d * kv.block_size + offset, of_head + offset * kv.head_dim + d)
}

/// Writes `[T, H_kv, D]` keys and values to their slots.
pub(crate) fn store_kv(kv: &mut KvLayer<'_>, k: &[f32], v: &[f32], slots: &[u32]) {
    for (t, &slot) in slots.iter().enumerate() {
        for head in 0..kv.num_kv_heads {
            let from = (t * kv.num_kv_heads + head) * kv.head_dim;
            for d in 0..kv.head_dim {
                let (to_k, to_v) = places(kv, slot as usize, head, d);
                store(kv.dtype, kv.k, to_k, k[from + d]);
                store(kv.dtype, kv.v, to_v, v[from + d]);
            }
        }
    }
}

/// Attends every query token to the visible positions of its own sequence.
pub(crate) fn attention(a: &AttentionArgs<'_>, q: &[f32], kv: &KvLayer<'_>, out: &mut [f32]) {
    let dim = kv.head_dim;
    let group = a.num_heads / kv.num_kv_heads;
    for r in 0..a.context_lens.len() {
        let (start, end) = (a.q_starts[r] as usize, a.q_starts[r + 1] as usize);
        for token in start..end {
            let position = a.context_lens[r] as usize - (end - token);
            let slots: Vec<usize> = a
                .visible(r, position)
                .map(|p| {
                    a.block_tables[r][p / kv.block_size] as usize * kv.block_size
                        + p % kv.block_size
                })
                .collect();
            for head in 0..a.num_heads {
                let at = (token * a.num_heads + head) * dim;
                let q = &q[at..][..dim];
                attend(a.scale, q, kv, (&slots, head / group), &mut out[at..][..dim]);
            }
        }
    }
}

/// One query head over the slots it sees.
fn attend(
    scale: f32,
    q: &[f32],
    kv: &KvLayer<'_>,
    (slots, head): (&[usize], usize),
    out: &mut [f32],
) {
    let score = |&slot: &usize| -> f64 {
        let key = |d| f64::from(load(kv.dtype, kv.k, places(kv, slot, head, d).0));
        let dot = |(d, &q): (usize, &f32)| f64::from(q) * key(d);
        q.iter().enumerate().map(dot).sum::<f64>() * f64::from(scale)
    };
    let scores: Vec<f64> = slots.iter().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for (d, out) in out.iter_mut().enumerate() {
        let value = |(&slot, w): (&usize, &f64)| {
            w * f64::from(load(kv.dtype, kv.v, places(kv, slot, head, d).1))
        };
        *out = (slots.iter().zip(&weights).map(value).sum::<f64>() / sum) as f32;
    }
}
