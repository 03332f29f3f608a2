//! Values, weighted and summed position by position.

use super::{CHUNK, State, Tile, VALUES, Workspace, ask_for, segment};
use crate::elementwise::widen;
use crate::simd::{F32, Lanes, Storage};

/// Adds the values of `low..high` to all rows, each within what it sees.
#[inline(always)]
pub(super) unsafe fn weigh_all<L: Lanes, S: Storage>(
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
