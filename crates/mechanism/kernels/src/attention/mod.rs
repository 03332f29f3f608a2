//! Paged attention of one tile of queries to one chunk of positions.
//!
//! A tile is some query tokens of one sequence times the query heads that share one kv head: its
//! rows read the same keys and values once. A chunk is 256 positions, aligned to position 0. Each
//! chunk is attended on its own (its own maximum, sum and weighted values) and chunks are merged in
//! order, so the bits of a row depend on its query and on what it sees, and on nothing else: not on
//! the rows beside it, on how the prompt was cut, or on which thread took which chunk.
//!
//! A block keeps its keys by dimension, so that a vector holds one dimension of neighbouring
//! positions: a score is one chain of multiply-adds over the dimensions, in order, in its own lane,
//! and no sum runs across lanes, which would cost more than the products (64 of them, often).

mod score;
mod weigh;

use std::ops::Range;

use crate::simd::math::exp;
use crate::simd::{Lanes, MAX_LANES, Storage};

pub(crate) use score::prepare;
use score::score_all;
use weigh::weigh_all;

/// Positions per chunk; a multiple of every vector length.
pub(crate) const CHUNK: usize = 256;
/// Positions whose values are widened together.
pub(crate) const VALUES: usize = 16;
/// The cache rows of one sequence and one kv head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cache {
    pub(crate) k: *const u8,
    /// Behind the last key of all.
    pub(crate) k_end: *const u8,
    pub(crate) v: *const u8,
    /// Block ids, in order of position.
    pub(crate) table: *const u32,
    pub(crate) block_size: usize,
    /// Bytes from one block to the next.
    pub(crate) block_stride: usize,
    /// Bytes from the start of a block to this head's keys or values.
    pub(crate) head_offset: usize,
    pub(crate) dim: usize,
}

/// Consecutive query tokens of one sequence and one kv head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) cache: Cache,
    /// One row per (token, head), token by token, as [`prepare`] lays them out.
    pub(crate) q: *const f32,
    pub(crate) rows: usize,
    /// Rows per token.
    pub(crate) group: usize,
    /// The last position that the first token sees: its own, unless it sees all.
    pub(crate) last: usize,
    /// By how many positions the next token sees further: 1, or 0 where each sees all.
    pub(crate) advance: usize,
    pub(crate) window: usize,
    pub(crate) scale: f32,
}

impl Tile {
    /// The positions that a row sees.
    #[inline(always)]
    pub(crate) fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.last + row / self.group * self.advance + 1;
        (end.saturating_sub(self.window), end)
    }

    /// The part of [`Tile::visible`] inside `start..end`; its first bound may exceed its second.
    #[inline(always)]
    fn visible_in(&self, row: usize, start: usize, end: usize) -> (usize, usize) {
        let (low, high) = self.visible(row);
        (low.max(start), high.min(end))
    }

    /// The chunks that any row of the tile sees.
    pub(crate) fn chunks(&self) -> Range<usize> {
        self.visible(0).0 / CHUNK..self.visible(self.rows - 1).1.div_ceil(CHUNK)
    }
}

/// Softmax state of a tile's rows: of one chunk, or of all chunks so far.
#[derive(Clone, Copy)]
pub(crate) struct State {
    /// Largest score, `[rows]`; `-inf` before anything was seen.
    pub(crate) max: *mut f32,
    /// Sum of `exp(score - max)`, `[rows]`.
    pub(crate) sum: *mut f32,
    /// Values weighted alike, `[rows, dim]`.
    pub(crate) out: *mut f32,
}

/// f32 values that a [`State`] of `rows` rows takes.
pub(crate) fn state_len(rows: usize, dim: usize) -> usize {
    rows * (dim + 2)
}

impl State {
    /// Lays a state out over `state_len` values.
    pub(crate) fn at(base: *mut f32, rows: usize) -> State {
        State { max: base, sum: base.wrapping_add(rows), out: base.wrapping_add(2 * rows) }
    }
}

/// What [`attend`] writes on the way.
#[derive(Clone, Copy)]
pub(crate) struct Workspace {
    /// `[rows, CHUNK]`.
    pub(crate) scores: *mut f32,
    /// `[VALUES, dim]`.
    pub(crate) values: *mut f32,
}

/// Attends all rows of a tile to one chunk, into `state`.
///
/// # Safety
/// The workspace and `state` have room for the tile's rows, exclusively; all blocks that the rows
/// see in this chunk exist; `L`'s instructions are present.
#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes, S: Storage>(
    tile: &Tile,
    chunk: usize,
    to: Workspace,
    state: State,
) {
    let start = chunk * CHUNK;
    let low = tile.visible(0).0.max(start);
    let high = tile.visible(tile.rows - 1).1.min(start + CHUNK);
    // SAFETY: what lies in `low..high` exists; score columns in `0..CHUNK`.
    unsafe {
        score_all::<L, S>(tile, (low, high), to.scores);
        for row in 0..tile.rows {
            let (low, high) = tile.visible_in(row, start, start + CHUNK);
            let range = (low - start, high.max(low) - start);
            softmax::<L>(tile.scale, to.scores.add(row * CHUNK), range, state, row);
        }
        std::ptr::write_bytes(state.out, 0, tile.rows * tile.cache.dim);
        weigh_all::<L, S>(tile, (low, high), to, state);
    }
}

/// The positions from `position` to the end of its block or `high`: how many, which block, and the
/// place of the first in it.
#[inline(always)]
unsafe fn segment(cache: &Cache, position: usize, high: usize) -> (usize, usize, usize) {
    let (index, offset) = (position / cache.block_size, position % cache.block_size);
    // SAFETY: the table covers every visible position.
    let block = unsafe { *cache.table.add(index) } as usize;
    let at = block * cache.block_stride + cache.head_offset;
    ((cache.block_size - offset).min(high - position), at, offset)
}

/// Asks for the part of a head's keys or values in the block at `at` that `places` of its positions
/// take: the values of these, or as many keys.
#[inline(always)]
unsafe fn ask_for<L: Lanes, S: Storage>(
    cache: &Cache,
    half: *const u8,
    at: usize,
    places: Range<usize>,
) {
    let row = cache.dim * S::BYTES;
    for line in (at + places.start * row..at + places.end * row).step_by(64) {
        // SAFETY: needs the instruction set only, which the caller has.
        unsafe { L::prefetch_far(half.wrapping_add(line)) }
    }
}

/// Turns a row's raw scores into weights; outside of `range` they become 0.
#[inline(always)]
unsafe fn softmax<L: Lanes>(
    scale: f32,
    scores: *mut f32,
    range: (usize, usize),
    state: State,
    row: usize,
) {
    let (low, high) = range;
    // SAFETY: all indices stay in `0..CHUNK`, which is whole vectors.
    unsafe {
        if low >= high {
            *state.max.add(row) = f32::NEG_INFINITY;
            *state.sum.add(row) = 0.0;
            return;
        }
        let (first, end) = (low / L::N * L::N, high.next_multiple_of(L::N));
        (first..low).chain(high..end).for_each(|i| *scores.add(i) = f32::NEG_INFINITY);
        let scale = L::splat(scale);
        let mut max = L::splat(f32::NEG_INFINITY);
        for i in (first..end).step_by(L::N) {
            let v = L::load(scores.add(i)).mul(scale);
            // A negative scale would lift the masked ones.
            v.store(scores.add(i));
            max = max.max(v);
        }
        let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
        max.store(lanes.as_mut_ptr());
        let max = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = L::splat(0.0);
        for i in (first..end).step_by(L::N) {
            let p = exp(L::load(scores.add(i)).sub(L::splat(max)));
            p.store(scores.add(i));
            sum = sum.add(p);
        }
        *state.max.add(row) = max;
        *state.sum.add(row) = sum.sum();
    }
}

/// Makes `state` the state before any chunk.
///
/// # Safety
/// As [`attend`]; so for the functions below.
#[inline(always)]
pub(crate) unsafe fn reset(state: State, rows: usize, dim: usize) {
    // SAFETY: the caller vouches for the state.
    unsafe {
        (0..rows).for_each(|row| *state.max.add(row) = f32::NEG_INFINITY);
        std::ptr::write_bytes(state.sum, 0, rows);
        std::ptr::write_bytes(state.out, 0, rows * dim);
    }
}

/// Merges the next chunk's state into the one so far.
#[inline(always)]
pub(crate) unsafe fn merge<L: Lanes>(so_far: State, next: State, rows: usize, dim: usize) {
    // SAFETY: the caller vouches for both states.
    unsafe {
        for row in 0..rows {
            // Only a row that sees nothing of the chunk has no weight at all there.
            if *next.sum.add(row) == 0.0 {
                continue;
            }
            let (old, new) = (*so_far.max.add(row), *next.max.add(row));
            let max = new.max(old);
            let (keep, gain) = (exp_one::<L>(old - max), exp_one::<L>(new - max));
            *so_far.max.add(row) = max;
            *so_far.sum.add(row) = *so_far.sum.add(row) * keep + *next.sum.add(row) * gain;
            let (out, from) = (so_far.out.add(row * dim), next.out.add(row * dim));
            for d in 0..dim {
                *out.add(d) = *out.add(d) * keep + *from.add(d) * gain;
            }
        }
    }
}

/// `e^x` with the bits that every lane gives.
#[inline(always)]
unsafe fn exp_one<L: Lanes>(x: f32) -> f32 {
    let mut lanes = [0.0f32; MAX_LANES];
    // SAFETY: the array holds a vector.
    unsafe { exp(L::splat(x)).store(lanes.as_mut_ptr()) };
    lanes[0]
}
