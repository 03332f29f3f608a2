//! `x·wᵀ` for weights as they lie in the file: rows contiguous in `K` on both sides.
//!
//! Every output is one chain: `K` is cut into blocks of [`BLOCK`] values. In each, an accumulator
//! vector walks from the first value in whole steps, takes the masked rest, and is summed by a fixed
//! tree; blocks are added in order. Tiles only decide how many chains run at once, so the bits of an
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
//! ([`pack`]): the same values meet in the same order, so the bits stay.

use crate::simd::{Dot, Lanes};
use crate::tensor::{DType, Write};

/// Values of `K` per block; whole steps of every kind.
pub(crate) const BLOCK: usize = 1024;
/// Up to so many rows of `x`, weights are streamed from memory: all of `x` stays in cache.
pub(crate) const STREAM_ROWS: usize = 16;
const NO_PREFETCH: (*const u8, usize, usize) = (std::ptr::null(), 0, 0);

/// A bias in storage, read value by value at the end of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Bias {
    pub(crate) dtype: DType,
    pub(crate) data: *const u8,
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
    /// Bytes.
    pub(crate) w_stride: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Element `(0, 0)` of the panel's output.
    pub(crate) out: *mut f32,
    /// Elements.
    pub(crate) out_stride: usize,
    /// Of the panel's first weight row.
    pub(crate) bias: Option<Bias>,
    /// Sums of the blocks of `K` before this panel's: element `(0, 0)`, and elements per row.
    pub(crate) so_far: Option<(*const f32, usize)>,
    pub(crate) mode: Write,
}

/// Computes one panel.
///
/// # Safety
/// The instruction set of `D` is present; every pointer is valid for what the counts say, `out`
/// exclusively so.
#[inline(always)]
pub(crate) unsafe fn panel<D: Dot>(p: &Panel) {
    // As even as possible: a strip of one or two rows would spend its time on loads.
    let strips = p.m.div_ceil(D::MAX_M);
    let strip = |i: usize| (i * p.m / strips, (i + 1) * p.m / strips);
    // SAFETY: strips and columns lie inside the panel; the rest is the caller's promise.
    unsafe {
        if p.m == 1 {
            for n in (0..p.n).step_by(8) {
                outputs::<D, 1, 8>(p, 0, n, Ahead { row: n + 8, rows: 0 });
            }
        } else if p.m <= STREAM_ROWS {
            // Each strip asks for its share of the next four weight rows, so that memory is as busy
            // during the strips that find their weights in cache.
            let rows = if strips == 1 { 4 } else { 2 };
            for n in (0..p.n).step_by(4) {
                for i in 0..strips {
                    strip_outputs::<D>(p, strip(i), n, Ahead { row: n + 4 + i * rows, rows });
                }
            }
        } else {
            for i in 0..strips {
                for n in (0..p.n).step_by(4) {
                    strip_outputs::<D>(p, strip(i), n, Ahead { row: n + 4, rows: 0 });
                }
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
unsafe fn strip_outputs<D: Dot>(p: &Panel, (first, end): (usize, usize), n: usize, ahead: Ahead) {
    // SAFETY: the caller's promise is that of `outputs`.
    unsafe {
        match end - first {
            1 => outputs::<D, 1, 4>(p, first, n, ahead),
            2 => outputs::<D, 2, 4>(p, first, n, ahead),
            3 => outputs::<D, 3, 4>(p, first, n, ahead),
            4 => outputs::<D, 4, 4>(p, first, n, ahead),
            5 => outputs::<D, 5, 4>(p, first, n, ahead),
            _ => outputs::<D, 6, 4>(p, first, n, ahead),
        }
    }
}

/// `MR` rows of `x` from `m` on by at most `NR` weight rows from `n` on.
#[inline(always)]
unsafe fn outputs<D: Dot, const MR: usize, const NR: usize>(
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
        let w = rows_at::<NR>(p, n);
        let mut sums = products::<D, MR, NR>((0, p.k.min(BLOCK)), x, w, next);
        for from in (BLOCK..p.k).step_by(BLOCK) {
            let block = products::<D, MR, NR>((from, p.k.min(from + BLOCK)), x, w, next);
            for i in 0..MR {
                for j in 0..NR {
                    sums[i][j] += block[i][j];
                }
            }
        }
        finish::<MR, NR>(p, m, n, &sums);
    }
}

/// `NR` weight rows from `n` on: behind the panel's end its last row is repeated, whose results are
/// not written.
#[inline(always)]
unsafe fn rows_at<const NR: usize>(p: &Panel, n: usize) -> [*const u8; NR] {
    let mut rows = [p.w; NR];
    for i in 0..NR {
        // SAFETY: the row lies in the panel.
        rows[i] = unsafe { p.w.add((n + i).min(p.n - 1) * p.w_stride) };
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
    let count = (p.n - n).min(NR);
    // SAFETY: the caller vouches for the outputs, the biases and the sums so far of the panel.
    unsafe {
        let mut bias = [0.0; NR];
        if let Some(values) = p.bias {
            for j in 0..count {
                bias[j] = bias_at(values, n + j);
            }
        }
        for i in 0..MR {
            let out = p.out.add((m + i) * p.out_stride + n);
            let mut sums = sums[i];
            if let Some((so_far, stride)) = p.so_far {
                for j in 0..count {
                    sums[j] += *so_far.add((m + i) * stride + n + j);
                }
            }
            for j in 0..NR {
                sums[j] += bias[j];
            }
            if p.mode == Write::Add {
                for j in 0..count {
                    sums[j] += *out.add(j);
                }
            }
            if count == NR {
                out.cast::<[f32; NR]>().write_unaligned(sums);
            } else {
                std::ptr::copy_nonoverlapping(sums.as_ptr(), out, count);
            }
        }
    }
}

/// The products of `MR` rows of `x` and `NR` rows of `w` over the values `from..to` of `K`, at most
/// a block. `next` is what to prefetch: the first row, its stride in bytes, and how many rows.
#[inline(always)]
unsafe fn products<D: Dot, const MR: usize, const NR: usize>(
    (from, to): (usize, usize),
    (x, x_stride): (*const u8, usize),
    w: [*const u8; NR],
    (next, next_stride, next_rows): (*const u8, usize, usize),
) -> [[f32; NR]; MR] {
    let whole = to / D::STEP * D::STEP;
    let mut i = from;
    // SAFETY: whole steps stay below `to` in the weights; `x` is padded to a whole step.
    unsafe {
        let mut acc = [[D::zero(); NR]; MR];
        while i < whole {
            if MR > 1 && next_rows > 0 {
                let next = next.wrapping_add(i * D::W_BYTES);
                D::prefetch(next);
                D::prefetch(next.wrapping_add(next_stride));
                if next_rows > 2 {
                    D::prefetch(next.wrapping_add(2 * next_stride));
                    D::prefetch(next.wrapping_add(3 * next_stride));
                }
            }
            for part in 0..D::PARTS {
                let mut xs = [D::load_x(x.add(i * D::X_BYTES), part); MR];
                for m in 1..MR {
                    xs[m] = D::load_x(x.add(m * x_stride + i * D::X_BYTES), part);
                }
                for n in 0..NR {
                    let w = D::load_w(w[n].add(i * D::W_BYTES), part);
                    for m in 0..MR {
                        acc[m][n] = D::dot(acc[m][n], xs[m], w);
                    }
                }
            }
            i += D::STEP;
        }
        if whole < to {
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
        let mut sums = [[0.0; NR]; MR];
        for m in 0..MR {
            for n in (0..NR).step_by(4) {
                let four = D::sum4([acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3]]);
                sums[m][n..n + 4].copy_from_slice(&four);
            }
        }
        sums
    }
}

/// Widens `rows` weight rows of `k` values, `w_stride` bytes apart, to f32 at `to`, `stride` values
/// apart, in the order in which `D` uses them; zeros behind them up to a whole step.
///
/// # Safety
/// As for [`panel`]; `to` is writable for `rows` strides of at least `k` rounded up to whole steps.
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
            let (w, to) = (w.add(row * w_stride), to.add(row * stride));
            for i in (0..whole).step_by(D::STEP) {
                for part in 0..D::PARTS {
                    D::load_w(w.add(i * D::W_BYTES), part).store(to.add(i + part * L::N));
                }
            }
            if whole < k {
                for part in 0..D::PARTS {
                    let w = D::load_w_rest(w.add(whole * D::W_BYTES), part, k - whole);
                    w.store(to.add(whole + part * L::N));
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
