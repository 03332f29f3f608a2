//! bf16 linear layers on the matrix unit (AMX): 16 x 16 outputs per instruction.
//!
//! Two orders, which differ in what lies still. Up to [`panel::STREAM_ROWS`] rows of `x`, weights stream from
//! memory past all of `x`, which stays in L2 ([`stream`]): `outᵀ = w·xᵀ`, where a tile of `w` is 16
//! weight rows by 32 values of `K`, loaded from the row-major file as it lies, and a tile of `x` is 32
//! values of `K` by up to 16 rows of `x`, pairs of `K` side by side as the instruction wants them,
//! packed once per call ([`pack_x`]). With more rows, 32 rows of weights at a time are packed and sweep
//! past `x`, of which a block of `K` stays in L2 ([`sweep`]): `out = x·wᵀ`, so that sums come as rows of
//! the output, and it is `w` whose pairs of `K` lie side by side. Two tiles of one meet one or two of the
//! other.
//!
//! A step of four products takes 64 cycles; from L2 with its loads 90 where tiles are whole, 150 where
//! rows are not on cache lines, as most weights in files, and three times as much while another
//! processor's thread keeps the same core busy (Emerald Rapids). Outputs that lie on cache lines
//! ([`crate::Floats`]) add 40, others 80.
//!
//! Determinism. One output is one chain of `TDPBF16PS`, over `K` from 0 in steps of 32, whatever
//! the order, the tile's width or its place in a tile: each sum of a tile is computed from its own
//! row and column alone. `K` is never split. Weights that do not fit ([`fits`]) take the AVX-512
//! kernels for every number of rows, so a row's bits never depend on the batch.
//!
//! Numbers. Activations are rounded to bf16 (nearest even). The instruction adds the products of
//! the 16 even values of `K` in order, those of the odd ones likewise, then both to the sum; it
//! rounds to nearest even, treats denormal inputs as zero and flushes denormal results, whatever
//! the thread's settings; NaN and infinity propagate.
//!
//! Source: Intel Architecture Instruction Set Extensions Programming Reference (319433), chapter
//! "Intel AMX instruction set reference"; permission: Linux `Documentation/arch/x86/xstate.rst`.

mod pack;
mod panel;
mod tiles;

use std::sync::OnceLock;

use crate::tensor::{DType, Matrix};

pub(crate) use pack::{Columns, x as pack_x};
pub(crate) use panel::{
    Gated, Panel, block_bytes, block_rows, stream, sums_bytes, sweep, sweep_bytes,
};

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Values of `K` per step.
pub(crate) const STEP: usize = 32;

/// Whether the matrix unit can take the weight: a property of the weight alone.
pub(crate) fn fits(weight: &Matrix<'_>) -> bool {
    let whole = weight.cols > 0 && weight.cols.is_multiple_of(STEP);
    weight.dtype == DType::BF16 && whole && weight.rows >= ROWS
}

/// Whether the processor has tiles of the known size with bf16 products, and the kernel lets this
/// process use them. Asks once.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && permitted())
}

fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 0x1d {
        return false;
    }
    // SAFETY: `xsave` was detected, which includes that the kernel has enabled it.
    let enabled = unsafe { std::arch::x86_64::_xgetbv(0) } >> 17 & 3 == 3;
    // AMX-BF16 is bit 22, AMX-TILE bit 24.
    let tiles = __cpuid_count(7, 0).edx >> 22 & 0b101 == 0b101;
    let palette = __cpuid_count(0x1d, 1);
    let shape = (palette.ebx & 0xffff, palette.ebx >> 16, palette.ecx & 0xffff);
    enabled && tiles && shape == (64, 8, 16)
}

/// Asks the kernel for tile state. It is off by default, because it makes every signal frame 8 KiB
/// larger; the permission is the process's, and a child gets it with a fork but not with an exec.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call without pointers; it changes what this process may do and no memory.
    // The clobbers are those of the instruction.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have their own ways, which are not written yet.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
