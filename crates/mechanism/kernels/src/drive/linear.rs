//! Linear layers: outputs are cut into panels of weight rows, never along `K`.

use super::Machine;
use crate::gemm::{Bias, PANEL_BYTES, Panel, STREAM_ROWS};
use crate::scratch::{Scratch, Shared};
use crate::table::DotKernels;
use crate::tensor::{Activation, DType, LinearJob, Matrix, Write};

/// Bytes of weights per task when they stream past a few rows of `x`.
const STREAM_BYTES: usize = 128 << 10;
/// Rows of `x` between the two halves of a gated linear, so its intermediate stays in cache.
const GATED_ROWS: usize = 48;
/// Most weight rows per task; bounds a worker's part of the gated intermediate.
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
    fn new(job: &mut LinearJob<'_>, t: usize, panel_bytes: usize, x: Prepared) -> Plan {
        let Matrix { dtype, data, rows, cols } = job.weight;
        let w_stride = cols * dtype.size_bytes();
        let bias = job.bias.map(|bias| (Shared::new(bias.data.as_ptr().cast_mut()), bias.dtype));
        // Whole tiles of eight rows, so that only the last panel has a rest.
        let panel = (panel_bytes / w_stride.max(1)).clamp(8, MAX_PANEL_ROWS) / 8 * 8;
        Plan {
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
            panel,
        }
    }

    fn tasks(&self) -> usize {
        if self.t == 0 { 0 } else { self.rows.div_ceil(self.panel) }
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
            out: self.out.at(first),
            out_stride: self.rows,
            bias: self
                .bias
                .map(|(data, dtype)| Bias { dtype, data: data.at(first * dtype.size_bytes()) }),
            mode: self.mode,
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
    let at = Shared::new(scratch.x[usize::from(dot.x_bytes == 2)].bytes(t * stride));
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
    let mut prepared: [Option<Prepared>; 2] = [None, None];
    let total: usize = jobs.iter().map(|job| job.weight.data.len()).sum();
    let bytes = panel_bytes(machine, t, total);
    let mut plans = std::mem::take(&mut scratch.plans);
    for job in jobs.iter_mut().filter(|job| !machine.takes_tiles(&job.weight)) {
        let dot = machine.kernels.storage(job.weight.dtype).dot;
        let slot = &mut prepared[usize::from(dot.x_bytes == 2)];
        let x = *slot.get_or_insert_with(|| prepare(machine, scratch, dot, x, t));
        plans.push(Plan::new(job, t, bytes, Prepared { dot, ..x }));
    }
    let tasks = plans.iter().map(Plan::tasks).sum();
    machine.pool.for_each(tasks, &|_, mut task| {
        for plan in &plans {
            if task < plan.tasks() {
                // SAFETY: shapes were checked; panels of one job write separate columns, jobs
                // separate outputs.
                unsafe { (plan.dot.panel)(&plan.panel(task)) };
                break;
            }
            task -= plan.tasks();
        }
    });
    plans.clear();
    scratch.plans = plans;
}

/// Cache-sized panels, smaller where that gives every thread several of them.
fn panel_bytes(machine: Machine<'_>, t: usize, total: usize) -> usize {
    let most = if t <= STREAM_ROWS { STREAM_BYTES } else { PANEL_BYTES };
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
    let bytes = panel_bytes(machine, t, gate.data.len() + up.data.len()) / 2;
    let mut plan = |scratch: &mut Scratch, weight, dot| {
        let mut job = LinearJob { weight, bias: None, out: &mut *out, mode: Write::Store };
        Plan::new(&mut job, t, bytes, prepare(machine, scratch, dot, x, t))
    };
    let mut gate = plan(scratch, gate, dots[0]);
    let same = dots[1].x_bytes == dots[0].x_bytes;
    let mut up = if same {
        let x = Prepared { dot: dots[1], at: gate.x, stride: gate.x_stride };
        let mut job = LinearJob { weight: up, bias: None, out: &mut *out, mode: Write::Store };
        Plan::new(&mut job, t, bytes, x)
    } else {
        plan(scratch, up, dots[1])
    };
    let rows = gate.panel.min(up.panel);
    (gate.panel, up.panel) = (rows, rows);
    let part = GATED_ROWS * rows;
    let parts = Shared::new(scratch.workers.floats(machine.pool.threads() * part));
    let activate_mul = machine.kernels.activate_mul;
    machine.pool.for_each(gate.tasks(), &|worker, task| {
        let (mut gate, mut up) = (gate.panel(task), up.panel(task));
        up.out = parts.at(worker * part);
        up.out_stride = rows;
        for first in (0..t).step_by(GATED_ROWS) {
            let m = GATED_ROWS.min(t - first);
            // A stream keeps its own tile shape; bits are the same either way.
            (gate.m, up.m) = (m, m);
            // SAFETY: shapes were checked; tasks write separate columns of `out`, workers separate
            // parts of the scratch, which hold `GATED_ROWS` rows of a panel.
            unsafe {
                (dots[0].panel)(&gate);
                (dots[1].panel)(&up);
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
