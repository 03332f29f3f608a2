//! Paged attention by the definition of softmax.

use super::{load, store};
use crate::tensor::{AttentionArgs, KvLayer};

/// Index of the first value of `(block, kv head, offset)` in a cache half.
fn row(kv: &KvLayer<'_>, slot: usize, head: usize) -> usize {
    let (block, offset) = (slot / kv.block_size, slot % kv.block_size);
    ((block * kv.num_kv_heads + head) * kv.block_size + offset) * kv.head_dim
}

/// Writes `[T, H_kv, D]` keys and values to their slots.
pub(crate) fn store_kv(kv: &mut KvLayer<'_>, k: &[f32], v: &[f32], slots: &[u32]) {
    for (t, &slot) in slots.iter().enumerate() {
        for head in 0..kv.num_kv_heads {
            let (to, from) =
                (row(kv, slot as usize, head), (t * kv.num_kv_heads + head) * kv.head_dim);
            for d in 0..kv.head_dim {
                store(kv.dtype, kv.k, to + d, k[from + d]);
                store(kv.dtype, kv.v, to + d, v[from + d]);
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
            let visible = a.first_visible(position)..position + 1;
            let slots: Vec<usize> = visible
                .map(|p| {
                    a.block_tables[r][p / kv.block_size] as usize * kv.block_size
                        + p % kv.block_size
                })
                .collect();
            for head in 0..a.num_heads {
                let at = (token * a.num_heads + head) * dim;
                let rows: Vec<usize> =
                    slots.iter().map(|&slot| row(kv, slot, head / group)).collect();
                attend(a.scale, &q[at..][..dim], kv, &rows, &mut out[at..][..dim]);
            }
        }
    }
}

/// One query head over the cache rows it sees.
fn attend(scale: f32, q: &[f32], kv: &KvLayer<'_>, rows: &[usize], out: &mut [f32]) {
    let score = |&row: &usize| -> f64 {
        let dot = |(d, &q): (usize, &f32)| f64::from(q) * f64::from(load(kv.dtype, kv.k, row + d));
        q.iter().enumerate().map(dot).sum::<f64>() * f64::from(scale)
    };
    let scores: Vec<f64> = rows.iter().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for (d, out) in out.iter_mut().enumerate() {
        let value = |(&row, w): (&usize, &f64)| w * f64::from(load(kv.dtype, kv.v, row + d));
        *out = (rows.iter().zip(&weights).map(value).sum::<f64>() / sum) as f32;
    }
}
