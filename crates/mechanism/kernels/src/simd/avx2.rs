//! Eight lanes with FMA and half conversions.

use std::arch::x86_64::*;

use super::Lanes;

/// Eight lanes of AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

/// The pointer; where `FRESH`, of unknown origin to the compiler. Loading the even and the odd values
/// of a step from one register would keep as many registers busy as there are weight rows, and
/// push accumulators out of them; a second load from L1 is free.
#[inline(always)]
pub(super) fn fresh<const FRESH: bool, T>(mut p: *const T) -> *const T {
    if FRESH {
        // SAFETY: no instruction.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) p, options(readonly, nostack, preserves_flags))
        };
    }
    p
}

/// Adds the upper half to the lower.
#[inline(always)]
unsafe fn half(x: __m256) -> __m128 {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)) }
}

/// Sums eight lanes: `i` meets `i + 4`, then `i + 2`, then `i + 1`.
#[inline(always)]
pub(super) unsafe fn sum8(x: __m256) -> f32 {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let x = half(x);
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}

/// Sums of four quarters of four lanes each: lane `i` meets `i + 2`, then `i + 1`.
#[inline(always)]
pub(super) unsafe fn sum_quarters([a, b, c, d]: [__m128; 4]) -> [f32; 4] {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        // (0 + 2) and (1 + 3) of each, then their sum.
        let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
        let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
        let sums = _mm_add_ps(_mm_shuffle_ps::<0x88>(ab, cd), _mm_shuffle_ps::<0xdd>(ab, cd));
        std::mem::transmute::<__m128, [f32; 4]>(sums)
    }
}

// SAFETY: every load and store is the unaligned one of eight values.
unsafe impl Lanes for Avx2 {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_every_other<const ODD: bool>(p: *const u16) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let pairs = _mm256_loadu_si256(fresh::<ODD, _>(p).cast());
            let bits = if ODD {
                _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()))
            } else {
                _mm256_slli_epi32::<16>(pairs)
            };
            Avx2(_mm256_castsi256_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn unzip(low: Self, high: Self) -> (Self, Self) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            // Halves of 128 bits in order first, since the shuffle stays inside them.
            let (a, b) = (
                _mm256_permute2f128_ps::<0x20>(low.0, high.0),
                _mm256_permute2f128_ps::<0x31>(low.0, high.0),
            );
            (Avx2(_mm256_shuffle_ps::<0x88>(a, b)), Avx2(_mm256_shuffle_ps::<0xdd>(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<0>(self.0)) }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_add_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_sub_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_mul_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_div_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_max_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_min_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_fmadd_ps(self.0, a.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx2(_mm256_round_ps::<8>(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn select_lt(self, o: Self, a: Self, b: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, o.0);
            Avx2(_mm256_blendv_ps(b.0, a.0, less))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch of an address that is not mapped does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        // SAFETY: a prefetch of an address that is not mapped does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { sum8(self.0) }
    }
    #[inline(always)]
    unsafe fn sum4(v: [Self; 4]) -> [f32; 4] {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { sum_quarters([half(v[0].0), half(v[1].0), half(v[2].0), half(v[3].0)]) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: the caller vouches for eight values.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
            // Rounding could carry a NaN into infinity: those keep their top half, made quiet.
            let quiet = _mm256_or_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let words = _mm256_blendv_epi8(rounded, quiet, nan);
            let packed = _mm256_packus_epi32(words, words);
            let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }
}
