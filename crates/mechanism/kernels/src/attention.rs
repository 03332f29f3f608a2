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

use std::ops::Range;

use crate::elementwise::widen;
use crate::simd::math::exp;
use crate::simd::{F32, Lanes, MAX_LANES, Storage};

/// Positions per chunk; a multiple of every vector length.
pub(crate) const CHUNK: usize = 256;
/// Positions whose values are widened together.
pub(crate) const VALUES: usize = 16;
/// Vectors of keys that a row which is alone meets side by side: as many chains hide the latency.
const VECTORS: usize = 4;

/// Rows that meet the same keys side by side, from the first row on: as many as registers allow, then
/// fewer.
const GROUPS: [usize; 4] = [12, 6, 3, 1];

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

/// Writes the queries of a tile, `[dim]` each, by groups of rows: `[group][dim][row]`.
///
/// # Safety
/// `to` has room for `rows * dim` values.
pub(crate) unsafe fn prepare<'a>(
    rows: usize,
    dim: usize,
    query: impl Fn(usize) -> &'a [f32],
    to: *mut f32,
) {
    let mut row = 0;
    for size in GROUPS {
        while row + size <= rows {
            for m in 0..size {
                for (d, &value) in query(row + m)[..dim].iter().enumerate() {
                    // SAFETY: below `rows * dim`, since `d < dim` and `m < size`.
                    unsafe { *to.add(row * dim + d * size + m) = value }
                }
            }
            row += size;
        }
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

/// Up to `N` neighbouring positions of one block.
#[derive(Clone, Copy)]
struct Vector {
    /// Their first dimension.
    keys: *const u8,
    /// Column of the first one's scores.
    column: usize,
    count: usize,
}

/// Raw scores of all rows and all positions of `low..high`.
#[inline(always)]
unsafe fn score_all<L: Lanes, S: Storage>(
    tile: &Tile,
    (low, high): (usize, usize),
    scores: *mut f32,
) {
    let nothing = Vector { keys: std::ptr::null(), column: 0, count: 0 };
    let (mut vectors, mut waiting) = ([nothing; VECTORS], 0);
    let mut position = low;
    // SAFETY: segments lie in blocks that exist.
    unsafe {
        while position < high {
            let (count, at, offset) = segment(&tile.cache, position, high);
            ask_for::<L, S>(&tile.cache, tile.cache.v, at, offset..offset + count);
            let keys = tile.cache.k.add(at + offset * S::BYTES);
            let mut done = 0;
            while done < count {
                let column = (position + done) % CHUNK;
                vectors[waiting] = Vector {
                    keys: keys.add(done * S::BYTES),
                    column,
                    count: (count - done).min(L::N),
                };
                done += L::N;
                waiting += 1;
                if waiting == VECTORS {
                    score_vectors::<L, S>(tile, &vectors, scores);
                    waiting = 0;
                }
            }
            position += count;
        }
        score_vectors::<L, S>(tile, &vectors[..waiting], scores);
    }
}

/// All rows times a few vectors of keys.
#[inline(always)]
unsafe fn score_vectors<L: Lanes, S: Storage>(tile: &Tile, vectors: &[Vector], scores: *mut f32) {
    let span = (tile.cache.dim - 1) * tile.cache.block_size * S::BYTES + L::N * S::BYTES;
    let fits = |vector: &Vector| vector.keys.wrapping_add(span) <= tile.cache.k_end;
    let mut row = 0;
    // SAFETY: rows exist; a vector is loaded in whole where no load leaves the cache.
    unsafe {
        if !vectors.iter().all(fits) {
            let mut row = 0;
            for size in GROUPS {
                while row + size <= tile.rows {
                    for vector in vectors {
                        score_part::<L, S>(tile, (row, size), vector, scores);
                    }
                    row += size;
                }
            }
            return;
        }
        while row + 12 <= tile.rows {
            score_each::<L, S, 12>(tile, row, vectors, scores);
            row += 12;
        }
        while row + 6 <= tile.rows {
            score_each::<L, S, 6>(tile, row, vectors, scores);
            row += 6;
        }
        let all = <&[Vector; VECTORS]>::try_from(vectors);
        while row + 3 <= tile.rows {
            match all {
                // Sixteen registers are too few.
                Ok(all) if L::N == 16 => score::<L, S, 3, VECTORS>(tile, row, all, scores),
                _ => score_each::<L, S, 3>(tile, row, vectors, scores),
            }
            row += 3;
        }
        while row < tile.rows {
            match all {
                Ok(all) => score::<L, S, 1, VECTORS>(tile, row, all, scores),
                _ => score_each::<L, S, 1>(tile, row, vectors, scores),
            }
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn score_each<L: Lanes, S: Storage, const M: usize>(
    tile: &Tile,
    row: usize,
    vectors: &[Vector],
    scores: *mut f32,
) {
    for vector in vectors {
        // SAFETY: the caller vouches for `M` rows.
        unsafe { score::<L, S, M, 1>(tile, row, &[*vector], scores) }
    }
}

/// The group of `M` rows from `row` on times `W` vectors of keys, which may be loaded in whole.
#[inline(always)]
unsafe fn score<L: Lanes, S: Storage, const M: usize, const W: usize>(
    tile: &Tile,
    row: usize,
    vectors: &[Vector; W],
    scores: *mut f32,
) {
    let dim = tile.cache.dim;
    let stride = tile.cache.block_size * S::BYTES;
    // SAFETY: the caller vouches for `M` rows of `dim` values and for the keys; score columns lie
    // in `0..CHUNK`.
    unsafe {
        let q = tile.q.add(row * dim);
        let mut acc = [[L::splat(0.0); W]; M];
        for d in 0..dim {
            let mut keys = [L::splat(0.0); W];
            for w in 0..W {
                keys[w] = S::load(vectors[w].keys.add(d * stride));
            }
            for m in 0..M {
                let x = L::splat(*q.add(d * M + m));
                for w in 0..W {
                    acc[m][w] = x.fma(keys[w], acc[m][w]);
                }
            }
        }
        for m in 0..M {
            for w in 0..W {
                let to = scores.add((row + m) * CHUNK + vectors[w].column);
                if vectors[w].count == L::N {
                    acc[m][w].store(to);
                } else {
                    F32::store_part(to.cast(), acc[m][w], vectors[w].count);
                }
            }
        }
    }
}

/// [`score`] of a group of `size` rows, for a vector so near the end of the cache that a whole load
/// would leave it.
#[inline(always)]
unsafe fn score_part<L: Lanes, S: Storage>(
    tile: &Tile,
    (row, size): (usize, usize),
    vector: &Vector,
    scores: *mut f32,
) {
    let dim = tile.cache.dim;
    let stride = tile.cache.block_size * S::BYTES;
    // SAFETY: the rows and `count` positions exist.
    unsafe {
        let q = tile.q.add(row * dim);
        for m in 0..size {
            let mut acc = L::splat(0.0);
            for d in 0..dim {
                let keys: L = S::load_part(vector.keys.add(d * stride), vector.count);
                acc = L::splat(*q.add(d * size + m)).fma(keys, acc);
            }
            let to = scores.add((row + m) * CHUNK + vector.column);
            F32::store_part(to.cast(), acc, vector.count);
        }
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

/// Adds the values of `low..high` to all rows, each within what it sees.
#[inline(always)]
unsafe fn weigh_all<L: Lanes, S: Storage>(
    tile: &Tile,
    (low, high): (usize, usize),
    from: Workspace,
    state: State,
) {
    let dim = tile.cache.dim;
    // Later rows see later positions.
    let (last_start, end) = tile.visible(tile.rows - 1);
    let all = (last_start, tile.visible(0).1);
    let mut position = low;
    // SAFETY: segments lie in blocks that exist; the workspace has room for `VALUES` rows.
    unsafe {
        while position < high {
            let (count, at, offset) = segment(&tile.cache, position, high);
            let count = count.min(VALUES);
            let next = position + CHUNK;
            if next < end {
                let (count, at, offset) = segment(&tile.cache, next, end.min(next + count));
                ask_for::<L, S>(&tile.cache, tile.cache.k, at, offset..offset + count);
            }
            let v = tile.cache.v.add(at + offset * dim * S::BYTES);
            let (start, stop) = (position, position + count);
            // Most segments are seen by all rows.
            let range = (start, stop, all.0 <= start && stop <= all.1);
            // Few rows would not gain what widening costs. The products are the same.
            if tile.rows <= 6 {
                weigh_rows::<L, S>(tile, range, v, from.scores, state);
            } else {
                widen::<L, S>(v, from.values, count * dim);
                weigh_rows::<L, F32>(tile, range, from.values.cast(), from.scores, state);
            }
            position += count;
        }
    }
}

#[inline(always)]
unsafe fn weigh_rows<L: Lanes, S: Storage>(
    tile: &Tile,
    range: (usize, usize, bool),
    v: *const u8,
    scores: *const f32,
    state: State,
) {
    let mut row = 0;
    // SAFETY: the rows exist, the rest is the caller's promise.
    unsafe {
        while L::N == 16 && row + 6 <= tile.rows {
            weigh_group::<L, S, 6>(tile, row, range, v, scores, state);
            row += 6;
        }
        while row + 3 <= tile.rows {
            weigh_group::<L, S, 3>(tile, row, range, v, scores, state);
            row += 3;
        }
        while row < tile.rows {
            weigh_group::<L, S, 1>(tile, row, range, v, scores, state);
            row += 1;
        }
    }
}

/// Adds the values of `start..end` to `M` rows from `row` on, each within what it sees: of all of
/// them when `whole`.
#[inline(always)]
unsafe fn weigh_group<L: Lanes, S: Storage, const M: usize>(
    tile: &Tile,
    row: usize,
    (start, end, whole): (usize, usize, bool),
    v: *const u8,
    scores: *const f32,
    state: State,
) {
    let dim = tile.cache.dim;
    if whole {
        // SAFETY: the positions lie in the segment, the rows in the tile.
        unsafe {
            let (weights, out) =
                (scores.add(row * CHUNK + start % CHUNK), state.out.add(row * dim));
            return weigh::<L, S, M>(weights, v, end - start, out, dim);
        }
    }
    let (first, last) =
        (tile.visible_in(row, start, end), tile.visible_in(row + M - 1, start, end));
    // Later rows see later positions: the last row has the highest start, the first the lowest end.
    let common = if last.0 < first.1 { (last.0, first.1) } else { (end, end) };
    // SAFETY: positions stay in the segment, rows in the tile.
    unsafe {
        let weights = |r: usize, p: usize| scores.add(r * CHUNK + p % CHUNK);
        let value = |p: usize| v.add((p - start) * dim * S::BYTES);
        for r in row..row + M {
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
            weigh::<L, S, M>(weights(row, common.0), value(common.0), length, out, dim);
        }
        for r in row..row + M {
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
