//! Products with AVX2: pairs of bytes are multiplied and added to 16 bits, which must not saturate.

use std::arch::x86_64::*;

use super::activations::Row;
use super::panel::{GroupDot, Tile, strips};
use super::{GROUP, ROWS, scale_bytes};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY: reads what the tile's shape says; AVX2 and FMA are the caller's promise.
unsafe impl GroupDot for Avx2 {
    strips!(2 1);

    #[inline(always)]
    unsafe fn tile<const MR: usize, const INT4: bool>(t: &Tile) -> [[f32; ROWS]; MR] {
        // SAFETY: the caller vouches for all groups of the tile and of `MR` rows of `x`.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; MR];
            let mut w = t.w.add(scale_bytes(t.groups));
            for group in 0..t.groups {
                let exact = if INT4 {
                    let exact = int4::<MR>(t, w, group);
                    w = w.add(GROUP * ROWS / 2);
                    exact
                } else {
                    let exact = int8::<MR>(t, w, group);
                    w = w.add(GROUP * ROWS);
                    exact
                };
                for half in 0..2 {
                    let scales = t.w.add((group * 2 + half) * ROWS).cast::<__m128i>();
                    let scales = _mm256_cvtepu16_epi32(_mm_loadu_si128(scales));
                    let scales = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(scales));
                    for m in 0..MR {
                        let x = Row::new(t.x.add(m * t.x_stride), t.groups, INT4);
                        let scale = _mm256_mul_ps(scales, _mm256_set1_ps(*x.scales.add(group)));
                        let exact = _mm256_cvtepi32_ps(exact[m][half]);
                        sums[m][half] = _mm256_fmadd_ps(exact, scale, sums[m][half]);
                    }
                }
            }
            let mut out = [[0.0; ROWS]; MR];
            for m in 0..MR {
                _mm256_storeu_ps(out[m].as_mut_ptr(), sums[m][0]);
                _mm256_storeu_ps(out[m].as_mut_ptr().add(8), sums[m][1]);
            }
            out
        }
    }
}

/// The sign of `x` moves to the weight, so that `x` can be the unsigned operand: a pair is at most
/// 2 * 127 * 127.
#[inline(always)]
unsafe fn int8<const MR: usize>(t: &Tile, w: *const u8, group: usize) -> [[__m256i; 2]; MR] {
    // SAFETY: as for the tile.
    unsafe {
        let mut exact = [[_mm256_setzero_si256(); 2]; MR];
        for step in 0..GROUP / 4 {
            for half in 0..2 {
                let codes = _mm256_loadu_si256(w.add(step * 64 + half * 32).cast());
                let numbers = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                for m in 0..MR {
                    let x = four(t, m, group * GROUP + step * 4);
                    let signed = _mm256_sign_epi8(numbers, x);
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), signed);
                    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    exact[m][half] = _mm256_add_epi32(exact[m][half], fours);
                }
            }
        }
        exact
    }
}

/// A pair is at most 2 * 15 * 127, so that eight of them fit in 16 bits.
#[inline(always)]
unsafe fn int4<const MR: usize>(t: &Tile, w: *const u8, group: usize) -> [[__m256i; 2]; MR] {
    // SAFETY: as for the tile.
    unsafe {
        let mut pairs = [[_mm256_setzero_si256(); 2]; MR];
        let low = _mm256_set1_epi8(15);
        for step in 0..GROUP / 8 {
            for half in 0..2 {
                let both = _mm256_loadu_si256(w.add(step * 64 + half * 32).cast());
                let first = _mm256_and_si256(both, low);
                let second = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
                for m in 0..MR {
                    let k = group * GROUP + step * 8;
                    let a = _mm256_maddubs_epi16(first, four(t, m, k));
                    let b = _mm256_maddubs_epi16(second, four(t, m, k + 4));
                    pairs[m][half] = _mm256_add_epi16(pairs[m][half], _mm256_add_epi16(a, b));
                }
            }
        }
        for m in 0..MR {
            let start = *Row::new(t.x.add(m * t.x_stride), t.groups, true).starts.add(group);
            for half in 0..2 {
                let fours = _mm256_madd_epi16(pairs[m][half], _mm256_set1_epi16(1));
                pairs[m][half] = _mm256_add_epi32(fours, _mm256_set1_epi32(start));
            }
        }
        pairs
    }
}

/// Four numbers of row `m` from `k` on, for every output.
#[inline(always)]
unsafe fn four(t: &Tile, m: usize, k: usize) -> __m256i {
    // SAFETY: the caller vouches for the numbers.
    unsafe { _mm256_set1_epi32(t.x.add(m * t.x_stride + k).cast::<i32>().read_unaligned()) }
}
