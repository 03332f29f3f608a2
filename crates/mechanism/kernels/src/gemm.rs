//! `x·wᵀ` for weights as they lie in the file: rows contiguous in `K` on both sides.
//!
//! Every output is one chain: `K` is cut into blocks ([`block_len`]). In each, an accumulator vector
//! walks from the first value in whole steps, takes the masked rest, and is summed by a fixed tree;
//! blocks are added in order. Tiles only decide how many chains run at once, so the bits of an
//! output do not depend on the tile shape, on `T` or on the number of threads.
//!
//! A tile is up to six rows of `x` by four of `w` (24 accumulators of 32 registers). Three orders:
//! one row of `x` is a stream over the weights, eight of them at a time. A few rows of `x` stay in
//! cache, and each four weight rows meet all of them at once, so weights come from memory once
//! while the next four are on their way. Many rows of `x` pass by a panel of weights, block by
//! block, so that the panel stays in half of L2 and a strip of `x` in L1; the sums of the blocks so
//! far wait in memory.
//!
//! Where a weight is widened before it is used, a panel that many rows will pass is widened once
//! ([`pack`]) and laid out tile by tile: the same values meet in the same order, so the bits stay.

use crate::simd::{Dot, Lanes};
use crate::tensor::{DType, Write};

/// Up to so many rows of `x`, weights are streamed from memory: all of `x` stays in cache.
pub(crate) const STREAM_ROWS: usize = 16;
const NO_PREFETCH: (*const u8, usize, usize) = (std::ptr::null(), 0, 0);
/// Weight rows of a tile, and of a strip of a packed panel.
pub(crate) const TILE: usize = 4;
/// Steps between the weights that a packed panel's tile uses and those that it asks for.
const AHEAD_STEPS: usize = 8;
/// Rows of `x` of which a block may not stay in L2 beside a panel.
const MANY_ROWS: usize = 96;
/// Bytes that a request for memory brings in: lines come in pairs.
const LINES: usize = 128;

/// Values per block of `K`: as even as blocks of at most `most` values allow.
pub(crate) fn block_len(k: usize, most: usize) -> usize {
    if k <= most { k.max(1) } else { k.div_ceil(k.div_ceil(most)).next_multiple_of(64) }
}

/// A bias in storage, read value by value at the end of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Bias {
    pub(crate) dtype: DType,
    pub(crate) data: *const u8,
}

/// Weights that will be needed next: asked for while a panel is computed, so that they are in L2
/// when their turn comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upcoming {
    pub(crate) w: *const u8,
    /// Bytes.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    /// Bytes of each row.
    pub(crate) bytes: usize,
}

impl Upcoming {
    pub(crate) const NOTHING: Upcoming =
        Upcoming { w: std::ptr::null(), stride: 0, rows: 0, bytes: 0 };

    /// Pairs of cache lines in all.
    #[inline(always)]
    fn lines(&self) -> usize {
        self.rows * self.bytes.div_ceil(LINES)
    }

    /// Asks for the next `count` pairs of lines.
    #[inline(always)]
    unsafe fn ask<L: Lanes>(&self, next: &mut Line, count: usize) {
        for _ in 0..count {
            if next.row >= self.rows {
                return;
            }
            // SAFETY: any address will do.
            unsafe { L::prefetch_far(self.w.wrapping_add(next.row * self.stride + next.at)) }
            next.at += LINES;
            if next.at >= self.bytes {
                *next = Line { row: next.row + 1, at: 0 };
            }
        }
    }
}

/// A place in [`Upcoming`] values.
#[derive(Default)]
struct Line {
    row: usize,
    at: usize,
}

/// Some rows of `x` times some rows of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// Prepared activations, row `m` at `x + m * x_stride`, padded with zeros to a whole step.
    pub(crate) x: *const u8,
    /// Bytes.
    pub(crate) x_stride: usize,
    pub(crate) m: usize,
    /// First weight row of the panel.
    pub(crate) w: *const u8,
    /// Bytes per row, also where [`TILE`] rows lie interleaved.
    pub(crate) w_stride: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Values per block of `K`; see [`block_len`].
    pub(crate) block: usize,
    /// Element `(0, 0)` of the panel's output.
    pub(crate) out: *mut f32,
    /// Elements.
    pub(crate) out_stride: usize,
    /// Of the panel's first weight row.
    pub(crate) bias: Option<Bias>,
    /// Sums of the blocks of `K` before this panel's: element `(0, 0)`, and elements per row.
    pub(crate) so_far: Option<(*const f32, usize)>,
    pub(crate) mode: Write,
    pub(crate) upcoming: Upcoming,
}

/// Computes one panel, whose weights lie row by row or, `PACKED`, as [`pack`] makes them: the steps
/// of [`TILE`] rows in turn.
///
/// # Safety
/// The instruction set of `D` is present; every pointer is valid for what the counts say, `out`
/// exclusively so. A packed panel is one block of whole steps.
#[inline(always)]
pub(crate) unsafe fn panel<D: Dot, const PACKED: bool>(p: &Panel) {
    // SAFETY: strips and columns lie inside the panel; the rest is the caller's promise.
    unsafe {
        if p.m == 1 && !PACKED {
            for n in (0..p.n).step_by(8) {
                outputs::<D, PACKED, 1, 8>(p, 0, n, Ahead { row: n + 8, rows: 0 });
            }
            return;
        }
        // As even as possible: a strip of one or two rows would spend its time on loads.
        let strips = p.m.div_ceil(D::MAX_M);
        let (rows, more) = (p.m / strips, p.m % strips);
        let from = |i: usize| i * rows + i.min(more);
        let strip = |i: usize| (from(i), from(i + 1));
        let streams = p.m <= STREAM_ROWS && !PACKED;
        let tiles = p.n.div_ceil(TILE);
        // Each strip asks for its share of the next four weight rows, so that memory is as busy
        // during the strips that find their weights in cache.
        let asked = usize::from(streams) * if strips == 1 { TILE } else { 2 };
        let share = p.upcoming.lines().div_ceil((strips * tiles).max(1));
        let mut line = Line::default();
        // The next strip is asked for too where `x` is too long to wait in L2. The first is longest.
        let is_long = !streams && p.m > MANY_ROWS;
        let x_of = |(first, end): (usize, usize)| Upcoming {
            w: p.x.wrapping_add(first * p.x_stride),
            stride: p.x_stride,
            rows: end - first,
            bytes: p.k * D::X_BYTES,
        };
        let x_share = if is_long { x_of(strip(0)).lines().div_ceil(tiles.max(1)) } else { 0 };
        // Where weights stream, each tile of them meets all strips; else each strip meets all tiles.
        let (outer, inner) = if streams { (tiles, strips) } else { (strips, tiles) };
        for a in 0..outer {
            let after =
                if is_long && a + 1 < strips { x_of(strip(a + 1)) } else { Upcoming::NOTHING };
            let mut x_line = Line::default();
            for b in 0..inner {
                let (i, n) = if streams { (b, a * TILE) } else { (a, b * TILE) };
                p.upcoming.ask::<D::Acc>(&mut line, share);
                after.ask::<D::Acc>(&mut x_line, x_share);
                let ahead = Ahead { row: n + TILE + i * asked, rows: asked };
                strip_outputs::<D, PACKED>(p, strip(i), n, ahead);
            }
        }
    }
}

/// Weight rows to prefetch meanwhile: none, two or four of them from `row` on.
#[derive(Clone, Copy)]
struct Ahead {
    row: usize,
    rows: usize,
}

/// Rows `first..end` of `x` by at most four weight rows from `n` on.
#[inline(always)]
unsafe fn strip_outputs<D: Dot, const PACKED: bool>(
    p: &Panel,
    (first, end): (usize, usize),
    n: usize,
    ahead: Ahead,
) {
    // SAFETY: the caller's promise is that of `outputs`.
    unsafe {
        match end - first {
            1 => outputs::<D, PACKED, 1, TILE>(p, first, n, ahead),
            2 => outputs::<D, PACKED, 2, TILE>(p, first, n, ahead),
            3 => outputs::<D, PACKED, 3, TILE>(p, first, n, ahead),
            4 => outputs::<D, PACKED, 4, TILE>(p, first, n, ahead),
            5 => outputs::<D, PACKED, 5, TILE>(p, first, n, ahead),
            _ => outputs::<D, PACKED, 6, TILE>(p, first, n, ahead),
        }
    }
}

/// `MR` rows of `x` from `m` on by at most `NR` weight rows from `n` on.
#[inline(always)]
unsafe fn outputs<D: Dot, const PACKED: bool, const MR: usize, const NR: usize>(
    p: &Panel,
    m: usize,
    n: usize,
    ahead: Ahead,
) {
    // SAFETY: rows of `x` and `w` lie in the panel.
    unsafe {
        // It may lie behind the panel, or behind the weight: a prefetch reads nothing.
        let next = if ahead.rows == 0 {
            NO_PREFETCH
        } else {
            (p.w.wrapping_add(ahead.row * p.w_stride), p.w_stride, ahead.rows)
        };
        let x = (p.x.add(m * p.x_stride), p.x_stride);
        let w = rows_at::<D, PACKED, NR>(p, n);
        let mut sums = products::<D, PACKED, MR, NR>((0, p.k.min(p.block)), x, w, next);
        let mut from = p.block;
        while from < p.k {
            let more = products::<D, PACKED, MR, NR>((from, p.k.min(from + p.block)), x, w, next);
            for i in 0..MR {
                sums[i] = plus(sums[i], more[i]);
            }
            from += p.block;
        }
        finish::<MR, NR>(p, m, n, &sums);
    }
}

/// `NR` weight rows from `n` on: behind the panel's end its last row is repeated (in a packed panel,
/// whatever is left there is used), whose results are not written.
#[inline(always)]
unsafe fn rows_at<D: Dot, const PACKED: bool, const NR: usize>(
    p: &Panel,
    n: usize,
) -> [*const u8; NR] {
    let mut rows = [p.w; NR];
    for i in 0..NR {
        // SAFETY: the row lies in the panel, or in the last strip of a packed one.
        rows[i] = unsafe {
            if PACKED {
                p.w.add(n * p.w_stride + i * D::STEP * D::W_BYTES)
            } else {
                p.w.add((n + i).min(p.n - 1) * p.w_stride)
            }
        };
    }
    rows
}

/// Adds what came before and the biases, and writes what belongs to the panel.
#[inline(always)]
unsafe fn finish<const MR: usize, const NR: usize>(
    p: &Panel,
    m: usize,
    n: usize,
    sums: &[[f32; NR]; MR],
) {
    // SAFETY: the caller vouches for the outputs, the biases and the sums so far of the panel.
    unsafe {
        if n + NR > p.n {
            return finish_part(p, (m, n), sums.as_flattened(), NR);
        }
        let mut bias = [0.0; NR];
        if let Some(values) = p.bias {
            for j in 0..NR {
                bias[j] = bias_at(values, n + j);
            }
        }
        let row = |at: *const f32| at.cast::<[f32; NR]>().read_unaligned();
        for i in 0..MR {
            let mut sums = sums[i];
            if let Some((so_far, stride)) = p.so_far {
                sums = plus(sums, row(so_far.add((m + i) * stride + n)));
            }
            sums = plus(sums, bias);
            let out = p.out.add((m + i) * p.out_stride + n);
            if p.mode == Write::Add {
                sums = plus(sums, row(out));
            }
            out.cast::<[f32; NR]>().write_unaligned(sums);
        }
    }
}

#[inline(always)]
fn plus<const N: usize>(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
    for i in 0..N {
        a[i] += b[i];
    }
    a
}

/// [`finish`] for the last columns: `sums` are rows of `columns` values, of which some count.
#[cold]
#[inline(never)]
unsafe fn finish_part(p: &Panel, (m, n): (usize, usize), sums: &[f32], columns: usize) {
    for (i, sums) in sums.chunks_exact(columns).enumerate() {
        for (j, &sum) in sums[..p.n - n].iter().enumerate() {
            let (m, n) = (m + i, n + j);
            // SAFETY: the caller vouches for the outputs, the biases and the sums so far.
            unsafe {
                let so_far = p.so_far.map_or(0.0, |(at, stride)| *at.add(m * stride + n));
                let bias = p.bias.map_or(0.0, |values| bias_at(values, n));
                let out = p.out.add(m * p.out_stride + n);
                let old = if p.mode == Write::Add { *out } else { 0.0 };
                *out = sum + so_far + bias + old;
            }
        }
    }
}

/// The products of `MR` rows of `x` and `NR` rows of `w` over the values `from..to` of `K`, at most
/// a block. `next` is what to prefetch: the first row, its stride in bytes, and how many rows.
#[inline(always)]
unsafe fn products<D: Dot, const PACKED: bool, const MR: usize, const NR: usize>(
    (from, to): (usize, usize),
    (x, x_stride): (*const u8, usize),
    w: [*const u8; NR],
    (next, next_stride, next_rows): (*const u8, usize, usize),
) -> [[f32; NR]; MR] {
    let whole = to / D::STEP * D::STEP;
    // Bytes from one value of a row to the next, over whole steps.
    let w_bytes = if PACKED { TILE * D::W_BYTES } else { D::W_BYTES };
    let mut i = from;
    // SAFETY: whole steps stay below `to` in the weights; `x` is padded to a whole step.
    unsafe {
        let mut acc = [[D::Acc::splat(0.0); NR]; MR];
        while i < whole {
            if PACKED {
                for n in 0..NR {
                    let ahead = (i + AHEAD_STEPS * D::STEP) * w_bytes;
                    D::Acc::prefetch(w[n].wrapping_add(ahead));
                }
            }
            if MR > 1 && next_rows > 0 {
                let next = next.wrapping_add(i * D::W_BYTES);
                D::Acc::prefetch(next);
                D::Acc::prefetch(next.wrapping_add(next_stride));
                if next_rows > 2 {
                    D::Acc::prefetch(next.wrapping_add(2 * next_stride));
                    D::Acc::prefetch(next.wrapping_add(3 * next_stride));
                }
            }
            for part in 0..D::PARTS {
                let mut xs = [D::load_x(x.add(i * D::X_BYTES), part); MR];
                for m in 1..MR {
                    xs[m] = D::load_x(x.add(m * x_stride + i * D::X_BYTES), part);
                }
                for n in 0..NR {
                    let w = D::load_w(w[n].add(i * w_bytes), part);
                    for m in 0..MR {
                        acc[m][n] = D::dot(acc[m][n], xs[m], w);
                    }
                }
            }
            i += D::STEP;
        }
        if whole < to && !PACKED {
            for n in 0..NR {
                for part in 0..D::PARTS {
                    let w = D::load_w_rest(w[n].add(whole * D::W_BYTES), part, to - whole);
                    for m in 0..MR {
                        let x = D::load_x(x.add(m * x_stride + whole * D::X_BYTES), part);
                        acc[m][n] = D::dot(acc[m][n], x, w);
                    }
                }
            }
        }
        sums(&acc)
    }
}

/// Sums accumulators, each by the tree of [`Lanes::sum`].
#[inline(always)]
unsafe fn sums<L: Lanes, const MR: usize, const NR: usize>(acc: &[[L; NR]; MR]) -> [[f32; NR]; MR] {
    let mut sums = [[0.0; NR]; MR];
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        for n in (0..NR).step_by(4) {
            let mut four = [[acc[0][n]; 4]; MR];
            for m in 0..MR {
                four[m] = [acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3]];
            }
            let mut m = 0;
            while m + 4 <= MR {
                let rows = L::sum4x4([four[m], four[m + 1], four[m + 2], four[m + 3]]);
                for i in 0..4 {
                    sums[m + i][n..n + 4].copy_from_slice(&rows[i]);
                }
                m += 4;
            }
            while m + 2 <= MR {
                let rows = L::sum4x2([four[m], four[m + 1]]);
                sums[m][n..n + 4].copy_from_slice(&rows[0]);
                sums[m + 1][n..n + 4].copy_from_slice(&rows[1]);
                m += 2;
            }
            if m < MR {
                sums[m][n..n + 4].copy_from_slice(&L::sum4(four[m]));
            }
        }
    }
    sums
}

/// Widens `rows` weight rows of `k` values, `w_stride` bytes apart, to f32 at `to`, `stride` values
/// per row, [`TILE`] rows interleaved vector by vector, in the order in which `D` uses them; zeros
/// behind them up to a whole step.
///
/// # Safety
/// As for [`panel`]; `to` is writable for `rows`, rounded up to whole tiles, strides of at least `k`
/// rounded up to whole steps.
#[inline(always)]
pub(crate) unsafe fn pack<L: Lanes, D: Dot<W = L>>(
    (w, w_stride): (*const u8, usize),
    (rows, k): (usize, usize),
    to: *mut f32,
    stride: usize,
) {
    let whole = k / D::STEP * D::STEP;
    // SAFETY: whole steps and the rest stay in the rows.
    unsafe {
        for row in 0..rows {
            let w = w.add(row * w_stride);
            let to = to.add(row / TILE * TILE * stride + row % TILE * L::N);
            for i in (0..whole).step_by(D::STEP) {
                for part in 0..D::PARTS {
                    let values = D::load_w(w.add(i * D::W_BYTES), part);
                    values.store(to.add((i + part * L::N) * TILE));
                }
            }
            if whole < k {
                for part in 0..D::PARTS {
                    let values = D::load_w_rest(w.add(whole * D::W_BYTES), part, k - whole);
                    values.store(to.add((whole + part * L::N) * TILE));
                }
            }
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn bias_at(bias: Bias, n: usize) -> f32 {
    // SAFETY: the caller vouches for value `n`.
    unsafe {
        match bias.dtype {
            DType::F32 => bias.data.add(4 * n).cast::<f32>().read_unaligned(),
            DType::F16 => {
                let bits = bias.data.add(2 * n).cast::<u16>().read_unaligned();
                half::f16::from_bits(bits).to_f32()
            }
            DType::BF16 => {
                let bits = bias.data.add(2 * n).cast::<u16>().read_unaligned();
                f32::from_bits(u32::from(bits) << 16)
            }
        }
    }
}

/// Prepares rows `0..rows` of `x` (`k` values each) at `to`, `stride` bytes apart.
///
/// # Safety
/// As [`Dot::prepare`], for each row.
#[inline(always)]
pub(crate) unsafe fn prepare<D: Dot>(
    x: *const f32,
    rows: usize,
    k: usize,
    to: *mut u8,
    stride: usize,
) {
    for row in 0..rows {
        // SAFETY: the caller vouches for every row.
        unsafe { D::prepare(x.add(row * k), k, to.add(row * stride)) }
    }
}

#[cfg(test)]
mod tests {
    use super::block_len;

    #[test]
    fn blocks_are_even_and_whole_steps() {
        for (k, blocks) in [(1, 1), (640, 1), (641, 2), (896, 2), (4864, 8), (14_336, 23)] {
            let block = block_len(k, 640);
            assert_eq!(k.div_ceil(block), blocks, "{k}");
            assert!(block <= 640 && (block == k || block.is_multiple_of(64)), "{k}: {block}");
            assert!(block < k.div_ceil(blocks) + 64, "{k}: {block}");
        }
        assert_eq!(block_len(0, 640), 1);
    }
}
