//! The instructions. Tiles 0 to 3 hold sums, 4 and 5 weights, 6 and 7 activations.

use std::arch::asm;
use std::marker::PhantomData;

use super::ROWS;

/// One tile of sums as it is stored.
pub(super) type Sums = [[f32; 16]; 16];

/// Sums by tile of `w`, then tile of `x`.
#[repr(C, align(64))]
pub(super) struct Products(pub(super) [[Sums; 2]; 2]);

impl Products {
    pub(super) const ZERO: Products = Products([[[[0.0; 16]; 16]; 2]; 2]);
}

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

/// Asks for a line that is to be written: any address.
#[inline(always)]
pub(super) fn expect(at: *const f32) {
    // SAFETY: prefetches never fault, and what has a matrix unit has this one.
    unsafe {
        asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

/// Two tiles of weight rows as they lie in a file.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// Row 0 of each at `K` = 0.
    pub(super) at: [*const u8; 2],
    /// Bytes between rows.
    pub(super) stride: usize,
    /// What to prefetch meanwhile: the next lines of each, in the first `ahead_steps` steps.
    pub(super) ahead: [*const u8; 2],
    pub(super) ahead_steps: usize,
}

/// Asks for the next `lines` lines at both places.
macro_rules! ahead {
    () => {
        concat!(
            ".rept {lines} / 4\n",
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
        )
    };
}

/// A step of [`one`].
macro_rules! one_step {
    () => {
        concat!(
            "tileloadd tmm6, [{x} + {pitch}]\n",
            "tileloadd tmm4, [{w0} + {stride}]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tileloadd tmm5, [{w1} + {stride}]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "add {w0}, 64\n",
            "add {w1}, 64\n",
            "add {x}, {x_step}\n",
        )
    };
}

/// A step of two tiles of weights times two of `x`, which `$load` loads.
macro_rules! two_step {
    ($load:literal) => {
        concat!(
            $load,
            " tmm6, [{x0} + {pitch}]\n",
            $load,
            " tmm4, [{w0} + {stride}]\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            $load,
            " tmm7, [{x1} + {pitch}]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            $load,
            " tmm5, [{w1} + {stride}]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            "add {w0}, {w_step}\n",
            "add {w1}, {w_step}\n",
            "add {x0}, {x_step}\n",
            "add {x1}, {x_step}\n",
        )
    };
}

/// Two tiles of weights times one tile of `x` per step, whose rows are `pitch` bytes apart. Asks
/// for `LINES` lines ahead at a time, a multiple of four.
///
/// # Safety
/// Tiles are configured; `steps > 0` steps are readable on both sides (what is ahead may be any
/// address), and `w.ahead_steps` are no more than `steps`.
#[inline(always)]
pub(super) unsafe fn one<const LINES: usize>(
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
            "test {first}, {first}",
            "jz 3f",
            "2:",
            one_step!(),
            ahead!(),
            "dec {first}",
            "jnz 2b",
            "3:",
            "test {rest}, {rest}",
            "jz 5f",
            "4:",
            one_step!(),
            "dec {rest}",
            "jnz 4b",
            "5:",
            "mov {stride}, 64",
            "tilestored [{to} + {stride}], tmm0",
            "tilestored [{to} + {stride} + 2048], tmm2",
            lines = const LINES,
            x = inout(reg) x => _,
            pitch = in(reg) pitch,
            x_step = in(reg) pitch * 16,
            w0 = inout(reg) w.at[0] => _,
            w1 = inout(reg) w.at[1] => _,
            stride = inout(reg) w.stride => _,
            a0 = inout(reg) w.ahead[0] => _,
            a1 = inout(reg) w.ahead[1] => _,
            first = inout(reg) w.ahead_steps => _,
            rest = inout(reg) steps - w.ahead_steps => _,
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
pub(super) unsafe fn two<const LINES: usize>(
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
            "test {first}, {first}",
            "jz 3f",
            "2:",
            two_step!("tileloadd"),
            ahead!(),
            "dec {first}",
            "jnz 2b",
            "3:",
            "test {rest}, {rest}",
            "jz 5f",
            "4:",
            two_step!("tileloadd"),
            "dec {rest}",
            "jnz 4b",
            "5:",
            "tilestored [{to} + {pitch}], tmm0",
            "tilestored [{to} + {pitch} + 1024], tmm1",
            "tilestored [{to} + {pitch} + 2048], tmm2",
            "tilestored [{to} + {pitch} + 3072], tmm3",
            lines = const LINES,
            x0 = inout(reg) x[0] => _,
            x1 = inout(reg) x[1] => _,
            pitch = in(reg) 64usize,
            w0 = inout(reg) w.at[0] => _,
            w1 = inout(reg) w.at[1] => _,
            w_step = const 64,
            x_step = const 1024,
            stride = in(reg) w.stride,
            a0 = inout(reg) w.ahead[0] => _,
            a1 = inout(reg) w.ahead[1] => _,
            first = inout(reg) w.ahead_steps => _,
            rest = inout(reg) steps - w.ahead_steps => _,
            to = in(reg) std::ptr::from_mut(to),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// What to prefetch during a sweep past one of several pairs: some rows of the weights that come next.
pub(super) struct Ahead {
    /// The first row.
    at: *const u8,
    /// Bytes between rows.
    stride: usize,
    /// Rows; a line of each per step.
    rows: usize,
}

impl Ahead {
    /// The share of pair `pair` of `pairs` in two tiles whose rows begin at `tiles`.
    pub(super) fn new(
        tiles: [*const u8; 2],
        stride: usize,
        (pair, pairs): (usize, usize),
    ) -> Ahead {
        let rows = (2 * ROWS).div_ceil(pairs).next_power_of_two().min(ROWS);
        let first = pair * rows;
        let at = tiles[first / ROWS % 2].wrapping_add(first % ROWS * stride);
        Ahead { at, stride, rows: if first < 2 * ROWS { rows } else { 0 } }
    }
}

/// Packed weights, `[step][2]` tiles at `w`, times two rows of tiles at `x`, added to the products
/// of earlier steps, or to nothing when `FRESH` is 1. Sums are by tile of `x`, then tile of `w`. What is
/// loaded comes from L2 and is not asked to stay in L1: 84 cycles a step instead of 92 (Emerald Rapids).
///
/// # Safety
/// Tiles of 16 columns are configured; `steps > 0` steps are readable on both sides (what is ahead may
/// be any address).
#[inline(always)]
pub(super) unsafe fn swept<const FRESH: usize>(
    x: [*const u8; 2],
    w: *const u8,
    steps: usize,
    ahead: &Ahead,
    to: *mut Products,
) {
    // SAFETY: reads what the caller vouches for, and reads and writes the whole of `to`; prefetches
    // never fault. All registers it changes are listed.
    unsafe {
        asm!(
            ".if {fresh}",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            ".else",
            "tileloadd tmm0, [{to} + {pitch}]",
            "tileloadd tmm1, [{to} + {pitch} + 1024]",
            "tileloadd tmm2, [{to} + {pitch} + 2048]",
            "tileloadd tmm3, [{to} + {pitch} + 3072]",
            ".endif",
            "2:",
            two_step!("tileloaddt1"),
            "mov {line}, {ahead}",
            "mov {row}, {rows}",
            "test {row}, {row}",
            "jz 4f",
            "3:",
            "prefetcht1 [{line}]",
            "add {line}, {ahead_stride}",
            "dec {row}",
            "jnz 3b",
            "4:",
            "add {ahead}, 64",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{to} + {pitch}], tmm0",
            "tilestored [{to} + {pitch} + 1024], tmm1",
            "tilestored [{to} + {pitch} + 2048], tmm2",
            "tilestored [{to} + {pitch} + 3072], tmm3",
            fresh = const FRESH,
            w0 = inout(reg) x[0] => _,
            w1 = inout(reg) x[1] => _,
            w_step = const 1024,
            x0 = inout(reg) w => _,
            x1 = inout(reg) w.wrapping_add(1024) => _,
            x_step = const 2048,
            pitch = in(reg) 64usize,
            stride = in(reg) 64usize,
            ahead = inout(reg) ahead.at => _,
            ahead_stride = in(reg) ahead.stride,
            rows = in(reg) ahead.rows,
            line = out(reg) _,
            row = out(reg) _,
            steps = inout(reg) steps => _,
            to = in(reg) to,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
