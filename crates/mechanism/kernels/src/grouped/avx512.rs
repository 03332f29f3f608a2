//! Products with AVX-512 VNNI: four products of bytes are added to 32 bits in one instruction.

use std::arch::x86_64::*;

use super::activations::Row;
use super::panel::{GroupDot, Tile, strips};
use super::{GROUP, ROWS, scale_bytes};

#[derive(Clone, Copy)]
pub(crate) struct Vnni;

// SAFETY: reads what the tile's shape says; AVX-512 F and VNNI are the caller's promise.
unsafe impl GroupDot for Vnni {
    // Twelve rows of two accumulators each leave eight registers.
    strips!(12 8 6 4 3 2 1);

    #[inline(always)]
    unsafe fn tile<const MR: usize, const INT4: bool>(t: &Tile) -> [[f32; ROWS]; MR] {
        // SAFETY: the caller vouches for all groups of the tile and of `MR` rows of `x`.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); MR];
            let mut w = t.w.add(scale_bytes(t.groups));
            let rows = Row::new(t.x, t.groups, INT4);
            for group in 0..t.groups {
                let mut exact = [_mm512_setzero_si512(); MR];
                for m in 0..MR {
                    let start = rows.starts.byte_add(m * t.x_stride).add(group);
                    exact[m] = _mm512_set1_epi32(*start);
                }
                let x = rows.numbers.add(group * GROUP);
                if INT4 {
                    let low = _mm512_set1_epi8(15);
                    for step in 0..GROUP / 8 {
                        let both = _mm512_loadu_si512(w.add(step * 64).cast());
                        ahead(w.add(step * 64));
                        let first = _mm512_and_si512(both, low);
                        let second = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
                        for m in 0..MR {
                            let x = x.add(m * t.x_stride + step * 8);
                            exact[m] = _mm512_dpbusd_epi32(exact[m], first, four(x));
                            exact[m] = _mm512_dpbusd_epi32(exact[m], second, four(x.add(4)));
                        }
                    }
                    w = w.add(GROUP * ROWS / 2);
                } else {
                    for step in 0..GROUP / 4 {
                        let codes = _mm512_loadu_si512(w.add(step * 64).cast());
                        ahead(w.add(step * 64));
                        for m in 0..MR {
                            let x = four(x.add(m * t.x_stride + step * 4));
                            exact[m] = _mm512_dpbusd_epi32(exact[m], codes, x);
                        }
                    }
                    w = w.add(GROUP * ROWS);
                }
                let scales = _mm256_loadu_si256(t.w.add(group * 2 * ROWS).cast());
                let scales = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales));
                let scales = _mm512_castsi512_ps(scales);
                for m in 0..MR {
                    let x_scale = *rows.scales.byte_add(m * t.x_stride).add(group);
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x_scale));
                    sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact[m]), scale, sums[m]);
                }
            }
            let mut out = [[0.0; ROWS]; MR];
            for m in 0..MR {
                _mm512_storeu_ps(out[m].as_mut_ptr(), sums[m]);
            }
            out
        }
    }
}

/// Asks for the numbers a page further on. The processor's own prefetcher ends at the end of each page
/// and begins anew: alone, 4-bit weights came from memory at two thirds of this rate (Emerald Rapids).
#[inline(always)]
unsafe fn ahead(w: *const u8) {
    const DISTANCE: usize = 4096;
    // SAFETY: prefetches never fault.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(DISTANCE).cast()) }
}

/// Four numbers for every output.
#[inline(always)]
unsafe fn four(x: *const u8) -> __m512i {
    // SAFETY: the caller vouches for the numbers.
    unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
}
