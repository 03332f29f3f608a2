//! Some weight rows times all of `x`: tiles of sums, then biases, activations and the way out.

use std::arch::x86_64::*;

use super::ROWS;
use super::pack::{self, Columns, PAIR_BYTES};
use super::tiles::{self, Products, Sums, Weights};
use crate::gemm::{Bias, bias_at};
use crate::tensor::{Activation, Write};

/// Up to so many rows of `x`, weights are loaded where they lie, once.
pub(crate) const STREAM_ROWS: usize = 32;

/// `act` of the first weight's outputs times the second's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gated {
    pub(crate) act: Activation,
    pub(crate) activate_mul: unsafe fn(Activation, *mut f32, *const f32, usize),
}

/// Weight rows `first..end` times all of `x`.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub(crate) x: Columns,
    /// Row 0 of the weight behind each of the two tiles: one weight twice, or gate and up.
    pub(crate) w: [*const u8; 2],
    /// Rows of a weight; at least 16.
    pub(crate) n: usize,
    pub(crate) first: usize,
    pub(crate) end: usize,
    /// `[T, N]`.
    pub(crate) out: *mut f32,
    /// Of weight row 0.
    pub(crate) bias: Option<Bias>,
    pub(crate) mode: Write,
    pub(crate) gated: Option<Gated>,
    /// What this thread computes next, to be prefetched: addresses of any kind.
    pub(crate) ahead: [*const u8; 2],
}

/// Weight rows that two tiles cover.
pub(crate) fn block_rows(gated: bool) -> usize {
    if gated { ROWS } else { 2 * ROWS }
}

/// Bytes that [`compute`] needs for copied weights.
pub(crate) fn packed_bytes(rows: usize, steps: usize, gated: bool) -> usize {
    rows.div_ceil(block_rows(gated)) * steps * PAIR_BYTES
}

impl Panel {
    fn stride(&self) -> usize {
        self.x.steps * 64
    }

    /// First outputs of the two tiles of the block at `row`.
    fn outputs(&self, row: usize) -> [usize; 2] {
        [row, if self.gated.is_some() { row } else { row + ROWS }]
    }

    /// The addresses of a block's tiles, if it were whole.
    pub(crate) fn tiles(&self, row: usize) -> [*const u8; 2] {
        let outputs = self.outputs(row);
        [0, 1].map(|i| self.w[i].wrapping_add(outputs[i] * self.stride()))
    }

    /// The same for loads: tiles that would leave the weight cover its last 16 rows instead.
    fn tiles_inside(&self, row: usize) -> [*const u8; 2] {
        let outputs = self.outputs(row);
        [0, 1].map(|i| self.w[i].wrapping_add(self.inside(outputs[i]) * self.stride()))
    }

    fn inside(&self, output: usize) -> usize {
        output.min(self.n - ROWS)
    }

    /// Which rows of a tile are this panel's outputs from `output` on.
    fn mask(&self, output: usize) -> u16 {
        let inside = self.inside(output);
        let below = |row: usize| (1u32 << row.saturating_sub(inside).min(ROWS)) - 1;
        (below((output + ROWS).min(self.end)) & !below(output)) as u16
    }
}

/// Computes one panel; `packed` is scratch for its weights when there are more than
/// [`STREAM_ROWS`] rows of `x`.
///
/// # Safety
/// The matrix unit and AVX-512 are present, [`tiles::Tiles`] of the width of `x` are configured;
/// every pointer is valid for what the counts say, the panel's outputs exclusively so.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn compute(p: &Panel, packed: *mut u8) {
    let block = block_rows(p.gated.is_some());
    let mut products = Products([[[[0.0; 16]; 16]; 2]; 2]);
    let (stride, steps) = (p.stride(), p.x.steps);
    let in_place = |row: usize| {
        let next = row + block;
        let ahead = if next < p.end { p.tiles(next) } else { p.ahead };
        Weights { at: p.tiles_inside(row), stride, step: 64, ahead }
    };
    // SAFETY: blocks are inside the weight, groups inside `x`, and the caller vouches for both and
    // for the scratch.
    unsafe {
        if p.x.t <= STREAM_ROWS {
            for row in (p.first..p.end).step_by(block) {
                let w = in_place(row);
                if p.x.groups() == 1 {
                    tiles::one::<1>(&w, (p.x.group(0), p.x.pitch()), steps, &mut products);
                } else {
                    tiles::two::<1>(&w, [p.x.group(0), p.x.group(1)], steps, &mut products);
                }
                finish(p, row, 0, &products);
            }
            return;
        }
        let block_bytes = steps * PAIR_BYTES;
        for (i, row) in (p.first..p.end).step_by(block).enumerate() {
            pack::weights(&in_place(row), steps, packed.add(i * block_bytes));
        }
        for group in (0..p.x.groups()).step_by(2) {
            for (i, row) in (p.first..p.end).step_by(block).enumerate() {
                let at = packed.add(i * block_bytes).cast_const();
                let at = [at, at.add(PAIR_BYTES / 2)];
                let w = Weights { at, stride: 64, step: PAIR_BYTES, ahead: at };
                if group + 1 == p.x.groups() {
                    tiles::one::<0>(&w, (p.x.group(group), p.x.pitch()), steps, &mut products);
                } else {
                    let x = [p.x.group(group), p.x.group(group + 1)];
                    tiles::two::<0>(&w, x, steps, &mut products);
                }
                finish(p, row, group, &products);
            }
        }
    }
}

/// Writes the outputs of the block at weight row `row` for two groups of `x` from `group` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn finish(p: &Panel, row: usize, group: usize, products: &Products) {
    for column in 0..2.min(p.x.groups() - group) {
        let first = (group + column) * ROWS;
        let count = (p.x.t - first).min(ROWS);
        // SAFETY: rows `first..first + count` of the output exist, and so do the 16 outputs that a
        // tile inside the weight stands for; those of other panels are masked.
        unsafe {
            let out = p.out.add(first * p.n);
            if let Some(gated) = p.gated {
                let [gate, up] = [0, 1].map(|i| transposed(&products.0[i][column]));
                multiply(p, row, gated, (gate, up), (out, count));
                continue;
            }
            for (i, output) in p.outputs(row).into_iter().enumerate() {
                let mask = p.mask(output);
                if mask == 0 {
                    continue;
                }
                let at = p.inside(output);
                let bias = p.bias.map_or(_mm512_setzero_ps(), |bias| {
                    let values: [f32; ROWS] = std::array::from_fn(|j| bias_at(bias, at + j));
                    _mm512_loadu_ps(values.as_ptr())
                });
                let sums = transposed(&products.0[i][column]);
                for (j, &sum) in sums.iter().enumerate().take(count) {
                    let (sum, to) = (_mm512_add_ps(sum, bias), out.add(j * p.n + at));
                    let sum = match p.mode {
                        Write::Store => sum,
                        Write::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum),
                    };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}

/// Writes `act(gate) * up` for `count` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn multiply(
    p: &Panel,
    row: usize,
    gated: Gated,
    (mut gate, up): ([__m512; 16], [__m512; 16]),
    (out, count): (*mut f32, usize),
) {
    let (at, mask) = (p.inside(row), p.mask(row));
    // SAFETY: the arrays hold `count` vectors; `out` is the caller's promise, under the mask.
    unsafe {
        let values = gate.as_mut_ptr().cast();
        (gated.activate_mul)(gated.act, values, up.as_ptr().cast(), count * ROWS);
        for (j, &sum) in gate.iter().enumerate().take(count) {
            _mm512_mask_storeu_ps(out.add(j * p.n + at), mask, sum);
        }
    }
}

/// Sums by row of `x`; columns that the tile does not have hold old values.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(sums: &Sums) -> [__m512; 16] {
    // SAFETY: each row holds 16 values.
    pack::transpose(std::array::from_fn(|i| unsafe { _mm512_loadu_ps(sums[i].as_ptr()) }))
}
