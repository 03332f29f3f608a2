//! The instructions. Tiles 0 to 3 hold sums, 4 and 5 weights, 6 and 7 activations.

use std::arch::asm;
use std::marker::PhantomData;

/// One tile of sums as it is stored.
pub(super) type Sums = [[f32; 16]; 16];

/// Sums by tile of `w`, then tile of `x`.
#[repr(C, align(64))]
pub(super) struct Products(pub(super) [[Sums; 2]; 2]);

/// Where one thread's tiles are configured, until it is dropped: tile state that stays in use
/// makes each context switch save 8 KiB more.
pub(crate) struct Tiles {
    /// The configuration is the thread's.
    not_send: PhantomData<*const ()>,
}

/// The operand of `LDTILECFG`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Gives tiles of `x` and of sums `columns` columns (at most 16).
    ///
    /// # Safety
    /// [`super::is_available`] returned true, and no other `Tiles` of this thread is alive.
    pub(crate) unsafe fn configure(columns: usize) -> Tiles {
        let narrow = (columns.clamp(1, 16) * 4) as u16;
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].copy_from_slice(&[narrow, narrow, narrow, narrow, 64, 64, narrow, narrow]);
        rows[..8].fill(16);
        let to = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the caller vouches for the instruction; it reads the 64 bytes of `to`, and tiles
        // are registers the compiler never uses by itself.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const to,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
        Tiles { not_send: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever made the value vouched for the instruction, which empties all tiles.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Two tiles of weight rows, walked along `K`.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// Row 0 of each at `K` = 0.
    pub(super) at: [*const u8; 2],
    /// Bytes between rows.
    pub(super) stride: usize,
    /// Bytes between steps.
    pub(super) step: usize,
    /// What to prefetch meanwhile, 1024 bytes of each per step.
    pub(super) ahead: [*const u8; 2],
}

/// Asks for the next 1024 bytes at both places.
macro_rules! ahead {
    () => {
        concat!(
            ".if {prefetch}\n",
            ".rept 4\n",
            "prefetcht1 [{a0}]\n",
            "prefetcht1 [{a0} + 64]\n",
            "prefetcht1 [{a0} + 128]\n",
            "prefetcht1 [{a0} + 192]\n",
            "add {a0}, 256\n",
            "prefetcht1 [{a1}]\n",
            "prefetcht1 [{a1} + 64]\n",
            "prefetcht1 [{a1} + 128]\n",
            "prefetcht1 [{a1} + 192]\n",
            "add {a1}, 256\n",
            ".endr\n",
            ".endif\n",
        )
    };
}

/// Two tiles of weights times one tile of `x` per step, whose rows are `pitch` bytes apart. Prefetches
/// when `PREFETCH` is 1.
///
/// # Safety
/// Tiles are configured; `steps > 0` steps are readable on both sides (what is ahead may be any
/// address).
#[inline(always)]
pub(super) unsafe fn one<const PREFETCH: usize>(
    w: &Weights,
    (x, pitch): (*const u8, usize),
    steps: usize,
    to: &mut Products,
) {
    // SAFETY: reads what the caller vouches for and writes columns of `to.0[0][0]` and `to.0[1][0]`,
    // 2048 bytes apart; prefetches never fault. All registers it changes are listed.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm2",
            "2:",
            "tileloadd tmm6, [{x} + {pitch}]",
            "tileloadd tmm4, [{w0} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{w1} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(),
            "add {w0}, {w_step}",
            "add {w1}, {w_step}",
            "add {x}, {x_step}",
            "dec {steps}",
            "jnz 2b",
            "mov {stride}, 64",
            "tilestored [{to} + {stride}], tmm0",
            "tilestored [{to} + {stride} + 2048], tmm2",
            prefetch = const PREFETCH,
            x = inout(reg) x => _,
            pitch = in(reg) pitch,
            x_step = in(reg) pitch * 16,
            w0 = inout(reg) w.at[0] => _,
            w1 = inout(reg) w.at[1] => _,
            stride = inout(reg) w.stride => _,
            w_step = in(reg) w.step,
            a0 = inout(reg) w.ahead[0] => _,
            a1 = inout(reg) w.ahead[1] => _,
            steps = inout(reg) steps => _,
            to = in(reg) std::ptr::from_mut(to),
            out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack),
        );
    }
}

/// Two tiles of weights times two tiles of `x` per step, whole ones of 64-byte rows.
///
/// # Safety
/// As [`one`], with tiles of 16 columns.
#[inline(always)]
pub(super) unsafe fn two<const PREFETCH: usize>(
    w: &Weights,
    x: [*const u8; 2],
    steps: usize,
    to: &mut Products,
) {
    // SAFETY: reads what the caller vouches for and writes the whole of `to`; prefetches never
    // fault. All registers it changes are listed.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{x0} + {pitch}]",
            "tileloadd tmm4, [{w0} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x1} + {pitch}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{w1} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(),
            "add {w0}, {w_step}",
            "add {w1}, {w_step}",
            "add {x0}, 1024",
            "add {x1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{to} + {pitch}], tmm0",
            "tilestored [{to} + {pitch} + 1024], tmm1",
            "tilestored [{to} + {pitch} + 2048], tmm2",
            "tilestored [{to} + {pitch} + 3072], tmm3",
            prefetch = const PREFETCH,
            x0 = inout(reg) x[0] => _,
            x1 = inout(reg) x[1] => _,
            pitch = in(reg) 64usize,
            w0 = inout(reg) w.at[0] => _,
            w1 = inout(reg) w.at[1] => _,
            stride = in(reg) w.stride,
            w_step = in(reg) w.step,
            a0 = inout(reg) w.ahead[0] => _,
            a1 = inout(reg) w.ahead[1] => _,
            steps = inout(reg) steps => _,
            to = in(reg) std::ptr::from_mut(to),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
