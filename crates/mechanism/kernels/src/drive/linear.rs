//! Linear layers: outputs are cut into panels of weight rows, never along `K`.

use super::Machine;
use crate::gemm::{Bias, Panel, STREAM_ROWS, TILE, Upcoming, block_len};
use crate::scratch::{Scratch, Shared};
use crate::simd::XForm;
use crate::table::DotKernels;
use crate::tensor::{Activation, DType, LinearJob, Matrix, Write};

/// Bytes of weights per task when they stream past a few rows of `x`.
const STREAM_BYTES: usize = 128 << 10;
/// Bytes of a panel's block, as it is multiplied, that stay in L2 while the rows of `x` pass.
const PANEL_BYTES: usize = 256 << 10;
/// Rows of `x` that pass a block of weights before the next one comes: bounds the sums that wait.
const PASS_ROWS: usize = 512;
/// Most weight rows per task; bounds a worker's room.
const MAX_PANEL_ROWS: usize = 512;
/// Values to prepare per task; fewer are prepared by the caller alone.
const PREPARE_VALUES: usize = 32 << 10;

/// One job as the tasks see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    dot: DotKernels,
    x: Shared<u8>,
    x_stride: usize,
    w: Shared<u8>,
    w_stride: usize,
    bias: Option<(Shared<u8>, DType)>,
    out: Shared<f32>,
    rows: usize,
    cols: usize,
    t: usize,
    mode: Write,
    /// Weight rows per task.
    panel: usize,
}

impl Plan {
    /// A plan of tasks of about `task_bytes` of weights; `weight` is the job's.
    fn new(
        (job, weight): (&mut LinearJob<'_>, Matrix<'_>),
        t: usize,
        task_bytes: usize,
        x: Prepared,
    ) -> Plan {
        let Matrix { dtype, data, rows, cols } = weight;
        let w_stride = cols * dtype.size_bytes();
        let bias = job.bias.map(|bias| (Shared::new(bias.data.as_ptr().cast_mut()), bias.dtype));
        let mut plan = Plan {
            dot: x.dot,
            x: x.at,
            x_stride: x.stride,
            w: Shared::new(data.as_ptr().cast_mut()),
            w_stride,
            bias,
            out: Shared::new(job.out.as_mut_ptr()),
            rows,
            cols,
            t,
            mode: job.mode,
            panel: 0,
        };
        let most =
            if plan.passes() { PANEL_BYTES / plan.block_row_bytes() } else { MAX_PANEL_ROWS };
        // Whole tiles of eight rows, so that only the last panel has a rest.
        plan.panel = (task_bytes / w_stride.max(1)).min(most).clamp(8, MAX_PANEL_ROWS) / 8 * 8;
        plan
    }

    fn tasks(&self) -> usize {
        if self.t == 0 { 0 } else { self.rows.div_ceil(self.panel) }
    }

    /// Whether rows of `x` are so many that they pass by a panel, block by block.
    fn passes(&self) -> bool {
        self.t > STREAM_ROWS && self.cols > 0
    }

    /// Values of `K` per block.
    fn block(&self) -> usize {
        block_len(self.cols, self.dot.block)
    }

    /// Values that a row takes in a widened block.
    fn wide_stride(&self) -> usize {
        self.block().next_multiple_of(self.dot.step)
    }

    /// Bytes of a weight row in a block as it is multiplied.
    fn block_row_bytes(&self) -> usize {
        match self.dot.wide {
            Some(_) => self.wide_stride() * size_of::<f32>(),
            None => (self.block() * self.w_stride / self.cols.max(1)).max(1),
        }
    }

    /// Values that a worker needs beside the outputs: a widened block, and the sums that wait.
    fn room(&self) -> usize {
        match self.passes() {
            false => 0,
            true => self.wide_len() + PASS_ROWS.min(self.t) * self.panel,
        }
    }

    fn wide_len(&self) -> usize {
        self.dot.wide.map_or(0, |_| self.panel.next_multiple_of(TILE) * self.wide_stride())
    }

    /// What task `task` needs first.
    fn upcoming(&self, task: usize) -> Upcoming {
        if self.passes() { self.block_of(&self.panel(task), 0) } else { Upcoming::NOTHING }
    }

    /// The weights of the block of `panel` at `from`.
    fn block_of(&self, panel: &Panel, from: usize) -> Upcoming {
        let bytes = |values: usize| values * self.w_stride / self.cols;
        Upcoming {
            w: panel.w.wrapping_add(bytes(from)),
            stride: self.w_stride,
            rows: panel.n,
            bytes: bytes(self.block().min(self.cols - from)),
        }
    }

    /// Computes rows `first..first + m` of `x` by task `task`'s weights, into `out` if it is given
    /// (its first value and its stride) instead of the job's output. `next` is for after that.
    ///
    /// # Safety
    /// Shapes were checked; nobody else writes these outputs; `room` has [`Plan::room`] values for
    /// this thread alone.
    unsafe fn compute(
        &self,
        task: usize,
        (first, m): (usize, usize),
        out: Option<(*mut f32, usize)>,
        room: *mut f32,
        next: Upcoming,
    ) {
        let mut whole = self.panel(task);
        whole.x = whole.x.wrapping_add(first * self.x_stride);
        whole.out = whole.out.wrapping_add(first * self.rows);
        whole.m = m;
        if let Some((out, stride)) = out {
            (whole.out, whole.out_stride) = (out, stride);
        }
        // SAFETY: panels and passes lie inside what the caller vouches for.
        unsafe {
            if !self.passes() {
                return (self.dot.panel)(&whole);
            }
            for begin in (0..m).step_by(PASS_ROWS) {
                let is_last = m - begin <= PASS_ROWS;
                let pass = Panel {
                    x: whole.x.add(begin * self.x_stride),
                    m: PASS_ROWS.min(m - begin),
                    out: whole.out.add(begin * whole.out_stride),
                    upcoming: if is_last { next } else { self.upcoming(task) },
                    ..whole
                };
                self.pass(&pass, room);
            }
        }
    }

    /// All blocks of `K` of one pass; sums wait in `room` between them.
    ///
    /// # Safety
    /// As for [`Plan::compute`].
    unsafe fn pass(&self, whole: &Panel, room: *mut f32) {
        let waiting = room.wrapping_add(self.wide_len());
        let length = self.block();
        for from in (0..whole.k).step_by(length) {
            let is_last = whole.k - from <= length;
            let mut block = Panel {
                x: whole.x.wrapping_add(from * self.dot.x_bytes),
                w: self.block_of(whole, from).w,
                k: (whole.k - from).min(length),
                so_far: (from > 0).then_some((waiting.cast_const(), self.panel)),
                ..*whole
            };
            if !is_last {
                block.upcoming = self.block_of(whole, from + length);
                (block.out, block.out_stride) = (waiting, self.panel);
                (block.bias, block.mode) = (None, Write::Store);
            }
            // SAFETY: the block lies in the panel; the room has a widened block and a pass of sums.
            unsafe {
                match self.dot.wide {
                    None => (self.dot.panel)(&block),
                    Some(wide) => {
                        let stride = self.wide_stride();
                        (wide.pack)((block.w, block.w_stride), (block.n, block.k), room, stride);
                        block.w = room.cast_const().cast();
                        block.w_stride = stride * size_of::<f32>();
                        block.k = block.k.next_multiple_of(self.dot.step);
                        block.block = block.k;
                        (wide.panel)(&block);
                    }
                }
            }
        }
    }

    /// Task `task`'s panel over all rows of `x`.
    fn panel(&self, task: usize) -> Panel {
        let first = task * self.panel;
        Panel {
            x: self.x.at(0),
            x_stride: self.x_stride,
            m: self.t,
            w: self.w.at(first * self.w_stride),
            w_stride: self.w_stride,
            n: self.panel.min(self.rows - first),
            k: self.cols,
            block: self.block(),
            out: self.out.at(first),
            out_stride: self.rows,
            bias: self
                .bias
                .map(|(data, dtype)| Bias { dtype, data: data.at(first * dtype.size_bytes()) }),
            so_far: None,
            mode: self.mode,
            upcoming: Upcoming::NOTHING,
        }
    }
}

/// Activations in the form one kind of dot product takes.
#[derive(Clone, Copy)]
struct Prepared {
    dot: DotKernels,
    at: Shared<u8>,
    stride: usize,
}

/// Converts `x` (`[t, k]`). A row takes whole steps and one cache line more: rows a multiple of
/// 4 KiB apart would compete for the same sets of L1.
fn prepare(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    dot: DotKernels,
    x: &[f32],
    t: usize,
) -> Prepared {
    let k = x.len().checked_div(t).unwrap_or(0);
    let stride = (k.next_multiple_of(dot.step) * dot.x_bytes).next_multiple_of(64) + 64;
    let at = Shared::new(scratch.x[dot.x_form as usize].bytes(t * stride));
    let rows = PREPARE_VALUES.div_ceil(k.max(1));
    machine.pool.for_each(t.div_ceil(rows), &|_, task| {
        let first = task * rows;
        let count = rows.min(t - first);
        // SAFETY: rows `first..first + count` of `x` exist; the buffer holds `t` strides and each
        // task writes its own.
        unsafe { (dot.prepare)(x[first * k..].as_ptr(), count, k, at.at(first * stride), stride) }
    });
    Prepared { dot, at, stride }
}

/// All jobs in one region, after one conversion of `x` per kind of dot product.
pub(crate) fn linear(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    t: usize,
    jobs: &mut [LinearJob<'_>],
) {
    #[cfg(target_arch = "x86_64")]
    if machine.matrix_unit {
        super::amx::linear(machine, scratch, x, t, jobs);
    }
    super::grouped::linear(machine, scratch, x, t, jobs);
    let mut prepared: [Option<Prepared>; XForm::COUNT] = [None; XForm::COUNT];
    let total: usize = jobs.iter().filter_map(|job| job.weight.plain()).map(|w| w.data.len()).sum();
    let bytes = task_bytes(machine, t, total);
    let mut plans = std::mem::take(&mut scratch.plans);
    for job in jobs {
        let Some(weight) = job.weight.plain().filter(|weight| !machine.takes_tiles(weight)) else {
            continue;
        };
        let dot = machine.kernels.storage(weight.dtype).dot;
        let slot = &mut prepared[dot.x_form as usize];
        let x = *slot.get_or_insert_with(|| prepare(machine, scratch, dot, x, t));
        plans.push(Plan::new((job, weight), t, bytes, Prepared { dot, ..x }));
    }
    let tasks = plans.iter().map(Plan::tasks).sum();
    let room = plans.iter().map(Plan::room).max().unwrap_or(0);
    let rooms = Shared::new(scratch.workers.floats(machine.pool.threads() * room));
    let find = |mut task: usize| {
        for plan in &plans {
            if task < plan.tasks() {
                return (plan, task);
            }
            task -= plan.tasks();
        }
        unreachable!("tasks are those of the plans")
    };
    machine.pool.for_each_ahead(tasks, &|worker, task, next| {
        let (plan, task) = find(task);
        let next = next.map(find).map_or(Upcoming::NOTHING, |(plan, task)| plan.upcoming(task));
        // SAFETY: shapes were checked; panels of one job write separate columns, jobs separate
        // outputs, workers have a room each.
        unsafe { plan.compute(task, (0, t), None, rooms.at(worker * room), next) };
    });
    plans.clear();
    scratch.plans = plans;
}

/// Bytes of weights per task: few enough that every thread gets several tasks, and where weights
/// stream, enough for a smooth stream.
fn task_bytes(machine: Machine<'_>, t: usize, total: usize) -> usize {
    let most = if t <= STREAM_ROWS { STREAM_BYTES } else { usize::MAX };
    (total / (machine.pool.threads() * 4)).clamp(16 << 10, most)
}

/// `out = act(x·gateᵀ) * (x·upᵀ)`; shapes are checked.
pub(crate) fn gated_linear(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    t: usize,
    (gate, up, act): (Matrix<'_>, Matrix<'_>, Activation),
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if machine.takes_tiles(&gate) || machine.takes_tiles(&up) {
        return super::amx::gated_linear(machine, scratch, x, t, (gate, up, act), out);
    }
    let dots = [gate, up].map(|w| machine.kernels.storage(w.dtype).dot);
    let bytes = task_bytes(machine, t, gate.data.len() + up.data.len()) / 2;
    let mut plan = |scratch: &mut Scratch, weight, dot| {
        let mut job = LinearJob::new(weight, &mut *out);
        Plan::new((&mut job, weight), t, bytes, prepare(machine, scratch, dot, x, t))
    };
    let mut gate = plan(scratch, gate, dots[0]);
    let same = dots[1].x_form == dots[0].x_form;
    let mut up = if same {
        let x = Prepared { dot: dots[1], at: gate.x, stride: gate.x_stride };
        Plan::new((&mut LinearJob::new(up, &mut *out), up), t, bytes, x)
    } else {
        plan(scratch, up, dots[1])
    };
    let rows = gate.panel.min(up.panel);
    (gate.panel, up.panel) = (rows, rows);
    let part = PASS_ROWS.min(t) * rows;
    let room = part + gate.room().max(up.room());
    let rooms = Shared::new(scratch.workers.floats(machine.pool.threads() * room));
    let activate_mul = machine.kernels.activate_mul;
    machine.pool.for_each_ahead(gate.tasks(), &|worker, task, next| {
        let next = next.map_or(Upcoming::NOTHING, |next| gate.upcoming(next));
        let ups = rooms.at(worker * room);
        let room = ups.wrapping_add(part);
        let to = gate.panel(task);
        for first in (0..t).step_by(PASS_ROWS) {
            let m = PASS_ROWS.min(t - first);
            // SAFETY: shapes were checked; tasks write separate columns of `out`, workers have
            // separate rooms, which hold a pass of a panel beside what the plans need.
            unsafe {
                gate.compute(task, (first, m), None, room, up.upcoming(task));
                let next = if first + m < t { gate.upcoming(task) } else { next };
                up.compute(task, (first, m), Some((ups, rows)), room, next);
                for row in 0..m {
                    let gates = to.out.add((first + row) * to.out_stride);
                    activate_mul(act, gates, ups.add(row * rows), to.n);
                }
            }
        }
    });
}
