//! Lanes in plain Rust: what the compiler makes of it for the build target.

use super::Lanes;
use half::{bf16, f16};

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, o: Portable, f: impl Fn(f32, f32) -> f32) -> Portable {
        Portable(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

// SAFETY: loads and stores go through unaligned reads and writes of `[_; 8]`.
unsafe impl Lanes for Portable {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for eight values.
        Portable(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: the caller vouches for eight values.
        let bits = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        Portable(bits.map(|b| f16::from_bits(b).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: the caller vouches for eight values.
        let bits = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        Portable(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn load_bf16_every_other<const ODD: bool>(p: *const u16) -> Self {
        // SAFETY: the caller vouches for sixteen values.
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        Portable(std::array::from_fn(|i| {
            f32::from_bits(u32::from(bits[2 * i + usize::from(ODD)]) << 16)
        }))
    }
    #[inline(always)]
    unsafe fn unzip(low: Self, high: Self) -> (Self, Self) {
        let at = |i: usize| if i < 8 { low.0[i] } else { high.0[i - 8] };
        let every_other = |odd| Portable(std::array::from_fn(|i| at(2 * i + odd)));
        (every_other(0), every_other(1))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for eight values.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        let bits = self.0.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: the caller vouches for eight values.
        unsafe { p.cast::<[u16; 8]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        let bits = self.0.map(|x| bf16::from_f32(x).to_bits());
        // SAFETY: the caller vouches for eight values.
        unsafe { p.cast::<[u16; 8]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self.zip(o, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        self.zip(o, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // Two roundings: a fused one would be a library call where the target has no instruction.
        self.zip(a, |x, y| x * y).zip(b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        self.zip(o, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Portable(self.0.map(|x| x.round_ties_even()))
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        Portable(self.0.map(|x| f32::from_bits(((x as i32).wrapping_add(127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn select_lt(self, o: Self, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < o.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let x = self.0;
        let half: [f32; 4] = std::array::from_fn(|i| x[i] + x[i + 4]);
        (half[0] + half[2]) + (half[1] + half[3])
    }
}
