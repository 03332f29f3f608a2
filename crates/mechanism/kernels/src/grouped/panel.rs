//! Some rows of activations times some tiles of weights.

use super::{GroupedType, ROWS};
use crate::gemm::{Bias, bias_at};
use crate::tensor::Write;

/// Up to so many rows of `x`, all of them meet a tile while it is in cache and weights come from
/// memory once; more of them pass by tiles that stay in cache.
pub(crate) const STREAM_ROWS: usize = 48;

/// Some rows of `x` by one tile.
pub(crate) struct Tile {
    pub(crate) w: *const u8,
    pub(crate) groups: usize,
    /// Prepared, row `m` at `x + m * x_stride`.
    pub(crate) x: *const u8,
    pub(crate) x_stride: usize,
}

/// The products of one instruction set.
///
/// # Safety
/// `tile` touches exactly the tile and `MR` rows of `x`; both functions need the instruction set.
pub(crate) unsafe trait GroupDot: Sized {
    /// Some rows of `x` from `m < p.m` on by the tile whose first output is `n`; returns how many.
    ///
    /// # Safety
    /// As for [`panel`].
    unsafe fn strip<const INT4: bool>(p: &Panel, m: usize, n: usize) -> usize;
    /// The products of `MR` rows of `x` with a tile's sixteen outputs.
    unsafe fn tile<const MR: usize, const INT4: bool>(t: &Tile) -> [[f32; ROWS]; MR];
}

/// Some rows of `x` times some rows of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// Prepared activations, row `m` at `x + m * x_stride`.
    pub(crate) x: *const u8,
    /// Bytes.
    pub(crate) x_stride: usize,
    pub(crate) m: usize,
    pub(crate) grouped: GroupedType,
    /// First tile of the panel.
    pub(crate) w: *const u8,
    /// Outputs; all tiles but the last are whole.
    pub(crate) n: usize,
    pub(crate) groups: usize,
    /// Element `(0, 0)` of the panel's output.
    pub(crate) out: *mut f32,
    /// Elements.
    pub(crate) out_stride: usize,
    /// Of the panel's first output.
    pub(crate) bias: Option<Bias>,
    pub(crate) mode: Write,
}

/// Computes one panel.
///
/// # Safety
/// The instruction set of `D` is present; every pointer is valid for what the counts say, `out`
/// exclusively so.
#[inline(always)]
pub(crate) unsafe fn panel<D: GroupDot, const INT4: bool>(p: &Panel) {
    // SAFETY: strips and tiles lie inside the panel; the rest is the caller's promise.
    unsafe {
        if p.m <= STREAM_ROWS {
            for n in (0..p.n).step_by(ROWS) {
                let mut m = 0;
                while m < p.m {
                    m += D::strip::<INT4>(p, m, n);
                }
            }
        } else {
            let mut m = 0;
            while m < p.m {
                let mut done = 0;
                for n in (0..p.n).step_by(ROWS) {
                    done = D::strip::<INT4>(p, m, n);
                }
                m += done.max(1);
            }
        }
    }
}

/// The strip function of an instruction set: as many of the remaining rows as one of its shapes
/// takes, the largest first. Few shapes, as each is compiled for itself.
macro_rules! strips {
    ($($rows:literal)*) => {
        #[inline(always)]
        unsafe fn strip<const INT4: bool>(p: &$crate::grouped::Panel, m: usize, n: usize) -> usize {
            // SAFETY: the caller's promise is that of `outputs`, and the rows are there.
            unsafe {
                $(if p.m - m >= $rows {
                    $crate::grouped::panel::outputs::<Self, $rows, INT4>(p, m, n);
                    return $rows;
                })*
            }
            p.m - m
        }
    };
}
pub(crate) use strips;

/// `MR` rows of `x` from `m` on by one tile.
#[inline(always)]
pub(crate) unsafe fn outputs<D: GroupDot, const MR: usize, const INT4: bool>(
    p: &Panel,
    m: usize,
    n: usize,
) {
    // SAFETY: the caller vouches for the rows and the tile; only the panel's outputs are written.
    unsafe {
        let tile = Tile {
            w: p.w.add(n / ROWS * p.grouped.tile_bytes(p.groups)),
            groups: p.groups,
            x: p.x.add(m * p.x_stride),
            x_stride: p.x_stride,
        };
        let mut sums = D::tile::<MR, INT4>(&tile);
        let count = (p.n - n).min(ROWS);
        if let Some(bias) = p.bias {
            for j in 0..count {
                let bias = bias_at(bias, n + j);
                for sums in &mut sums {
                    sums[j] += bias;
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            let out = p.out.add((m + i) * p.out_stride + n);
            let out = std::slice::from_raw_parts_mut(out, count);
            for (out, sum) in out.iter_mut().zip(sums) {
                match p.mode {
                    Write::Store => *out = *sum,
                    Write::Add => *out += *sum,
                }
            }
        }
    }
}
