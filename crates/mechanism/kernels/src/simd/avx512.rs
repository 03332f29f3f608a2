//! Sixteen lanes, and bf16 dot products.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::transmute;

use super::avx2::fresh;
use super::{Dot, Lanes, XForm};

/// Sixteen lanes of AVX-512. `BF16`: with the processor's own rounding to bf16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(__m512);

// SAFETY: every load and store is the unaligned one of sixteen values.
unsafe impl<const BF16: bool> Lanes for Avx512<BF16> {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_every_other<const ODD: bool>(p: *const u16) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let pairs = _mm512_loadu_si512(fresh::<ODD, _>(p).cast());
            let bits = if ODD {
                _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))
            } else {
                _mm512_slli_epi32::<16>(pairs)
            };
            Self(_mm512_castsi512_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn unzip(low: Self, high: Self) -> (Self, Self) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            let evens = _mm512_permutex2var_ps(low.0, even, high.0);
            (Self(evens), Self(_mm512_permutex2var_ps(low.0, odd, high.0)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<0>(self.0)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let words = if BF16 {
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0))
            } else {
                let bits = _mm512_castps_si512(self.0);
                let high = _mm512_srli_epi32::<16>(bits);
                let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
                let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
                let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
                // Rounding could carry a NaN into infinity: those keep their top half, made quiet.
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                let quiet = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
                _mm512_cvtepi32_epi16(quiet)
            };
            _mm256_storeu_si256(p.cast(), words);
        }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_add_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_sub_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_mul_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_div_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_max_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_min_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_fmadd_ps(self.0, a.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Self(_mm512_roundscale_ps::<8>(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn select_lt(self, o: Self, a: Self, b: Self) -> Self {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, o.0);
            Self(_mm512_mask_blend_ps(less, b.0, a.0))
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
        unsafe {
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            super::avx2::sum8(_mm256_add_ps(_mm512_castps512_ps256(self.0), high))
        }
    }
    #[inline(always)]
    unsafe fn sum4(v: [Self; 4]) -> [f32; 4] {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let upper = black_box(UPPER);
            let quarters = quarters(halves(v[0].0, v[1].0, upper), halves(v[2].0, v[3].0, upper));
            let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0x4e>(quarters));
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0xb1>(pairs));
            let firsts = _mm512_setr_epi32(0, 8, 4, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let four = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, sums));
            transmute::<__m128, [f32; 4]>(four)
        }
    }
    #[inline(always)]
    unsafe fn sum4x2(v: [[Self; 4]; 2]) -> [[f32; 4]; 2] {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let upper = black_box(UPPER);
            let [a, b] = v;
            // Quarters of 128 bits: a0, a1, b0, b1, and the same of 2 and 3.
            let low = quarters(halves(a[0].0, b[0].0, upper), halves(a[1].0, b[1].0, upper));
            let high = quarters(halves(a[2].0, b[2].0, upper), halves(a[3].0, b[3].0, upper));
            let pairs = pairs(low, high);
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0xb1>(pairs));
            let firsts = _mm512_setr_epi32(0, 4, 2, 6, 8, 12, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
            let eight = _mm512_castps512_ps256(_mm512_permutexvar_ps(firsts, sums));
            transmute::<__m256, [[f32; 4]; 2]>(eight)
        }
    }
    #[inline(always)]
    unsafe fn sum4x4(v: [[Self; 4]; 4]) -> [[f32; 4]; 4] {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            let upper = black_box(UPPER);
            let [a, b, c, d] = v;
            let mut columns = [a[0].0; 4];
            for n in 0..4 {
                columns[n] = quarters(halves(a[n].0, c[n].0, upper), halves(b[n].0, d[n].0, upper));
            }
            let even = pairs(columns[0], columns[2]);
            let odd = pairs(columns[1], columns[3]);
            let turned =
                _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
            let swapped = _mm512_permutex2var_ps(even, turned, odd);
            let kept = _mm512_mask_blend_ps(0xaaaa, even, odd);
            transmute::<__m512, [[f32; 4]; 4]>(_mm512_add_ps(kept, swapped))
        }
    }
}

/// bf16 weights times activations rounded to bf16, 32 values of `K` per instruction.
///
/// The instruction rounds to nearest even and flushes denormals, whatever the thread's settings.
pub(crate) struct Dpbf16;

// SAFETY: a step is one 64-byte vector of bf16 on both sides; the partial load is masked.
unsafe impl Dot for Dpbf16 {
    type X = __m512bh;
    type W = __m512bh;
    type Acc = Avx512<true>;
    const STEP: usize = 32;
    const X_FORM: XForm = XForm::Bf16;
    const MAX_M: usize = 6;
    const BLOCK: usize = 1024;
    const X_BYTES: usize = 2;
    const W_BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load_x(p: *const u8, _part: usize) -> __m512bh {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_w(p: *const u8, _part: usize) -> __m512bh {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_w_rest(p: *const u8, _part: usize, n: usize) -> __m512bh {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe {
            transmute::<__m512i, __m512bh>(_mm512_maskz_loadu_epi16((1u32 << n) - 1, p.cast()))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: Avx512<true>, x: __m512bh, w: __m512bh) -> Avx512<true> {
        // SAFETY: as promised by the caller: instruction set, and the values behind a pointer.
        unsafe { Avx512(_mm512_dpbf16_ps(acc.0, x, w)) }
    }
    #[inline(always)]
    unsafe fn prepare(x: *const f32, k: usize, to: *mut u8) {
        // SAFETY: the caller vouches for `k` values at `x` and whole steps at `to`; masked lanes
        // are not touched by the loads.
        unsafe {
            let mut i = 0;
            while i < k.next_multiple_of(Self::STEP) {
                let n = k.saturating_sub(i).min(16);
                let mask = ((1u32 << n) - 1) as u16;
                let values = _mm512_maskz_loadu_ps(mask, x.wrapping_add(i));
                Avx512::<true>(values).store_bf16(to.cast::<u16>().add(i));
                i += 16;
            }
        }
    }
}

/// The upper half of the lanes.
const UPPER: u16 = 0xff00;

/// Adds the halves of each: the sums of `a`, then those of `b`. Here and below, half of the lanes
/// stay where they are, because a blend runs on more ports than a shuffle. The compiler would make
/// it a shuffle all the same if it saw the mask.
#[inline(always)]
unsafe fn halves(a: __m512, b: __m512, upper: u16) -> __m512 {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let kept = _mm512_mask_blend_ps(upper, a, b);
        _mm512_add_ps(kept, _mm512_shuffle_f32x4::<0x4e>(a, b))
    }
}

/// Adds the quarters of what [`halves`] made: `a`'s first, `b`'s first, `a`'s second, `b`'s second.
#[inline(always)]
unsafe fn quarters(a: __m512, b: __m512) -> __m512 {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let swap = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
        let kept = _mm512_mask_blend_ps(0xf0f0, a, b);
        _mm512_add_ps(kept, _mm512_permutex2var_ps(a, swap, b))
    }
}

/// Adds the pairs within every quarter: two sums of `a`, two of `b`.
#[inline(always)]
unsafe fn pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let kept = _mm512_mask_blend_ps(0xcccc, a, b);
        _mm512_add_ps(kept, _mm512_shuffle_ps::<0x4e>(a, b))
    }
}
