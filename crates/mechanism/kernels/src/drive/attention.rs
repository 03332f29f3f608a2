//! Attention: one task per tile of queries, or per tile and chunk when tiles are few.

use super::Machine;
use crate::attention::{CHUNK, Cache, State, Tile, VALUES, Workspace, prepare, reset, state_len};
use crate::scratch::{Scratch, Shared};
use crate::table::StorageKernels;
use crate::tensor::{AttentionArgs, KvLayer, Sight};

/// Most rows (query tokens times heads per kv head) of a tile, unless one token has more.
const TILE_ROWS: usize = 64;
/// Most bytes of partial states before chunks of one tile are left to one thread.
const MAX_PARTIAL_BYTES: usize = 64 << 20;

/// One tile and where its results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// Its `q` is set when a worker has prepared the queries.
    tile: Tile,
    first_token: usize,
    kv_head: usize,
    /// Number of its first partial state.
    first_partial: usize,
}

// SAFETY: the pointers of the tile are followed only during the call that made the task.
unsafe impl Send for Task {}

/// A checked call.
struct Call<'a> {
    q: &'a [f32],
    out: Shared<f32>,
    kernels: &'a StorageKernels,
    merge: unsafe fn(State, State, usize, usize),
    num_heads: usize,
    group: usize,
    dim: usize,
    max_rows: usize,
    tasks: Vec<Task>,
}

// SAFETY: the raw pointers in `tasks` are to the cache and the block tables, which are borrowed
// for the whole call and only read.
unsafe impl Sync for Call<'_> {}

/// Attends; shapes and block ids are checked.
pub(crate) fn attention(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    a: &AttentionArgs<'_>,
    q: &[f32],
    kv: &KvLayer<'_>,
    out: &mut [f32],
) {
    let mut call = Call::new(machine, a, q, kv, out, std::mem::take(&mut scratch.tasks));
    run(machine, scratch, &call);
    call.tasks.clear();
    scratch.tasks = call.tasks;
}

fn run(machine: Machine<'_>, scratch: &mut Scratch, call: &Call<'_>) {
    let partials = call.tasks.last().map_or(0, |t| t.first_partial + t.tile.chunks().len());
    let state = state_len(call.max_rows, call.dim).next_multiple_of(16);
    let part = Part::len(call, state);
    let workers = Shared::new(scratch.workers.floats(machine.pool.threads() * part));
    let worker_part = |worker: usize| Part::at(workers.at(worker * part), call, state);
    let few = call.tasks.len() < 4 * machine.pool.threads() && partials > call.tasks.len();
    let split = machine.pool.threads() > 1 && few && partials * state * 4 <= MAX_PARTIAL_BYTES;
    if !split {
        return machine.pool.for_each(call.tasks.len(), &|worker, task| {
            // SAFETY: the part belongs to this worker alone, and has room for the widest tile.
            unsafe { call.whole(&call.tasks[task], &worker_part(worker)) }
        });
    }
    let states = Shared::new(scratch.shared.floats(partials * state));
    machine.pool.for_each(partials, &|worker, partial| {
        let task = &call.tasks[call.tasks.partition_point(|t| t.first_partial <= partial) - 1];
        let chunk = task.tile.chunks().start + partial - task.first_partial;
        let (part, to) =
            (worker_part(worker), State::at(states.at(partial * state), task.tile.rows));
        // SAFETY: part and partial state belong to this task alone.
        unsafe {
            let tile = call.prepare(task, part.queries);
            (call.kernels.attend)(&tile, chunk, part.workspace, to);
        }
    });
    machine.pool.for_each(call.tasks.len(), &|worker, index| {
        let task = &call.tasks[index];
        let (rows, sum) = (task.tile.rows, worker_part(worker).sum(task.tile.rows));
        // SAFETY: the partial states were written by the region before; `sum` is this worker's.
        unsafe {
            reset(sum, rows, call.dim);
            for i in 0..task.tile.chunks().len() {
                let next = State::at(states.at((task.first_partial + i) * state), rows);
                (call.merge)(sum, next, rows, call.dim);
            }
            call.finish(task, sum);
        }
    });
}

/// A worker's scratch.
struct Part {
    queries: *mut f32,
    workspace: Workspace,
    states: *mut f32,
    state: usize,
}

impl Part {
    /// f32 values of the parts before the two states.
    fn lens(call: &Call<'_>) -> [usize; 3] {
        [call.max_rows * call.dim, call.max_rows * CHUNK, VALUES * call.dim]
            .map(|len| len.next_multiple_of(16))
    }

    /// f32 values in all.
    fn len(call: &Call<'_>, state: usize) -> usize {
        Part::lens(call).iter().sum::<usize>() + 2 * state
    }

    fn at(base: *mut f32, call: &Call<'_>, state: usize) -> Part {
        let [queries, scores, values] = Part::lens(call);
        let scores_at = base.wrapping_add(queries);
        let values_at = scores_at.wrapping_add(scores);
        Part {
            queries: base,
            workspace: Workspace { scores: scores_at, values: values_at },
            states: values_at.wrapping_add(values),
            state,
        }
    }

    /// The state of all chunks so far.
    fn sum(&self, rows: usize) -> State {
        State::at(self.states, rows)
    }

    /// The state of one chunk.
    fn next(&self, rows: usize) -> State {
        State::at(self.states.wrapping_add(self.state), rows)
    }
}

impl<'a> Call<'a> {
    fn new(
        machine: Machine<'a>,
        a: &AttentionArgs<'_>,
        q: &'a [f32],
        kv: &KvLayer<'_>,
        out: &mut [f32],
        tasks: Vec<Task>,
    ) -> Call<'a> {
        let kernels = machine.kernels.storage(kv.dtype);
        let group = a.num_heads / kv.num_kv_heads;
        let mut call = Call {
            q,
            out: Shared::new(out.as_mut_ptr()),
            kernels,
            merge: machine.kernels.merge,
            num_heads: a.num_heads,
            group,
            dim: kv.head_dim,
            max_rows: 0,
            tasks,
        };
        for sequence in 0..a.context_lens.len() {
            for kv_head in 0..kv.num_kv_heads {
                call.add_tiles(a, kv, sequence, kv_head);
            }
        }
        call
    }

    /// Cuts one sequence's queries of one kv head into tiles.
    fn add_tiles(
        &mut self,
        a: &AttentionArgs<'_>,
        kv: &KvLayer<'_>,
        sequence: usize,
        kv_head: usize,
    ) {
        let (start, end) = (a.q_starts[sequence] as usize, a.q_starts[sequence + 1] as usize);
        let head_bytes = kv.block_size * kv.head_dim * kv.dtype.size_bytes();
        let cache = Cache {
            k: kv.k.as_ptr(),
            k_end: kv.k.as_ptr_range().end,
            v: kv.v.as_ptr(),
            table: a.block_tables[sequence].as_ptr(),
            block_size: kv.block_size,
            block_stride: kv.num_kv_heads * head_bytes,
            head_offset: kv_head * head_bytes,
            dim: kv.head_dim,
        };
        let tokens = (TILE_ROWS / self.group).max(1);
        let context = a.context_lens[sequence] as usize;
        for first in (start..end).step_by(tokens) {
            let position = context - (end - first);
            let (last, advance, window) = match a.sight {
                Sight::Past => (position, 1, usize::MAX),
                Sight::Window(size) => (position, 1, size as usize),
                Sight::All => (context - 1, 0, usize::MAX),
            };
            let tile = Tile {
                cache,
                q: std::ptr::null(),
                rows: tokens.min(end - first) * self.group,
                group: self.group,
                last,
                advance,
                window,
                scale: a.scale,
            };
            let first_partial =
                self.tasks.last().map_or(0, |t| t.first_partial + t.tile.chunks().len());
            self.max_rows = self.max_rows.max(tile.rows);
            self.tasks.push(Task { tile, first_token: first, kv_head, first_partial });
        }
    }

    /// Index of a row's first value in `q` and `out`.
    fn row(&self, task: &Task, row: usize) -> usize {
        let (token, head) = (row / self.group, row % self.group);
        let head = task.kv_head * self.group + head;
        ((task.first_token + token) * self.num_heads + head) * self.dim
    }

    /// Brings a tile's queries together.
    ///
    /// # Safety
    /// `to` has room for the tile's rows and is this thread's alone.
    unsafe fn prepare(&self, task: &Task, to: *mut f32) -> Tile {
        let query = |row| &self.q[self.row(task, row)..][..self.dim];
        // SAFETY: the caller's promise.
        unsafe { prepare(task.tile.rows, self.dim, query, to) }
        Tile { q: to, ..task.tile }
    }

    /// Walks all chunks of a tile.
    ///
    /// # Safety
    /// `part` is this thread's alone.
    unsafe fn whole(&self, task: &Task, part: &Part) {
        let rows = task.tile.rows;
        let (sum, next) = (part.sum(rows), part.next(rows));
        // SAFETY: the part has room for the widest tile; blocks were checked.
        unsafe {
            let tile = self.prepare(task, part.queries);
            reset(sum, rows, self.dim);
            for chunk in tile.chunks() {
                (self.kernels.attend)(&tile, chunk, part.workspace, next);
                (self.merge)(sum, next, rows, self.dim);
            }
            self.finish(task, sum);
        }
    }

    /// Divides by the sums and writes the tile's rows.
    ///
    /// # Safety
    /// `state` holds the tile's rows; no other thread writes the same rows of `out`.
    unsafe fn finish(&self, task: &Task, state: State) {
        for row in 0..task.tile.rows {
            let to = self.out.at(self.row(task, row));
            // SAFETY: row `row` of the state, and its row of `out`, have `dim` values.
            unsafe {
                let sum = *state.sum.add(row);
                for d in 0..self.dim {
                    *to.add(d) = *state.out.add(row * self.dim + d) / sum;
                }
            }
        }
    }
}
