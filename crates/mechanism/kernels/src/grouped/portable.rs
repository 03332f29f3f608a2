//! Products without any assumption: the oracle of the other instruction sets.

use super::activations::Row;
use super::panel::{GroupDot, Tile, strips};
use super::{GROUP, ROWS, scale_bytes};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

// SAFETY: reads what the tile's shape says, and needs no instruction set.
unsafe impl GroupDot for Portable {
    strips!(1);

    #[inline(always)]
    unsafe fn tile<const MR: usize, const INT4: bool>(t: &Tile) -> [[f32; ROWS]; MR] {
        let mut sums = [[0.0f32; ROWS]; MR];
        let bytes = if INT4 { GROUP * ROWS / 2 } else { GROUP * ROWS };
        for group in 0..t.groups {
            // SAFETY: the caller vouches for all groups of the tile and of `MR` rows of `x`.
            unsafe {
                let scales = t.w.add(group * 2 * ROWS).cast::<[u16; ROWS]>().read_unaligned();
                let w = t.w.add(scale_bytes(t.groups) + group * bytes);
                for m in 0..MR {
                    let x = Row::new(t.x.add(m * t.x_stride), t.groups, INT4);
                    let mut exact = [*x.starts.add(group); ROWS];
                    for k in 0..GROUP {
                        let number =
                            i32::from(x.numbers.add(group * GROUP + k).cast::<i8>().read());
                        for row in 0..ROWS {
                            exact[row] += number * code::<INT4>(w, row, k);
                        }
                    }
                    let x_scale = *x.scales.add(group);
                    for row in 0..ROWS {
                        let scale = f32::from_bits(u32::from(scales[row]) << 16) * x_scale;
                        sums[m][row] = (exact[row] as f32).mul_add(scale, sums[m][row]);
                    }
                }
            }
        }
        sums
    }
}

/// Weight `k` of output `row` as stored.
#[inline(always)]
unsafe fn code<const INT4: bool>(w: *const u8, row: usize, k: usize) -> i32 {
    // SAFETY: the caller vouches for the group at `w`.
    unsafe {
        if INT4 {
            let both = *w.add(k / 8 * 64 + row * 4 + k % 4);
            i32::from(if k % 8 < 4 { both & 15 } else { both >> 4 })
        } else {
            i32::from(*w.add(k / 4 * 64 + row * 4 + k % 4))
        }
    }
}
