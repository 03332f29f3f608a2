//! Scores: queries by groups of rows, keys by vectors of positions.

use super::{CHUNK, Tile, ask_for, segment};
use crate::simd::{F32, Lanes, Storage};

/// Vectors of keys that a row which is alone meets side by side: as many chains hide the latency.
const VECTORS: usize = 4;
/// Rows that meet the same keys side by side, from the first row on: as many as registers allow, then
/// fewer.
const GROUPS: [usize; 4] = [12, 6, 3, 1];

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
pub(super) unsafe fn score_all<L: Lanes, S: Storage>(
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
