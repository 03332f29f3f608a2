//! From weights to numbers in groups.
//!
//! Whatever the instruction set, the result is the same: sums keep sixteen partial sums in a fixed
//! order, and the compiler does not reorder floats.

use half::bf16;

use super::activations::{largest, to_whole};
use super::{GROUP, GroupedType, ROWS, SCALES, groups, scale_bytes};

/// Where the group's largest weight lands among -8..=7: the value stored for it before rounding.
/// Clipping it a little may make all others finer, and of two signs the negative has one step more.
const TARGETS: [f32; 16] = [
    -8.0, -7.0, -7.25, -7.5, -7.75, -8.25, -8.5, -8.75, -9.0, -9.5, -10.0, -6.5, 6.5, 7.0, 7.5, 8.0,
];

/// Writes a tile: up to 16 rows of `cols.next_multiple_of(32)` values each, one after the other.
///
/// # Panics
/// When `values` is not that long, or `tile` not [`GroupedType::tile_bytes`].
#[inline(always)]
pub(crate) fn tile(grouped: GroupedType, values: &[f32], cols: usize, tile: &mut [u8]) {
    let groups = groups(cols);
    let (scales, numbers) = tile.split_at_mut(scale_bytes(groups));
    scales.fill(0);
    let zeros = match grouped {
        GroupedType::Int8 => 0x80,
        GroupedType::Int4 => 0x88,
    };
    numbers.fill(zeros);
    let bytes = grouped.group_bytes();
    for (row, values) in values.chunks_exact((groups * GROUP).max(1)).enumerate().take(ROWS) {
        for (group, values) in values.as_chunks::<GROUP>().0.iter().enumerate() {
            let numbers = &mut numbers[group * bytes..(group + 1) * bytes];
            let scale = match grouped {
                GroupedType::Int8 => pack_int8(values, row, numbers),
                GroupedType::Int4 => pack_int4(values, row, numbers),
            };
            let at = group * SCALES + 2 * row;
            scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

/// Writes a row's numbers of one group and returns their scale.
#[inline(always)]
fn pack_int8(values: &[f32; GROUP], row: usize, numbers: &mut [u8]) -> bf16 {
    let largest = largest(values);
    let scale = usable(largest / 127.0);
    let (scale, inverse) = match scale {
        Some(scale) => (scale, 1.0 / scale.to_f32()),
        None => return degenerate(largest),
    };
    for (k, value) in values.iter().enumerate() {
        let number = to_whole((value * inverse).clamp(-127.0, 127.0));
        numbers[k / 4 * 64 + row * 4 + k % 4] = (number + 128) as u8;
    }
    scale
}

/// As [`pack_int8`]; of several scales the one with the least squared error.
#[inline(always)]
fn pack_int4(values: &[f32; GROUP], row: usize, numbers: &mut [u8]) -> bf16 {
    let largest = largest(values);
    let (scale, inverse) = match usable(best_scale(values, largest)) {
        Some(scale) => (scale, 1.0 / scale.to_f32()),
        None => return degenerate(largest),
    };
    let mut codes = [0u8; GROUP];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (to_whole((value * inverse).clamp(-8.0, 7.0)) + 8) as u8;
    }
    for k in (0..GROUP).step_by(8) {
        for j in 0..4 {
            numbers[k / 8 * 64 + row * 4 + j] = codes[k + j] | codes[k + 4 + j] << 4;
        }
    }
    scale
}

/// For each target: the numbers it gives, and the scale that fits those best. Its squared error is
/// `Σw² - (Σwq)²/Σq²`, so the largest quotient wins.
#[inline(always)]
fn best_scale(values: &[f32; GROUP], largest: f32) -> f32 {
    let peak = values.iter().copied().find(|value| value.abs() == largest).unwrap_or(largest);
    let (mut best, mut best_scale) = (0.0, 0.0);
    for target in TARGETS {
        let inverse = target / peak;
        let (mut products, mut squares) = ([0.0f32; 16], [0.0f32; 16]);
        for half in 0..2 {
            for lane in 0..16 {
                let value = values[half * 16 + lane];
                let number = to_whole((value * inverse).clamp(-8.0, 7.0)) as f32;
                products[lane] += value * number;
                squares[lane] += number * number;
            }
        }
        let (product, square) = (sum(products), sum(squares));
        let gain = product / square * product;
        if gain > best {
            (best, best_scale) = (gain, product / square);
        }
    }
    best_scale
}

#[inline(always)]
fn sum(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The scale in storage, if there is an inverse.
#[inline(always)]
fn usable(scale: f32) -> Option<bf16> {
    let scale = bf16::from_f32(scale);
    (scale.is_finite() && scale.to_f32().abs() > 1e-37).then_some(scale)
}

/// The scale of a group of zeros, or of one that holds a value that is not finite.
#[inline(always)]
fn degenerate(largest: f32) -> bf16 {
    if largest.is_finite() { bf16::ZERO } else { bf16::NAN }
}
