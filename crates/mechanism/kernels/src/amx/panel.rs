//! Some weight rows times all of `x`: tiles of sums, then biases, activations and the way out.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::pack::{self, Columns, PAIR_BYTES};
use super::tiles::{self, Ahead, Products, Sums, Tiles, Weights};
use super::{ROWS, STEP};
use crate::gemm::{Bias, bias_at};
use crate::tensor::{Activation, Write};

/// Up to so many rows of `x`, weights are loaded where they lie: a copy would cost more.
pub(crate) const STREAM_ROWS: usize = 96;
/// Most steps of `K` per block when weights sweep past more rows: of 512 rows of `x`, a block takes
/// half of L2.
pub(crate) const SWEEP_STEPS: usize = 32;

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
    /// Where gated products of a sweep go instead of `out`: activations of what comes next.
    pub(crate) product: Option<Columns>,
    /// The tiles that this thread computes next, to be prefetched: addresses of any kind.
    pub(crate) ahead: [*const u8; 2],
}

/// Weight rows that two tiles cover.
pub(crate) fn block_rows(gated: bool) -> usize {
    if gated { ROWS } else { 2 * ROWS }
}

/// Bytes of the weights of one block of rows.
pub(crate) fn block_bytes(steps: usize) -> usize {
    steps * PAIR_BYTES
}

/// Bytes that [`sweep`] needs for a panel of `blocks` blocks of rows: a copy of one block's weights,
/// and the sums of all where `K` takes more than one pass.
pub(crate) fn sweep_bytes(x: &Columns, blocks: usize) -> usize {
    let sums = if x.block < x.steps { blocks * sums_bytes(x) } else { 0 };
    block_bytes(x.block) + sums
}

/// Bytes of the sums of one block of rows.
pub(crate) fn sums_bytes(x: &Columns) -> usize {
    x.groups() / 2 * size_of::<Products>()
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

    /// Where the weights lie that are packed after those of the block at `row` in a block of `K`.
    fn after(&self, row: usize, block: &Range<usize>) -> [*const u8; 2] {
        let next = row + block_rows(self.gated.is_some());
        if next < self.end {
            return self.tiles_inside(next).map(|tile| tile.wrapping_add(block.start * 64));
        }
        if block.end < self.x.steps {
            return self.tiles_inside(self.first).map(|tile| tile.wrapping_add(block.end * 64));
        }
        self.ahead
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

/// Computes one panel for at most [`STREAM_ROWS`] rows of `x`. Each block of weight rows passes all
/// of `x`; meanwhile the next block is on its way, in equal parts.
///
/// # Safety
/// The matrix unit and AVX-512 are present, and this thread has no tiles; every pointer is valid
/// for what the counts say, the panel's outputs exclusively so.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn stream(p: &Panel) {
    let block = block_rows(p.gated.is_some());
    let mut products = Products::ZERO;
    let (steps, groups) = (p.x.steps, p.x.groups());
    let passes = groups.div_ceil(2);
    // SAFETY: tiles are inside the weight, groups inside `x`, and the caller vouches for both.
    unsafe {
        let _tiles = Tiles::configure(p.x.width());
        for row in (p.first..p.end).step_by(block) {
            let next = row + block;
            let next = if next < p.end { p.tiles(next) } else { p.ahead };
            for pass in 0..passes {
                // 1024 bytes per step where there is one pass, else 512 in some of the steps.
                let ahead_steps = if passes == 1 { steps } else { (2 * steps).div_ceil(passes) };
                let ahead = next.map(|tile| tile.wrapping_add(pass * ahead_steps * 512));
                let (at, stride) = (p.tiles_inside(row), p.stride());
                let w = Weights { at, stride, ahead, ahead_steps };
                let x = |group| p.x.group(group, &(0..steps)).cast_const();
                let group = 2 * pass;
                expect(p, row, group);
                match (passes == 1, group + 1 == groups) {
                    (true, true) => tiles::one::<16>(&w, (x(0), p.x.pitch()), steps, &mut products),
                    (true, false) => tiles::two::<16>(&w, [x(0), x(1)], steps, &mut products),
                    (false, true) => {
                        tiles::one::<8>(&w, (x(group), p.x.pitch()), steps, &mut products);
                    }
                    (false, false) => {
                        tiles::two::<8>(&w, [x(group), x(group + 1)], steps, &mut products);
                    }
                }
                finish(p, row, group, &products);
            }
        }
    }
}

/// Computes one panel for more rows. A block of weight rows is packed and sweeps past all of `x`, a
/// block of `K` after the other, while the next block is on its way; sums that wait for the next block
/// of `K` stay in tiles, which changes no bit.
///
/// # Safety
/// As [`stream`]; `scratch` is [`sweep_bytes`] on a cache line, this thread's alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn sweep(p: &Panel, scratch: *mut u8) {
    let rows = block_rows(p.gated.is_some());
    let pairs = p.x.groups() / 2;
    let sums = scratch.wrapping_add(block_bytes(p.x.block)).cast::<Products>();
    let mut products = Products::ZERO;
    // SAFETY: tiles are inside the weight, groups inside `x`; the caller vouches for both and for
    // the scratch.
    unsafe {
        let _tiles = Tiles::configure(ROWS);
        for block in p.x.blocks() {
            let (fresh, last) = (block.start == 0, block.end == p.x.steps);
            for (i, row) in (p.first..p.end).step_by(rows).enumerate() {
                let from = p.tiles_inside(row).map(|tile| tile.add(block.start * 64));
                pack::weights(from, p.stride(), block.len(), scratch);
                let next = p.after(row, &block);
                for pair in 0..pairs {
                    let whole = fresh && last;
                    let to = if whole { &raw mut products } else { sums.add(i * pairs + pair) };
                    let x = [2 * pair, 2 * pair + 1];
                    let x = x.map(|group| p.x.group(group, &block).cast_const());
                    if last && p.product.is_none() {
                        expect(p, row, 2 * pair);
                    }
                    let ahead = Ahead::new(next, p.stride(), (pair, pairs));
                    if fresh {
                        tiles::swept::<1>(x, scratch, block.len(), &ahead, to);
                    } else {
                        tiles::swept::<0>(x, scratch, block.len(), &ahead, to);
                    }
                    if last {
                        finish_rows(p, row, 2 * pair, &mut *to);
                    }
                }
            }
        }
    }
}

/// Asks for the lines that the outputs of the block at weight row `row` for two groups of `x` from `group`
/// on are written to: else each write waits until its line has come.
fn expect(p: &Panel, row: usize, group: usize) {
    let outputs = p.outputs(row);
    let outputs = if p.gated.is_some() { &outputs[..1] } else { &outputs[..] };
    for x_row in group * ROWS..((group + 2) * ROWS).min(p.x.t) {
        for &output in outputs {
            tiles::expect(p.out.wrapping_add(x_row * p.n + p.inside(output)));
        }
    }
}

/// Writes the outputs that [`sweep`] found of the block at weight row `row` for two groups of `x` from
/// `group` on. Sums are by group, then tile of weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn finish_rows(p: &Panel, row: usize, group: usize, products: &mut Products) {
    for (column, tiles) in products.0.iter_mut().enumerate() {
        let first = (group + column) * ROWS;
        let count = p.x.t.saturating_sub(first).min(ROWS);
        // SAFETY: rows `first..first + count` of the output exist, and so do the 16 outputs that a
        // tile inside the weight stands for; those of other panels are masked.
        unsafe {
            let out = p.out.wrapping_add(first * p.n);
            if let Some(Gated { act, activate_mul }) = p.gated {
                let [gate, up] = tiles;
                let values = gate.as_mut_ptr().cast();
                activate_mul(act, values, up.as_ptr().cast(), ROWS * ROWS);
                if let Some(to) = &p.product {
                    pass_on(to, group + column, row, gate);
                    continue;
                }
                let (mask, to) = (p.mask(row), out.wrapping_add(p.inside(row)));
                for (j, sums) in gate.iter().enumerate().take(count) {
                    _mm512_mask_storeu_ps(to.add(j * p.n), mask, _mm512_loadu_ps(sums.as_ptr()));
                }
                continue;
            }
            for (sums, output) in tiles.iter().zip(p.outputs(row)) {
                let sums = sums.iter().map(|row| _mm512_loadu_ps(row.as_ptr())).take(count);
                write(p, output, sums, out);
            }
        }
    }
}

/// Writes gated products, `[row][16]`, where what comes next has its activations: all rows of the
/// group, also those that `x` does not have.
///
/// # Safety
/// AVX-512 BF16 is present; `to` has the group and this output, and both are the caller's to write.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pass_on(to: &Columns, group: usize, output: usize, products: &Sums) {
    let (tile, half) = (to.tile(group, output / STEP), output % STEP);
    for (row, products) in products.iter().enumerate() {
        // SAFETY: a tile has 16 rows of 64 bytes, of which 16 values take one half.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(products.as_ptr()));
            let to = tile.add(row * 2 * STEP + 2 * half);
            _mm256_storeu_si256(to.cast(), transmute::<__m256bh, __m256i>(rounded));
        }
    }
}

/// Writes the sums of a tile, by row of `x`.
///
/// # Safety
/// Rows of the output from `out` on exist for all of `sums`, and the 16 outputs of the tile that
/// [`Panel::inside`] moves to where they would not; the panel's are the caller's to write.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn write(p: &Panel, output: usize, sums: impl Iterator<Item = __m512>, out: *mut f32) {
    let (at, mask) = (p.inside(output), p.mask(output));
    if mask == 0 {
        return;
    }
    // SAFETY: a bias has a value for each output, and the rest is the caller's promise.
    unsafe {
        let bias = p.bias.map_or(_mm512_setzero_ps(), |bias| {
            let values: [f32; ROWS] = std::array::from_fn(|j| bias_at(bias, at + j));
            _mm512_loadu_ps(values.as_ptr())
        });
        for (j, sum) in sums.enumerate() {
            let (sum, to) = (_mm512_add_ps(sum, bias), out.add(j * p.n + at));
            let sum = match p.mode {
                Write::Store => sum,
                Write::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum),
            };
            _mm512_mask_storeu_ps(to, mask, sum);
        }
    }
}

/// Writes the outputs of the block at weight row `row` for two groups of `x` from `group` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn finish(p: &Panel, row: usize, group: usize, products: &Products) {
    for column in 0..2 {
        let first = (group + column) * ROWS;
        let count = p.x.t.saturating_sub(first).min(ROWS);
        if count == 0 {
            break;
        }
        // SAFETY: rows `first..first + count` of the output exist, and so do the 16 outputs that a
        // tile inside the weight stands for; those of other panels are masked.
        unsafe {
            let out = p.out.add(first * p.n);
            if let Some(gated) = p.gated {
                let mut gate = transposed(&products.0[0][column]);
                let up = transposed(&products.0[1][column]);
                multiply(p, row, gated, (&mut gate, &up), (out, count));
                continue;
            }
            for (i, output) in p.outputs(row).into_iter().enumerate() {
                let sums = transposed(&products.0[i][column]);
                write(p, output, sums.into_iter().take(count), out);
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
    (gate, up): (&mut [__m512; 16], &[__m512; 16]),
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
