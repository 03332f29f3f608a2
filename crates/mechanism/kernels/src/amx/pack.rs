//! Activations and weights as whole tiles.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::panel::{STREAM_ROWS, SWEEP_STEPS};
use super::{ROWS, STEP};
use crate::scratch::Shared;

/// Packed activations in bf16: `[block of K][group of 16 rows of x][step of K][16 pairs of K][row][2]`
/// where weights stream past, and `[block of K][group of 16 rows of x][step of K][row][32]` where they
/// sweep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// On a cache line.
    pub(crate) at: Shared<u8>,
    /// Rows of `x`; at least one.
    pub(crate) t: usize,
    /// `K / 32`.
    pub(crate) steps: usize,
    /// Steps of a block of `K`; the last may have fewer.
    pub(crate) block: usize,
}

impl Columns {
    /// Where `t` rows of `steps` steps go from `at` on.
    pub(crate) fn new(at: Shared<u8>, t: usize, steps: usize) -> Columns {
        let most = if t <= STREAM_ROWS { steps } else { SWEEP_STEPS };
        Columns { at, t, steps, block: steps.div_ceil(steps.div_ceil(most)) }
    }

    /// Whether weights sweep past, else they stream.
    pub(crate) fn is_swept(&self) -> bool {
        self.t > STREAM_ROWS
    }

    pub(crate) fn bytes(&self) -> usize {
        self.groups() * self.steps * self.tile_bytes()
    }

    /// Columns of a tile: all tiles of a call are alike, and the last group's may hold zeros.
    pub(crate) fn width(&self) -> usize {
        self.t.min(ROWS)
    }

    /// Bytes between the rows of a tile: a power of two, so that none crosses a cache line.
    pub(super) fn pitch(&self) -> usize {
        4 * self.width().next_power_of_two()
    }

    fn tile_bytes(&self) -> usize {
        ROWS * self.pitch()
    }

    /// Groups that are packed. Weights sweep past pairs of them: the last may have no rows.
    pub(crate) fn groups(&self) -> usize {
        let groups = self.t.div_ceil(ROWS);
        if self.is_swept() { groups.next_multiple_of(2) } else { groups }
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (steps, block) = (self.steps, self.block);
        (0..steps).step_by(block).map(move |start| start..(start + block).min(steps))
    }

    /// The tile of a group at a step of `K`, where weights sweep.
    pub(super) fn tile(&self, group: usize, step: usize) -> *mut u8 {
        let start = step / self.block * self.block;
        let block = start..(start + self.block).min(self.steps);
        self.group(group, &block).wrapping_add((step - start) * self.tile_bytes())
    }

    /// The first tile of a group in a block of `K`.
    pub(super) fn group(&self, group: usize, block: &Range<usize>) -> *mut u8 {
        self.at.at((self.groups() * block.start + group * block.len()) * self.tile_bytes())
    }
}

/// Packs one group of `x` (`[t, K]`).
///
/// # Safety
/// AVX-512 BF16 is present; `x` holds `to.t` rows of `32 * to.steps` values, and the group's tiles
/// are the caller's to write.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn x(x: *const f32, to: &Columns, group: usize) {
    let k = to.steps * STEP;
    let first = (group * ROWS).min(to.t);
    let rows = (to.t - first).min(ROWS);
    let (width, pitch) = (to.width(), to.pitch());
    let mask = ((1u32 << width) - 1) as u16;
    // SAFETY: `rows` rows from `first` on exist, and so do whole steps of them; a tile takes 16
    // pitches of at least `width` pairs.
    unsafe {
        let x = x.add(first * k);
        for block in to.blocks() {
            let tiles = to.group(group, &block);
            for (i, step) in block.enumerate() {
                let tile = tiles.add(i * to.tile_bytes());
                let mut pairs = [_mm512_setzero_ps(); ROWS];
                for row in 0..rows {
                    let values = x.add(row * k + step * STEP);
                    let (low, high) = (_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(16)));
                    pairs[row] = transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
                }
                if to.is_swept() {
                    for (row, values) in pairs.into_iter().enumerate() {
                        _mm512_storeu_ps(tile.add(row * pitch).cast(), values);
                    }
                    continue;
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
}

/// Bytes of one step of [`weights`].
pub(super) const PAIR_BYTES: usize = 2 * ROWS * 2 * STEP;

/// Packs two tiles of weight rows, `[step][2][16 pairs of K][row][2]`.
///
/// # Safety
/// AVX-512 is present; 16 rows of `64 * steps` bytes, `stride` apart, can be read at both places of
/// `from`, and `steps * PAIR_BYTES` bytes be written at `to`, a cache line.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn weights(from: [*const u8; 2], stride: usize, steps: usize, to: *mut u8) {
    for step in 0..steps {
        for (i, from) in from.into_iter().enumerate() {
            // SAFETY: inside what the caller vouches for.
            unsafe {
                let row = |row| _mm512_loadu_ps(from.add(row * stride + step * 64).cast());
                let tile = to.add(step * PAIR_BYTES + i * PAIR_BYTES / 2);
                for (pair, values) in transpose(std::array::from_fn(row)).into_iter().enumerate() {
                    _mm512_store_ps(tile.add(pair * 64).cast(), values);
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
