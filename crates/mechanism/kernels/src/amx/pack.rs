//! Activations and weights as whole tiles.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::tiles::Weights;
use super::{ROWS, STEP};
use crate::scratch::Shared;

/// Packed activations: `[group of 16 rows of x][step of K][16 pairs of K][row][2]` in bf16.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    /// On a cache line.
    pub(crate) at: Shared<u8>,
    /// Rows of `x`.
    pub(crate) t: usize,
    /// `K / 32`.
    pub(crate) steps: usize,
}

impl Columns {
    /// Columns of a tile: all tiles of a call are alike, and the last group's may hold zeros.
    pub(crate) fn width(&self) -> usize {
        self.t.min(ROWS)
    }

    /// Bytes between the rows of a tile: a power of two, so that none crosses a cache line.
    pub(super) fn pitch(&self) -> usize {
        4 * self.width().next_power_of_two()
    }

    pub(crate) fn groups(&self) -> usize {
        self.t.div_ceil(ROWS)
    }

    pub(crate) fn group_bytes(&self) -> usize {
        self.steps * ROWS * self.pitch()
    }

    pub(super) fn group(&self, group: usize) -> *const u8 {
        self.at.at(group * self.group_bytes())
    }
}

/// Packs one group of `x` (`[t, K]`).
///
/// # Safety
/// AVX-512 BF16 is present; `x` holds `to.t` rows of `32 * to.steps` values, and the group's bytes
/// are the caller's to write.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn x(x: *const f32, to: &Columns, group: usize) {
    let k = to.steps * STEP;
    let rows = (to.t - group * ROWS).min(ROWS);
    let (width, pitch) = (to.width(), to.pitch());
    let mask = ((1u32 << width) - 1) as u16;
    // SAFETY: rows `16 * group..` up to `rows` more exist, and so do whole steps of them; a tile
    // takes 16 pitches of at least `width` pairs.
    unsafe {
        let x = x.add(group * ROWS * k);
        let tiles = to.at.at(group * to.group_bytes());
        for step in 0..to.steps {
            let tile = tiles.add(step * ROWS * pitch);
            let mut pairs = [_mm512_setzero_ps(); ROWS];
            for row in 0..rows {
                let values = x.add(row * k + step * STEP);
                let (low, high) = (_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(16)));
                pairs[row] = transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
            }
            if width == 1 {
                _mm512_storeu_ps(tile.cast(), pairs[0]);
                continue;
            }
            for (pair, row) in transpose(pairs).into_iter().enumerate() {
                _mm512_mask_storeu_ps(tile.add(pair * pitch).cast(), mask, row);
            }
        }
    }
}

/// Bytes of one step of [`weights`].
pub(super) const PAIR_BYTES: usize = 2 * ROWS * 2 * STEP;

/// Copies two tiles of weight rows, `[step][2][16][32]`.
///
/// # Safety
/// AVX-512 is present; 16 rows of `64 * steps` bytes, a stride apart, can be read at both places
/// of `w.at`, and `steps * PAIR_BYTES` bytes be written at `to`, a cache line.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn weights(w: &Weights, steps: usize, to: *mut u8) {
    let tile_bytes = PAIR_BYTES / 2;
    for step in 0..steps {
        for i in 0..2 {
            let ahead = w.ahead[i].wrapping_add(step * tile_bytes);
            // SAFETY: inside what the caller vouches for; prefetches never fault.
            unsafe {
                let from = w.at[i].add(step * w.step);
                let to = to.add(step * PAIR_BYTES + i * tile_bytes);
                for row in 0..ROWS {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(row * 64).cast());
                    let line = _mm512_loadu_ps(from.add(row * w.stride).cast());
                    _mm512_store_ps(to.add(row * 64).cast(), line);
                }
            }
        }
    }
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // Quarter `q` of `fours[4 * i + j]` is column `4 * q + j` of rows `4 * i..4 * i + 4`.
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        for half in 0..2 {
            let a = _mm512_castps_pd(pairs[i + half]);
            let b = _mm512_castps_pd(pairs[i + half + 2]);
            fours[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    let mut columns = fours;
    for j in 0..4 {
        let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
        let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (even2, odd2) =
            (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
        columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
        columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
        columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
    }
    columns
}
