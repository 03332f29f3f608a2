//! Buffers that live as long as the pool: no allocation in the middle of a step once warm.

use crate::drive::{GroupedPlan, Plan, Task};
use crate::simd::XForm;
use std::ops::{Deref, DerefMut};

/// A growable buffer on cache-line borders.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Buffer {
    /// At least `bytes` bytes, with whatever was last written there.
    pub(crate) fn bytes(&mut self, bytes: usize) -> *mut u8 {
        let lines = bytes.div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.lines.as_mut_ptr().cast()
    }

    /// At least `values` f32 values, with whatever was last written there.
    pub(crate) fn floats(&mut self, values: usize) -> *mut f32 {
        self.bytes(values * size_of::<f32>()).cast()
    }
}

/// f32 values on cache-line borders, so that vectors of 64 bytes cross none: a store that does costs
/// twice as much.
#[derive(Debug, Default)]
pub struct Floats {
    buffer: Buffer,
    len: usize,
}

impl Floats {
    /// Exactly `len` values, which are to be overwritten: they are what was last written there.
    pub fn sized(&mut self, len: usize) -> &mut [f32] {
        self.buffer.floats(len);
        self.len = len;
        self
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the buffer has room for `len` values since they were asked for, all of them written
        // once at least, and lends them with itself.
        unsafe { std::slice::from_raw_parts(self.buffer.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A pointer that a region's threads share; each touches its own part of what is behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: the pointer itself is plain data; every use argues that threads touch separate parts.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(p: *mut T) -> Shared<T> {
        Shared(p)
    }

    /// The pointer, `count` values on.
    pub(crate) fn at(self, count: usize) -> *mut T {
        self.0.wrapping_add(count)
    }
}

/// Everything a [`crate::Cpu`] keeps between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Activations prepared for dot products, by their [`XForm`].
    pub(crate) x: [Buffer; XForm::COUNT],
    /// Gated products of a feed-forward network, prepared for its second half.
    #[cfg(target_arch = "x86_64")]
    pub(crate) product: Buffer,
    /// Activations rounded for weights in groups.
    pub(crate) grouped_x: Buffer,
    /// One part per worker.
    pub(crate) workers: Buffer,
    /// Widened norm weights, or the partial states of attention.
    pub(crate) shared: Buffer,
    /// Jobs of a linear call; empty between calls, as are the tasks.
    pub(crate) plans: Vec<Plan>,
    /// Jobs whose weights are in groups.
    pub(crate) grouped_plans: Vec<GroupedPlan>,
    /// Jobs that the matrix unit takes.
    #[cfg(target_arch = "x86_64")]
    pub(crate) tile_plans: Vec<crate::drive::TilePlan>,
    /// Tiles of an attention call.
    pub(crate) tasks: Vec<Task>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_lie_on_cache_lines_and_keep_what_was_written() {
        let mut floats = Floats::default();
        assert!(floats.is_empty());
        floats.sized(3).copy_from_slice(&[1.0, 2.0, 3.0]);
        assert_eq!(floats.as_ptr().align_offset(64), 0);
        assert_eq!(floats.sized(40)[..3], [1.0, 2.0, 3.0]);
        floats.sized(2)[1] = 5.0;
        assert_eq!(*floats, [1.0, 5.0]);
        assert_eq!(floats.as_ptr().align_offset(64), 0);
    }
}
