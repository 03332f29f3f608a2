//! Norms, rotation, activations and conversions over contiguous values.
//!
//! The rest of a row goes through the same vector code as its body, by way of a padded load.

use crate::simd::math::activate;
use crate::simd::{F32, Lanes, MAX_LANES, Storage};
use crate::tensor::Activation;

/// Cuts `0..n` into vectors: first index and number of values of each.
#[inline(always)]
fn vectors<L: Lanes>(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(L::N).map(move |i| (i, (n - i).min(L::N)))
}

#[inline(always)]
unsafe fn load<L: Lanes>(x: *const f32, count: usize) -> L {
    // SAFETY: the caller vouches for `count` values.
    unsafe { if count == L::N { L::load(x) } else { F32::load_part(x.cast(), count) } }
}

#[inline(always)]
unsafe fn store<L: Lanes>(to: *mut f32, v: L, count: usize) {
    // SAFETY: the caller vouches for `count` values.
    unsafe { if count == L::N { v.store(to) } else { F32::store_part(to.cast(), v, count) } }
}

/// Widens `n` stored values to f32.
///
/// # Safety
/// `n` values are readable at `from` and writable at `to`; `L`'s instructions are present. The
/// same holds, for their own counts, for every function of this module.
#[inline(always)]
pub(crate) unsafe fn widen<L: Lanes, S: Storage>(from: *const u8, to: *mut f32, n: usize) {
    let mut i = 0;
    while i < n {
        let count = (n - i).min(L::N);
        // SAFETY: `i + count <= n`.
        unsafe {
            let from = from.add(i * S::BYTES);
            let v: L = if count == L::N { S::load(from) } else { S::load_part(from, count) };
            store(to.add(i), v, count);
        }
        i += count;
    }
}

/// Rounds `n` f32 values to a storage type.
#[inline(always)]
pub(crate) unsafe fn narrow<L: Lanes, S: Storage>(from: *const f32, to: *mut u8, n: usize) {
    // SAFETY: `i + count <= n`.
    unsafe {
        for (i, count) in vectors::<L>(n) {
            let v: L = load(from.add(i), count);
            let to = to.add(i * S::BYTES);
            if count == L::N { S::store(to, v) } else { S::store_part(to, v, count) }
        }
    }
}

/// What a norm needs beside its rows; `bias` is null for the root-mean-square norm.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) weight: *const f32,
    pub(crate) bias: *const f32,
    pub(crate) cols: usize,
    pub(crate) eps: f32,
}

/// Norms `rows` rows; `x` and `out` may be the same. Sums in f32, one vector of partial sums.
#[inline(always)]
pub(crate) unsafe fn norm<L: Lanes>(norm: &Norm, x: *const f32, out: *mut f32, rows: usize) {
    for row in 0..rows {
        // SAFETY: row by row inside the caller's ranges.
        unsafe { norm_row::<L>(norm, x.add(row * norm.cols), out.add(row * norm.cols)) }
    }
}

#[inline(always)]
unsafe fn norm_row<L: Lanes>(norm: &Norm, x: *const f32, out: *mut f32) {
    let n = norm.cols;
    let count = n as f32;
    // SAFETY: weight and bias have as many values as the row.
    unsafe {
        let mut mean = 0.0;
        if !norm.bias.is_null() {
            let mut sum = L::splat(0.0);
            for (i, count) in vectors::<L>(n) {
                let v: L = load(x.add(i), count);
                sum = sum.add(v);
            }
            mean = sum.sum() / count;
        }
        let center = L::splat(mean);
        let mut squares = L::splat(0.0);
        for (i, here) in vectors::<L>(n) {
            let v: L = load(x.add(i), here);
            let d = if here == L::N {
                v.sub(center)
            } else {
                // The padding of the last vector must stay zero.
                let mut lanes = [0.0f32; MAX_LANES];
                v.sub(center).store(lanes.as_mut_ptr());
                lanes[here..].fill(0.0);
                L::load(lanes.as_ptr())
            };
            squares = d.fma(d, squares);
        }
        let scale = L::splat(1.0 / (squares.sum() / count + norm.eps).sqrt());
        for (i, here) in vectors::<L>(n) {
            let v: L = load(x.add(i), here);
            let mut y = v.sub(center).mul(scale).mul(load(norm.weight.add(i), here));
            if !norm.bias.is_null() {
                y = y.add(load(norm.bias.add(i), here));
            }
            store(out.add(i), y, here);
        }
    }
}

/// `x = act(x)`.
#[inline(always)]
pub(crate) unsafe fn activate_all<L: Lanes>(act: Activation, x: *mut f32, n: usize) {
    // SAFETY: `i + count <= n`.
    unsafe {
        for (i, count) in vectors::<L>(n) {
            let v: L = load(x.add(i), count);
            store(x.add(i), activate(act, v), count);
        }
    }
}

/// `gate = act(gate) * up`.
#[inline(always)]
pub(crate) unsafe fn activate_mul<L: Lanes>(
    act: Activation,
    gate: *mut f32,
    up: *const f32,
    n: usize,
) {
    // SAFETY: `i + count <= n`.
    unsafe {
        for (i, count) in vectors::<L>(n) {
            let v: L = load(gate.add(i), count);
            let y = activate(act, v).mul(load(up.add(i), count));
            store(gate.add(i), y, count);
        }
    }
}

/// `x += y`.
#[inline(always)]
pub(crate) unsafe fn add<L: Lanes>(x: *mut f32, y: *const f32, n: usize) {
    // SAFETY: `i + count <= n`.
    unsafe {
        for (i, count) in vectors::<L>(n) {
            let v: L = load(x.add(i), count);
            store(x.add(i), v.add(load(y.add(i), count)), count);
        }
    }
}

/// Rotates the pairs `(i, half + i)` of one head by one token's angles.
#[inline(always)]
pub(crate) unsafe fn rotate<L: Lanes>(x: *mut f32, cos: *const f32, sin: *const f32, half: usize) {
    // SAFETY: `x` has `2 * half` values, the angles `half`.
    unsafe {
        for (i, count) in vectors::<L>(half) {
            let a: L = load(x.add(i), count);
            let b: L = load(x.add(half + i), count);
            let (c, s): (L, L) = (load(cos.add(i), count), load(sin.add(i), count));
            store(x.add(i), a.mul(c).sub(b.mul(s)), count);
            store(x.add(half + i), b.mul(c).add(a.mul(s)), count);
        }
    }
}
