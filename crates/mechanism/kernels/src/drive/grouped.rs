//! Linear layers with weights in groups: outputs are cut into panels of tiles, never along `K`.

use super::Machine;
use crate::gemm::Bias;
use crate::grouped::{GROUP, GroupedKernels, GroupedMatrix, Panel, ROWS, STREAM_ROWS, groups};
use crate::scratch::{Scratch, Shared};
use crate::tensor::{Activation, DType, LinearJob, Matrix, Vector, Weight, Write};

/// Bytes of weights per task when they stream past a few rows of `x`.
const STREAM_BYTES: usize = 128 << 10;
/// Bytes of weights that stay in cache while many rows of `x` pass.
const PANEL_BYTES: usize = 256 << 10;
/// Rows of `x` between the two halves of a gated linear, so its intermediate stays in cache.
const GATED_ROWS: usize = 48;
/// Most outputs per task; bounds a worker's part of the gated intermediate.
const MAX_PANEL_ROWS: usize = 512;
/// Values to prepare per task; fewer are prepared by the caller alone.
const PREPARE_VALUES: usize = 32 << 10;

/// One job as the tasks see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupedPlan {
    x: Prepared,
    weight: Tiles,
    bias: Option<(Shared<u8>, DType)>,
    out: Shared<f32>,
    t: usize,
    mode: Write,
    /// Outputs per task, whole tiles.
    panel: usize,
}

/// A [`GroupedMatrix`] that tasks share.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    grouped: crate::GroupedType,
    data: Shared<u8>,
    rows: usize,
    groups: usize,
}

/// Activations rounded to 8 bits.
#[derive(Debug, Clone, Copy)]
struct Prepared {
    at: Shared<u8>,
    stride: usize,
}

impl GroupedPlan {
    fn new(
        weight: GroupedMatrix<'_>,
        bias: Option<Vector<'_>>,
        (out, mode): (&mut [f32], Write),
        (x, t): (Prepared, usize),
        panel_bytes: usize,
    ) -> GroupedPlan {
        let GroupedMatrix { grouped, data, rows, cols } = weight;
        let groups = groups(cols);
        let data = Shared::new(data.as_ptr().cast_mut());
        let tiles = panel_bytes / grouped.tile_bytes(groups).max(1);
        GroupedPlan {
            x,
            weight: Tiles { grouped, data, rows, groups },
            bias: bias.map(|bias| (Shared::new(bias.data.as_ptr().cast_mut()), bias.dtype)),
            out: Shared::new(out.as_mut_ptr()),
            t,
            mode,
            panel: (tiles * ROWS).clamp(ROWS, MAX_PANEL_ROWS),
        }
    }

    fn tasks(&self) -> usize {
        if self.t == 0 { 0 } else { self.weight.rows.div_ceil(self.panel) }
    }

    /// Task `task`'s panel over all rows of `x`.
    fn panel(&self, task: usize) -> Panel {
        let Tiles { grouped, data, rows, groups } = self.weight;
        let first = task * self.panel;
        Panel {
            x: self.x.at.at(0),
            x_stride: self.x.stride,
            m: self.t,
            grouped,
            w: data.at(first / ROWS * grouped.tile_bytes(groups)),
            n: self.panel.min(rows - first),
            groups,
            out: self.out.at(first),
            out_stride: rows,
            bias: self
                .bias
                .map(|(data, dtype)| Bias { dtype, data: data.at(first * dtype.size_bytes()) }),
            mode: self.mode,
        }
    }
}

/// Rounds `x` (`[t, k]`).
fn prepare(machine: Machine<'_>, scratch: &mut Scratch, x: &[f32], t: usize) -> Prepared {
    let k = x.len().checked_div(t).unwrap_or(0);
    let stride = GroupedKernels::stride(groups(k));
    let at = Shared::new(scratch.grouped_x.bytes(t * stride));
    let rows = PREPARE_VALUES.div_ceil(k.max(1));
    machine.pool.for_each(t.div_ceil(rows), &|_, task| {
        let first = task * rows;
        let count = rows.min(t - first);
        let (from, to) = (x[first * k..].as_ptr(), at.at(first * stride));
        // SAFETY: rows `first..first + count` of `x` exist; the buffer holds `t` strides of whole
        // cache lines and each task writes its own.
        unsafe { (machine.grouped.prepare)(from, count, k, to, stride) }
    });
    Prepared { at, stride }
}

/// Those of `jobs` whose weights are in groups, in one region after one conversion of `x`.
pub(crate) fn linear(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    t: usize,
    jobs: &mut [LinearJob<'_>],
) {
    let total = jobs.iter().filter_map(|job| job.weight.grouped()).map(|w| w.data.len()).sum();
    if total == 0 {
        return;
    }
    let x = (prepare(machine, scratch, x, t), t);
    let bytes = panel_bytes(machine, t, total);
    let mut plans = std::mem::take(&mut scratch.grouped_plans);
    for job in jobs {
        if let Weight::Grouped(weight) = job.weight {
            plans.push(GroupedPlan::new(weight, job.bias, (job.out, job.mode), x, bytes));
        }
    }
    let tasks = plans.iter().map(GroupedPlan::tasks).sum();
    machine.pool.for_each(tasks, &|_, mut task| {
        for plan in &plans {
            if task < plan.tasks() {
                let panel = machine.grouped.panel(plan.weight.grouped);
                // SAFETY: shapes were checked; panels of one job write separate columns, jobs
                // separate outputs.
                unsafe { panel(&plan.panel(task)) };
                break;
            }
            task -= plan.tasks();
        }
    });
    plans.clear();
    scratch.grouped_plans = plans;
}

/// Cache-sized panels, smaller where that gives every thread several of them.
fn panel_bytes(machine: Machine<'_>, t: usize, total: usize) -> usize {
    let most = if t <= STREAM_ROWS { STREAM_BYTES } else { PANEL_BYTES };
    (total / (machine.pool.threads() * 4)).clamp(8 << 10, most)
}

/// `out = act(x·gateᵀ) * (x·upᵀ)`; shapes are checked.
pub(crate) fn gated_linear(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    t: usize,
    (gate, up, act): (GroupedMatrix<'_>, GroupedMatrix<'_>, Activation),
    out: &mut [f32],
) {
    let bytes = panel_bytes(machine, t, gate.data.len() + up.data.len()) / 2;
    let x = (prepare(machine, scratch, x, t), t);
    let mut plan = |weight| GroupedPlan::new(weight, None, (&mut *out, Write::Store), x, bytes);
    let (mut gate, mut up) = (plan(gate), plan(up));
    let rows = gate.panel.min(up.panel);
    (gate.panel, up.panel) = (rows, rows);
    let part = GATED_ROWS * rows;
    let parts = Shared::new(scratch.workers.floats(machine.pool.threads() * part));
    let kernels = [gate, up].map(|plan| machine.grouped.panel(plan.weight.grouped));
    let activate_mul = machine.kernels.activate_mul;
    machine.pool.for_each(gate.tasks(), &|worker, task| {
        let (mut gate, mut up) = (gate.panel(task), up.panel(task));
        up.out = parts.at(worker * part);
        up.out_stride = rows;
        for first in (0..t).step_by(GATED_ROWS) {
            let m = GATED_ROWS.min(t - first);
            (gate.m, up.m) = (m, m);
            // SAFETY: shapes were checked; tasks write separate columns of `out`, workers separate
            // parts of the scratch, which hold `GATED_ROWS` rows of a panel.
            unsafe {
                kernels[0](&gate);
                kernels[1](&up);
                for row in 0..m {
                    let (to, from) = (gate.out.add(row * gate.out_stride), up.out.add(row * rows));
                    activate_mul(act, to, from, gate.n);
                }
            }
            gate.x = gate.x.wrapping_add(m * gate.x_stride);
            up.x = up.x.wrapping_add(m * up.x_stride);
            gate.out = gate.out.wrapping_add(m * gate.out_stride);
        }
    });
}

/// Rounds a weight to `to`; `out` has the bytes that this takes. A task is a tile.
pub(crate) fn quantize(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    weight: Matrix<'_>,
    to: crate::GroupedType,
    out: &mut [u8],
) {
    let Matrix { dtype, data, rows, cols } = weight;
    if rows == 0 || cols == 0 {
        return;
    }
    let groups = groups(cols);
    let (width, tile_bytes) = (groups * GROUP, to.tile_bytes(groups));
    let parts = Shared::new(scratch.workers.floats(machine.pool.threads() * ROWS * width));
    let out = Shared::new(out.as_mut_ptr());
    let widen = machine.kernels.storage(dtype).widen;
    let row_bytes = cols * dtype.size_bytes();
    machine.pool.for_each(rows.div_ceil(ROWS), &|worker, tile| {
        let first = tile * ROWS;
        let count = ROWS.min(rows - first);
        // SAFETY: each worker has its own part of the scratch, `ROWS` rows of `width` initialised
        // values, and each task its own tile of `out`; the weight holds all of its rows.
        unsafe {
            let values = parts.at(worker * ROWS * width);
            let values = std::slice::from_raw_parts_mut(values, count * width);
            values.fill(0.0);
            for row in 0..count {
                let from = data[(first + row) * row_bytes..].as_ptr();
                widen(from, values[row * width..].as_mut_ptr(), cols);
            }
            let tile = std::slice::from_raw_parts_mut(out.at(tile * tile_bytes), tile_bytes);
            (machine.grouped.quantize)(to, values, cols, tile);
        }
    });
}
