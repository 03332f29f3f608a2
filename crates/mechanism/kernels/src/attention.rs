//! Paged attention of one tile of queries to one chunk of positions.
//!
//! A tile is some query tokens of one sequence times the query heads that share one kv head: its
//! rows read the same keys and values once. A chunk is 256 positions, aligned to position 0. Each
//! chunk is attended on its own (its own maximum, sum and weighted values) and chunks are merged in
//! order, so the bits of a row depend on its query and on what it sees, and on nothing else: not on
//! the rows beside it, on how the prompt was cut, or on which thread took which chunk.

use crate::gemm::{Panel, Upcoming, panel};
use crate::simd::math::exp;
use crate::simd::{Lanes, MAX_LANES, Storage, Widen};
use crate::tensor::Write;

/// Positions per chunk; a multiple of every vector length.
pub(crate) const CHUNK: usize = 256;
/// Rows that read a vector of values together.
const ROWS: usize = 4;

/// The cache rows of one sequence and one kv head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cache {
    pub(crate) k: *const u8,
    pub(crate) v: *const u8,
    /// Block ids, in order of position.
    pub(crate) table: *const u32,
    pub(crate) block_size: usize,
    /// Bytes from one block to the next.
    pub(crate) block_stride: usize,
    /// Bytes from the start of a block to this head's first row.
    pub(crate) head_offset: usize,
    pub(crate) dim: usize,
}

/// Consecutive query tokens of one sequence and one kv head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) cache: Cache,
    /// Prepared queries, one row per (token, head), token by token.
    pub(crate) q: *const u8,
    /// Bytes.
    pub(crate) q_stride: usize,
    pub(crate) rows: usize,
    /// Rows per token.
    pub(crate) group: usize,
    /// Position of the first token.
    pub(crate) position: usize,
    pub(crate) window: usize,
    pub(crate) scale: f32,
}

impl Tile {
    /// The positions that a row sees.
    #[inline(always)]
    pub(crate) fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.position + row / self.group + 1;
        (end.saturating_sub(self.window), end)
    }

    /// The part of [`Tile::visible`] inside `start..end`; its first bound may exceed its second.
    #[inline(always)]
    fn visible_in(&self, row: usize, start: usize, end: usize) -> (usize, usize) {
        let (low, high) = self.visible(row);
        (low.max(start), high.min(end))
    }

    /// The chunks that any row of the tile sees.
    pub(crate) fn chunks(&self) -> std::ops::Range<usize> {
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

/// Attends all rows of a tile to one chunk, into `state`.
///
/// # Safety
/// `scores` has room for `rows * CHUNK` values, `state` for the tile's rows, both exclusively; all
/// blocks that the rows see in this chunk exist; `L`'s instructions are present.
#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes, S: Storage>(
    tile: &Tile,
    chunk: usize,
    scores: *mut f32,
    state: State,
) {
    let start = chunk * CHUNK;
    let low = tile.visible(0).0.max(start);
    let high = tile.visible(tile.rows - 1).1.min(start + CHUNK);
    // SAFETY: segments lie in blocks that exist; score columns in `0..CHUNK`.
    unsafe {
        let mut position = low;
        while position < high {
            let (count, at) = segment::<S>(&tile.cache, position, high);
            panel::<Widen<L, S>, false>(&Panel {
                x: tile.q,
                x_stride: tile.q_stride,
                m: tile.rows,
                w: tile.cache.k.add(at),
                w_stride: tile.cache.dim * S::BYTES,
                n: count,
                k: tile.cache.dim,
                block: tile.cache.dim,
                out: scores.add(position - start),
                out_stride: CHUNK,
                bias: None,
                so_far: None,
                mode: Write::Store,
                upcoming: Upcoming::NOTHING,
            });
            position += count;
        }
        for row in 0..tile.rows {
            let (low, high) = tile.visible_in(row, start, start + CHUNK);
            let range = (low - start, high.max(low) - start);
            softmax::<L>(tile.scale, scores.add(row * CHUNK), range, state, row);
        }
        std::ptr::write_bytes(state.out, 0, tile.rows * tile.cache.dim);
        let mut row = 0;
        while row < tile.rows {
            let count = (tile.rows - row).min(ROWS);
            let mut position = low;
            while position < high {
                let (length, at) = segment::<S>(&tile.cache, position, high);
                let v = tile.cache.v.add(at);
                let segment = (position, position + length);
                weigh_segment::<L, S>(tile, (row, count), segment, v, scores, state);
                position += length;
            }
            row += count;
        }
    }
}

/// The positions from `position` to the end of its block or `high`: how many, and the byte offset
/// of their first cache row.
#[inline(always)]
unsafe fn segment<S: Storage>(cache: &Cache, position: usize, high: usize) -> (usize, usize) {
    let (index, offset) = (position / cache.block_size, position % cache.block_size);
    // SAFETY: the table covers every visible position.
    let block = unsafe { *cache.table.add(index) } as usize;
    let row = offset * cache.dim * S::BYTES;
    let at = block * cache.block_stride + cache.head_offset + row;
    ((cache.block_size - offset).min(high - position), at)
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

/// Adds a segment's values to rows `row..row + count`, each within what it sees.
#[inline(always)]
unsafe fn weigh_segment<L: Lanes, S: Storage>(
    tile: &Tile,
    (row, count): (usize, usize),
    (start, end): (usize, usize),
    v: *const u8,
    scores: *const f32,
    state: State,
) {
    let dim = tile.cache.dim;
    let (first, last) =
        (tile.visible_in(row, start, end), tile.visible_in(row + count - 1, start, end));
    // Later rows see later positions: the last row has the highest start, the first the lowest end.
    let common = if count == ROWS && last.0 < first.1 { (last.0, first.1) } else { (end, end) };
    // SAFETY: positions stay in the segment, rows in the tile.
    unsafe {
        let weights = |r: usize, p: usize| scores.add(r * CHUNK + p % CHUNK);
        let value = |p: usize| v.add((p - start) * dim * S::BYTES);
        for r in row..row + count {
            let (low, high) = tile.visible_in(r, start, end);
            let high = high.min(common.0);
            if low < high {
                let out = state.out.add(r * dim);
                weigh::<L, S, 1>(weights(r, low), value(low), high - low, out, dim);
            }
        }
        if common.0 < common.1 {
            let out = state.out.add(row * dim);
            let length = common.1 - common.0;
            weigh::<L, S, ROWS>(weights(row, common.0), value(common.0), length, out, dim);
        }
        for r in row..row + count {
            let (low, high) = tile.visible_in(r, start, end);
            let low = low.max(common.1);
            if low < high {
                let out = state.out.add(r * dim);
                weigh::<L, S, 1>(weights(r, low), value(low), high - low, out, dim);
            }
        }
    }
}

/// `out[r] += Σ weights[r][j] · v[j]` for `M` rows, in order of `j`.
#[inline(always)]
unsafe fn weigh<L: Lanes, S: Storage, const M: usize>(
    weights: *const f32,
    v: *const u8,
    length: usize,
    out: *mut f32,
    dim: usize,
) {
    let mut d = 0;
    // SAFETY: `d + width <= dim` for every call.
    unsafe {
        let columns = |d: usize| (v.add(d * S::BYTES), out.add(d));
        while L::N == 16 && d + 4 * L::N <= dim {
            let (v, out) = columns(d);
            weigh_columns::<L, S, M, 4>(weights, v, length, out, dim);
            d += 4 * L::N;
        }
        while d + 2 * L::N <= dim {
            let (v, out) = columns(d);
            weigh_columns::<L, S, M, 2>(weights, v, length, out, dim);
            d += 2 * L::N;
        }
        while d < dim {
            let width = (dim - d).min(L::N);
            let (v, out) = columns(d);
            weigh_rest::<L, S, M>(weights, v, length, out, dim, width);
            d += width;
        }
    }
}

#[inline(always)]
unsafe fn weigh_columns<L: Lanes, S: Storage, const M: usize, const W: usize>(
    weights: *const f32,
    v: *const u8,
    length: usize,
    out: *mut f32,
    dim: usize,
) {
    // SAFETY: the caller vouches for `M` rows of `dim` values and `W` vectors of columns.
    unsafe {
        let mut acc = [[L::splat(0.0); W]; M];
        for m in 0..M {
            for w in 0..W {
                acc[m][w] = L::load(out.add(m * dim + w * L::N));
            }
        }
        for j in 0..length {
            let row = v.add(j * dim * S::BYTES);
            let mut values = [S::load::<L>(row); W];
            for w in 1..W {
                values[w] = S::load(row.add(w * L::N * S::BYTES));
            }
            for m in 0..M {
                let p = L::splat(*weights.add(m * CHUNK + j));
                for w in 0..W {
                    acc[m][w] = p.fma(values[w], acc[m][w]);
                }
            }
        }
        for m in 0..M {
            for w in 0..W {
                acc[m][w].store(out.add(m * dim + w * L::N));
            }
        }
    }
}

/// The last columns, fewer than two vectors.
#[inline(always)]
unsafe fn weigh_rest<L: Lanes, S: Storage, const M: usize>(
    weights: *const f32,
    v: *const u8,
    length: usize,
    out: *mut f32,
    dim: usize,
    width: usize,
) {
    use crate::simd::F32;
    // SAFETY: the caller vouches for `M` rows of `dim` values and `width` columns.
    unsafe {
        let mut acc = [L::splat(0.0); M];
        for m in 0..M {
            acc[m] = F32::load_part(out.add(m * dim).cast(), width);
        }
        for j in 0..length {
            let value: L = S::load_part(v.add(j * dim * S::BYTES), width);
            for m in 0..M {
                acc[m] = L::splat(*weights.add(m * CHUNK + j)).fma(value, acc[m]);
            }
        }
        for m in 0..M {
            F32::store_part(out.add(m * dim).cast(), acc[m], width);
        }
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
