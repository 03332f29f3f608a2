//! The loops of x86: AMX, AVX-512, AVX2, whatever the processor has.

use std::arch::x86_64::{
    __m512, __m512i, _mm256_add_ps, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm512_add_epi32, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
};
use std::hint::black_box;

use super::{Loop, sum_words};
use crate::amx;

/// Chains that a loop keeps going side by side: more than latency times throughput of any of the
/// instructions, and few enough for the registers.
const CHAINS: usize = 16;

/// The widest f32 multiply-adds.
pub(super) fn f32_loop() -> Option<Loop> {
    if is_x86_feature_detected!("avx512f") {
        let run = |rounds| {
            // SAFETY: AVX-512 F was detected.
            unsafe { f32_avx512(rounds) }
        };
        return Some(Loop { instructions: "avx512f", ops: CHAINS * 2 * 16, run });
    }
    let has_fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    has_fma.then(|| {
        let run = |rounds| {
            // SAFETY: AVX2 and FMA were detected.
            unsafe { f32_fma(rounds) }
        };
        Loop { instructions: "fma", ops: FMA_CHAINS * 2 * 8, run }
    })
}

/// bf16 products on the matrix unit, else of AVX-512.
pub(super) fn bf16_loop() -> Option<Loop> {
    if amx::is_available() {
        let run = |rounds| {
            // SAFETY: tiles of the known size with bf16 products were detected and permitted.
            unsafe { tiles_bf16(rounds) }
        };
        return Some(Loop { instructions: "amx_bf16", ops: 4 * 2 * 16 * 16 * 32, run });
    }
    let detected = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    detected.then(|| {
        let run = |rounds| {
            // SAFETY: AVX-512 F and BF16 were detected.
            unsafe { bf16_avx512(rounds) }
        };
        Loop { instructions: "avx512_bf16", ops: CHAINS * 2 * 32, run }
    })
}

/// int8 products on the matrix unit, else of AVX-512 VNNI.
pub(super) fn int8_loop() -> Option<Loop> {
    if amx::is_available() && has_tile_int8() {
        let run = |rounds| {
            // SAFETY: tiles of the known size with int8 products were detected and permitted.
            unsafe { tiles_int8(rounds) }
        };
        return Some(Loop { instructions: "amx_int8", ops: 4 * 2 * 16 * 16 * 64, run });
    }
    let detected = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
    detected.then(|| {
        let run = |rounds| {
            // SAFETY: AVX-512 F and VNNI were detected.
            unsafe { int8_avx512(rounds) }
        };
        Loop { instructions: "avx512_vnni", ops: CHAINS * 2 * 64, run }
    })
}

/// AMX-INT8 is bit 25, beside the bits that `amx` asks for.
fn has_tile_int8() -> bool {
    std::arch::x86_64::__cpuid_count(7, 0).edx >> 25 & 1 == 1
}

/// [`sum_words`] with the widest vectors.
pub(super) fn sum(bytes: &[u8], streams: usize) -> u64 {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: AVX-512 F was detected.
        unsafe { sum_avx512(bytes, streams) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was detected.
        unsafe { sum_avx2(bytes, streams) }
    } else {
        sum_words(bytes, streams)
    }
}

#[target_feature(enable = "avx512f")]
fn sum_avx512(bytes: &[u8], streams: usize) -> u64 {
    sum_words(bytes, streams)
}

#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8], streams: usize) -> u64 {
    sum_words(bytes, streams)
}

/// Applies an expression to sixteen chains. Written out: an inner loop over an array may put the
/// chains into memory.
macro_rules! step {
    ($sums:ident, $chain:ident => $next:expr) => {{
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = $sums;
        step!(@each $sums, $chain => $next, a b c d e f g h i j k l m n o p)
    }};
    (@each $sums:ident, $chain:ident => $next:expr, $($name:ident)*) => {
        $sums = [$({ let $chain = $name; $next }),*]
    };
}

#[target_feature(enable = "avx512f")]
fn f32_avx512(rounds: usize) {
    let x = _mm512_set1_ps(black_box(0.5));
    let mut sums: [__m512; CHAINS] = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        step!(sums, chain => _mm512_fmadd_ps(chain, x, x));
    }
    black_box(sums.into_iter().fold(x, |total, sum| _mm512_add_ps(total, sum)));
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_avx512(rounds: usize) {
    let half = _mm512_set1_ps(black_box(0.5));
    let x = _mm512_cvtne2ps_pbh(half, half);
    let mut sums: [__m512; CHAINS] = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        step!(sums, chain => _mm512_dpbf16_ps(chain, x, x));
    }
    black_box(sums.into_iter().fold(half, |total, sum| _mm512_add_ps(total, sum)));
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_avx512(rounds: usize) {
    let x = _mm512_set1_epi8(black_box(1));
    let mut sums: [__m512i; CHAINS] = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..rounds {
        step!(sums, chain => _mm512_dpbusd_epi32(chain, x, x));
    }
    black_box(sums.into_iter().fold(x, |total, sum| _mm512_add_epi32(total, sum)));
}

/// AVX2 has sixteen registers in all: the chains, and one for the factor.
const FMA_CHAINS: usize = 12;

#[target_feature(enable = "avx2,fma")]
fn f32_fma(rounds: usize) {
    let x = _mm256_set1_ps(black_box(0.5));
    let mut sums = [_mm256_setzero_ps(); FMA_CHAINS];
    for _ in 0..rounds {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = sums;
        step!(@each sums, chain => _mm256_fmadd_ps(chain, x, x), a b c d e f g h i j k l);
    }
    black_box(sums.into_iter().fold(x, |total, sum| _mm256_add_ps(total, sum)));
}

/// Four independent chains of products of tiles per round, of zeros.
macro_rules! tile_loop {
    ($name:ident, $product:literal) => {
        /// # Safety
        /// The processor has the matrix unit with this product, and this process may use it.
        unsafe fn $name(rounds: usize) {
            let whole = TileConfiguration::eight();
            // SAFETY: the caller vouches for the instructions, which read `whole` and change tiles
            // only.
            unsafe {
                std::arch::asm!(
                    "ldtilecfg [{configuration}]",
                    "2:",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    concat!($product, " tmm1, tmm4, tmm7"),
                    concat!($product, " tmm2, tmm5, tmm6"),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    "tilerelease",
                    configuration = in(reg) &raw const whole,
                    rounds = inout(reg) rounds => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

tile_loop!(tiles_bf16, "tdpbf16ps");
tile_loop!(tiles_int8, "tdpbusd");

/// The operand of `ldtilecfg`.
#[repr(align(64))]
struct TileConfiguration([u8; 64]);

impl TileConfiguration {
    /// Eight tiles of sixteen rows of 64 bytes.
    fn eight() -> Self {
        let mut whole = Self([0; 64]);
        whole.0[0] = 1;
        for tile in 0..8 {
            // Bytes per row, rows.
            whole.0[16 + 2 * tile] = 64;
            whole.0[48 + tile] = 16;
        }
        whole
    }
}
