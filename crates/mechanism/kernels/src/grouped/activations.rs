//! Activations rounded to 8 bits, by row and group.
//!
//! A prepared row of `G` groups is `[G, 32]` signed numbers, `[G]` f32 scales, and twice `[G]` i32:
//! where the sum of a group starts, so that the unsigned form of 8-bit and of 4-bit weights is made
//! good.

use super::GROUP;

/// The smallest magnitude whose inverse is finite with room to spare; less counts as zero.
const TINY: f32 = 1e-30;
/// Adding this rounds to a whole number, ties to even, and leaves it in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// Bytes of a prepared row.
pub(crate) const fn row_bytes(groups: usize) -> usize {
    groups * (GROUP + 12)
}

/// Where the parts of a prepared row are.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) numbers: *const u8,
    pub(crate) scales: *const f32,
    pub(crate) starts: *const i32,
}

impl Row {
    /// The row at `at`; `int4` chooses the starts.
    #[inline(always)]
    pub(crate) fn new(at: *const u8, groups: usize, int4: bool) -> Row {
        let scales = at.wrapping_add(groups * GROUP).cast::<f32>();
        let starts = scales.wrapping_add(groups * (1 + usize::from(int4))).cast();
        Row { numbers: at, scales, starts }
    }
}

/// Prepares rows `0..rows` of `x` (`k` values each) at `to`, `stride` bytes apart.
///
/// A value that is not finite makes its group's scale NaN, and so every output of the row.
///
/// # Safety
/// `x` holds the rows; `to` is aligned to 4 bytes, as is `stride`, which is at least
/// [`row_bytes`], and is valid for writes of the rows.
#[inline(always)]
pub(crate) unsafe fn prepare(x: *const f32, rows: usize, k: usize, to: *mut u8, stride: usize) {
    let groups = super::groups(k);
    for row in 0..rows {
        for group in 0..groups {
            let first = group * GROUP;
            // SAFETY: the group lies in the row as far as `k` goes, and the parts of a prepared
            // row in its stride.
            unsafe {
                let count = GROUP.min(k - first);
                let mut values = [0.0f32; GROUP];
                let from = x.add(row * k + first);
                if count == GROUP {
                    values = from.cast::<[f32; GROUP]>().read();
                } else {
                    std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
                }
                let (numbers, scale, sum) = round(&values);
                let to = to.add(row * stride);
                to.add(first).cast::<[i8; GROUP]>().write(numbers);
                let scales = to.add(groups * GROUP).cast::<f32>();
                scales.add(group).write(scale);
                let starts = scales.add(groups).cast::<i32>();
                starts.add(group).write(-128 * sum);
                starts.add(groups + group).write(-8 * sum);
            }
        }
    }
}

/// Numbers, scale, and the sum of the numbers.
#[inline(always)]
fn round(values: &[f32; GROUP]) -> ([i8; GROUP], f32, i32) {
    let largest = largest(values);
    if largest < TINY {
        return ([0; GROUP], 0.0, 0);
    }
    if !largest.is_finite() {
        return ([0; GROUP], f32::NAN, 0);
    }
    let inverse = 127.0 / largest;
    let mut numbers = [0; GROUP];
    let mut sum = 0;
    for i in 0..GROUP {
        let number = to_whole(values[i] * inverse);
        numbers[i] = number as i8;
        sum += number;
    }
    (numbers, largest / 127.0, sum)
}

/// The largest magnitude; NaN counts as larger than everything. Magnitudes order like their bits.
#[inline(always)]
pub(super) fn largest(values: &[f32; GROUP]) -> f32 {
    let mut bits = 0;
    for value in values {
        bits = (value.to_bits() & 0x7fff_ffff).max(bits);
    }
    f32::from_bits(bits)
}

/// The nearest whole number, ties to even, of a value below 2^21 in magnitude.
#[inline(always)]
pub(super) fn to_whole(value: f32) -> i32 {
    (value + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32
}
