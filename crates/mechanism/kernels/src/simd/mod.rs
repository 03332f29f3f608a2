//! Vectors of f32 lanes and the numbers stored beside them: each algorithm is written once over
//! these traits, and each instruction set is one thin file.
//!
//! Everything here is `inline(always)`: the code takes on the instruction set of the function it
//! lands in, which is one of the `target_feature` entries in [`crate::table`]. Closures carry no such
//! attribute, so vectors are kept out of them.

pub(crate) mod math;
pub(crate) mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

use std::marker::PhantomData;

/// Upper bound of [`Lanes::N`].
pub(crate) const MAX_LANES: usize = 16;

/// A vector of `N` f32 values. Operations act lane by lane, so a value's bits never depend on the
/// lane it sits in.
///
/// # Safety
/// `N` is at most [`MAX_LANES`] and a power of two; loads and stores touch exactly `N` values and
/// need no alignment. All methods need the instruction set of the implementing type.
pub(crate) unsafe trait Lanes: Copy {
    const N: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_f16(p: *const u16) -> Self;
    unsafe fn load_bf16(p: *const u16) -> Self;
    /// Loads `2 * N` bf16 and widens those at even (`ODD` = false) or odd places: half the work of
    /// two [`Lanes::load_bf16`], which would have to spread the values out first.
    unsafe fn load_bf16_every_other<const ODD: bool>(p: *const u16) -> Self;
    /// The even and the odd ones of `2 * N` values.
    unsafe fn unzip(low: Self, high: Self) -> (Self, Self);
    unsafe fn store(self, p: *mut f32);
    /// Rounds to nearest even.
    unsafe fn store_f16(self, p: *mut u16);
    /// Rounds to nearest even; NaN stays NaN.
    unsafe fn store_bf16(self, p: *mut u16);
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    unsafe fn div(self, o: Self) -> Self;
    /// `self * a + b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// The larger value; `o` when either is NaN.
    unsafe fn max(self, o: Self) -> Self;
    /// The smaller value; `o` when either is NaN.
    unsafe fn min(self, o: Self) -> Self;
    /// Nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for integers in `-126..=127`; anything for other values.
    unsafe fn pow2(self) -> Self;
    /// `a` where `self < o`, else `b`.
    unsafe fn select_lt(self, o: Self, a: Self, b: Self) -> Self;
    /// Asks for the cache line at `p`, which may be any address.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    /// The same, as far as L2: for what is not needed at once.
    #[inline(always)]
    unsafe fn prefetch_far(_p: *const u8) {}
    /// Sum of the lanes as a balanced tree: lane `i` meets lane `i + N/2` first.
    unsafe fn sum(self) -> f32;
    /// [`Lanes::sum`] of four vectors side by side.
    #[inline(always)]
    unsafe fn sum4(v: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller's promise is that of `sum`.
        unsafe { [v[0].sum(), v[1].sum(), v[2].sum(), v[3].sum()] }
    }
    /// [`Lanes::sum4`] twice.
    #[inline(always)]
    unsafe fn sum4x2(v: [[Self; 4]; 2]) -> [[f32; 4]; 2] {
        // SAFETY: the caller's promise is that of `sum`.
        unsafe { [Self::sum4(v[0]), Self::sum4(v[1])] }
    }
    /// [`Lanes::sum4`] four times.
    #[inline(always)]
    unsafe fn sum4x4(v: [[Self; 4]; 4]) -> [[f32; 4]; 4] {
        // SAFETY: the caller's promise is that of `sum`.
        unsafe { [Self::sum4(v[0]), Self::sum4(v[1]), Self::sum4(v[2]), Self::sum4(v[3])] }
    }
}

/// A storage type of weights or cache rows.
///
/// # Safety
/// `BYTES` is the size of one value. Methods touch exactly `L::N` values (or `n` of them).
pub(crate) unsafe trait Storage: Copy {
    const BYTES: usize;
    unsafe fn load<L: Lanes>(p: *const u8) -> L;
    unsafe fn store<L: Lanes>(p: *mut u8, x: L);

    /// Loads `n < N` values; the other lanes are zero.
    #[inline(always)]
    unsafe fn load_part<L: Lanes>(p: *const u8, n: usize) -> L {
        let mut buffer = [0u32; MAX_LANES];
        let to = buffer.as_mut_ptr().cast::<u8>();
        // SAFETY: the caller vouches for `n` values at `p`; the buffer holds `MAX_LANES` of any
        // storage type, and zero bytes are zero in each.
        unsafe {
            std::ptr::copy_nonoverlapping(p, to, n * Self::BYTES);
            Self::load(to)
        }
    }

    /// Stores the first `n < N` values.
    #[inline(always)]
    unsafe fn store_part<L: Lanes>(p: *mut u8, x: L, n: usize) {
        let mut buffer = [0u32; MAX_LANES];
        let from = buffer.as_mut_ptr().cast::<u8>();
        // SAFETY: as for `load_part`.
        unsafe {
            Self::store(from, x);
            std::ptr::copy_nonoverlapping(from, p, n * Self::BYTES);
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F32;
#[derive(Clone, Copy)]
pub(crate) struct F16;
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

macro_rules! storage {
    ($name:ident, $value:ty, $load:ident, $store:ident) => {
        // SAFETY: forwards to the lane method for this type, which touches `N` values.
        unsafe impl Storage for $name {
            const BYTES: usize = size_of::<$value>();
            #[inline(always)]
            unsafe fn load<L: Lanes>(p: *const u8) -> L {
                // SAFETY: the caller's promise is the lane method's.
                unsafe { L::$load(p.cast()) }
            }
            #[inline(always)]
            unsafe fn store<L: Lanes>(p: *mut u8, x: L) {
                // SAFETY: the caller's promise is the lane method's.
                unsafe { x.$store(p.cast()) }
            }
        }
    };
}

storage!(F32, f32, load, store);
storage!(F16, u16, load_f16, store_f16);
storage!(Bf16, u16, load_bf16, store_bf16);

/// In what form activations meet weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum XForm {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// f32, the even ones of each step before the odd ones.
    Pairs,
}

impl XForm {
    /// How many there are.
    pub(crate) const COUNT: usize = 3;
}

/// One way of multiplying prepared activations with stored weights along `K`.
///
/// # Safety
/// Loads touch the `STEP` values at `p` (or `n` of them) and no others; `X_BYTES` and `W_BYTES` are
/// the sizes of one value.
pub(crate) unsafe trait Dot {
    type X: Copy;
    type W: Copy;
    type Acc: Lanes;
    /// Values of `K` per step.
    const STEP: usize;
    /// Instructions per step: part `i` of the weights meets part `i` of `x`.
    const PARTS: usize = 1;
    const X_FORM: XForm;
    /// Most rows of `x` in one tile, so that a tile of four weight rows fits the registers.
    const MAX_M: usize;
    /// Most values of `K` per block, a multiple of 64: a block of a tile's rows fits L1, so that
    /// the rows of `x` are still there for the next tile.
    const BLOCK: usize;
    const X_BYTES: usize;
    const W_BYTES: usize;
    unsafe fn load_x(p: *const u8, part: usize) -> Self::X;
    unsafe fn load_w(p: *const u8, part: usize) -> Self::W;
    /// `n < STEP` weights, then zeros.
    unsafe fn load_w_rest(p: *const u8, part: usize, n: usize) -> Self::W;
    unsafe fn dot(acc: Self::Acc, x: Self::X, w: Self::W) -> Self::Acc;
    /// Converts one row of `k` activations; what lies behind them up to a whole step becomes zero.
    unsafe fn prepare(x: *const f32, k: usize, to: *mut u8);
}

/// Weights widened to f32, f32 arithmetic.
pub(crate) struct Widen<L, S>(PhantomData<(L, S)>);

// SAFETY: a step is one vector; sizes follow from the parameters.
unsafe impl<L: Lanes, S: Storage> Dot for Widen<L, S> {
    type X = L;
    type W = L;
    type Acc = L;
    const STEP: usize = L::N;
    const X_FORM: XForm = XForm::F32;
    const MAX_M: usize = if L::N == 16 { 6 } else { 3 };
    const BLOCK: usize = 640;
    const X_BYTES: usize = 4;
    const W_BYTES: usize = S::BYTES;
    #[inline(always)]
    unsafe fn load_x(p: *const u8, _part: usize) -> L {
        // SAFETY: the caller vouches for one step.
        unsafe { L::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_w(p: *const u8, _part: usize) -> L {
        // SAFETY: the caller vouches for one step.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn load_w_rest(p: *const u8, _part: usize, n: usize) -> L {
        // SAFETY: the caller vouches for `n` values.
        unsafe { S::load_part(p, n) }
    }
    #[inline(always)]
    unsafe fn dot(acc: L, x: L, w: L) -> L {
        // SAFETY: needs the instruction set only, which the caller has.
        unsafe { x.fma(w, acc) }
    }
    #[inline(always)]
    unsafe fn prepare(x: *const f32, k: usize, to: *mut u8) {
        // SAFETY: the caller vouches for `k` values at `x` and whole steps at `to`.
        unsafe {
            std::ptr::copy_nonoverlapping(x, to.cast(), k);
            let padded = k.next_multiple_of(L::N);
            std::ptr::write_bytes(to.cast::<f32>().add(k), 0, padded - k);
        }
    }
}

/// bf16 weights widened to f32, first those at even places of a step, then those at odd ones; `x`
/// is prepared in that order.
pub(crate) struct WidenPairs<L>(PhantomData<L>);

// SAFETY: a step is one vector of bf16 pairs: `2 * N` values on both sides.
unsafe impl<L: Lanes> Dot for WidenPairs<L> {
    type X = L;
    type W = L;
    type Acc = L;
    const STEP: usize = 2 * L::N;
    const PARTS: usize = 2;
    const X_FORM: XForm = XForm::Pairs;
    // Six rows would not leave registers for the values on their way.
    const MAX_M: usize = if L::N == 16 { 4 } else { 3 };
    const BLOCK: usize = 640;
    const X_BYTES: usize = 4;
    const W_BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load_x(p: *const u8, part: usize) -> L {
        // SAFETY: the caller vouches for one step.
        unsafe { L::load(p.cast::<f32>().add(part * L::N)) }
    }
    #[inline(always)]
    unsafe fn load_w(p: *const u8, part: usize) -> L {
        // SAFETY: the caller vouches for one step.
        unsafe {
            if part == 0 {
                L::load_bf16_every_other::<false>(p.cast())
            } else {
                L::load_bf16_every_other::<true>(p.cast())
            }
        }
    }
    #[inline(always)]
    unsafe fn load_w_rest(p: *const u8, part: usize, n: usize) -> L {
        let mut buffer = [0u16; 2 * MAX_LANES];
        // SAFETY: the caller vouches for `n` values, fewer than the buffer has.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr().cast(), 2 * n);
            Self::load_w(buffer.as_ptr().cast(), part)
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: L, x: L, w: L) -> L {
        // SAFETY: needs the instruction set only, which the caller has.
        unsafe { x.fma(w, acc) }
    }
    #[inline(always)]
    unsafe fn prepare(x: *const f32, k: usize, to: *mut u8) {
        let to = to.cast::<f32>();
        let whole = k / Self::STEP * Self::STEP;
        // SAFETY: the caller vouches for `k` values at `x` and whole steps at `to`.
        unsafe {
            for step in (0..whole).step_by(Self::STEP) {
                let (low, high) = (L::load(x.add(step)), L::load(x.add(step + L::N)));
                let (even, odd) = L::unzip(low, high);
                even.store(to.add(step));
                odd.store(to.add(step + L::N));
            }
            if whole < k {
                std::ptr::write_bytes(to.add(whole), 0, Self::STEP);
                for i in whole..k {
                    *to.add(whole + (i % 2) * L::N + (i - whole) / 2) = *x.add(i);
                }
            }
        }
    }
}
