//! `x·wᵀ` for weights as they lie in the file: rows contiguous in `K` on both sides.
//!
//! Every output is one chain: an accumulator vector walks `K` from 0 in whole steps, takes the
//! masked rest, and is summed by a fixed tree. Tiles only decide how many chains run at once, so
//! the bits of an output do not depend on the tile shape, on `T` or on the number of threads.
//!
//! A panel (some weight rows) is sized to stay in half of L2 while all of `x` passes by it; a tile
//! is six rows of `x` by four of `w` (24 accumulators of 32 registers). One row of `x` is a stream
//! over the weights instead, eight rows at a time.

use crate::simd::Dot;
use crate::tensor::{DType, Write};

/// Bytes of weights that stay in cache while the rows of `x` pass.
pub(crate) const PANEL_BYTES: usize = 512 << 10;

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
    pub(crate) mode: Write,
}

/// Computes one panel.
///
/// # Safety
/// The instruction set of `D` is present; every pointer is valid for what the counts say, `out`
/// exclusively so.
#[inline(always)]
pub(crate) unsafe fn panel<D: Dot>(p: &Panel) {
    let mut m = 0;
    while m < p.m {
        let rows = (p.m - m).min(D::MAX_M);
        // SAFETY: `m..m + rows` lies inside the panel; the rest is the caller's promise.
        unsafe {
            match rows {
                1 if p.m == 1 => strip::<D, 1, 8>(p, m),
                1 => strip::<D, 1, 4>(p, m),
                2 => strip::<D, 2, 4>(p, m),
                3 => strip::<D, 3, 4>(p, m),
                4 => strip::<D, 4, 4>(p, m),
                5 => strip::<D, 5, 4>(p, m),
                _ => strip::<D, 6, 4>(p, m),
            }
        }
        m += rows;
    }
}

/// `MR` rows of `x` from `m` on, over all weight rows of the panel.
#[inline(always)]
unsafe fn strip<D: Dot, const MR: usize, const NR: usize>(p: &Panel, m: usize) {
    let mut n = 0;
    while n < p.n {
        let count = (p.n - n).min(NR);
        // SAFETY: the last tile repeats its last weight row instead of leaving the panel; results
        // of repeated rows are not written.
        unsafe {
            let x = p.x.add(m * p.x_stride);
            let mut w = [p.w.add(n * p.w_stride); NR];
            for i in 1..NR {
                w[i] = p.w.add((n + i.min(count - 1)) * p.w_stride);
            }
            let sums = tile::<D, MR, NR>(p.k, x, p.x_stride, w);
            for (i, sums) in sums.iter().enumerate() {
                let out = p.out.add((m + i) * p.out_stride + n);
                for (j, &sum) in sums.iter().enumerate().take(count) {
                    let sum = sum + p.bias.map_or(0.0, |bias| bias_at(bias, n + j));
                    match p.mode {
                        Write::Store => *out.add(j) = sum,
                        Write::Add => *out.add(j) += sum,
                    }
                }
            }
        }
        n += count;
    }
}

#[inline(always)]
unsafe fn tile<D: Dot, const MR: usize, const NR: usize>(
    k: usize,
    x: *const u8,
    x_stride: usize,
    w: [*const u8; NR],
) -> [[f32; NR]; MR] {
    // SAFETY: whole steps stay below `k` in the weights; `x` is padded to a whole step.
    unsafe {
        let mut acc = [[D::zero(); NR]; MR];
        let whole = k / D::STEP * D::STEP;
        let mut i = 0;
        while i < whole {
            let mut xs = [D::load_x(x.add(i * D::X_BYTES)); MR];
            for m in 1..MR {
                xs[m] = D::load_x(x.add(m * x_stride + i * D::X_BYTES));
            }
            for n in 0..NR {
                let w = D::load_w(w[n].add(i * D::W_BYTES));
                for m in 0..MR {
                    acc[m][n] = D::dot(acc[m][n], xs[m], w);
                }
            }
            i += D::STEP;
        }
        if whole < k {
            for n in 0..NR {
                let w = D::load_w_part(w[n].add(whole * D::W_BYTES), k - whole);
                for m in 0..MR {
                    let x = D::load_x(x.add(m * x_stride + whole * D::X_BYTES));
                    acc[m][n] = D::dot(acc[m][n], x, w);
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

#[inline(always)]
unsafe fn bias_at(bias: Bias, n: usize) -> f32 {
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
