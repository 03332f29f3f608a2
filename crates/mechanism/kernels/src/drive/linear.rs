//! Linear layers: outputs are cut into panels of weight rows, never along `K`.

use super::Machine;
use crate::gemm::{Bias, PANEL_BYTES, Panel, STREAM_ROWS};
use crate::scratch::{Scratch, Shared};
use crate::simd::XForm;
use crate::table::{DotKernels, WideKernels};
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
        // Widened panels count as what they become.
        let row_bytes = plan.wide().map_or(w_stride, |_| plan.wide_stride() * size_of::<f32>());
        // Whole tiles of eight rows, so that only the last panel has a rest.
        plan.panel = (panel_bytes / row_bytes.max(1)).clamp(8, MAX_PANEL_ROWS) / 8 * 8;
        plan
    }

    fn tasks(&self) -> usize {
        if self.t == 0 { 0 } else { self.rows.div_ceil(self.panel) }
    }

    /// Whether panels are widened once, because many rows of `x` pass them.
    fn wide(&self) -> Option<WideKernels> {
        self.dot.wide.filter(|_| self.t > STREAM_ROWS)
    }

    /// Values between two rows of a widened panel: whole steps and one cache line more, as for `x`.
    fn wide_stride(&self) -> usize {
        self.cols.next_multiple_of(self.dot.step) + 16
    }

    /// Values that a worker needs for a widened panel.
    fn wide_len(&self) -> usize {
        self.wide().map_or(0, |_| self.panel * self.wide_stride())
    }

    /// Task `task`'s panel, with its weights widened in `room` where that pays, and the kernel that
    /// computes it.
    ///
    /// # Safety
    /// The shapes were checked, and `room` has [`Plan::wide_len`] values for this thread alone.
    unsafe fn ready(&self, task: usize, room: *mut f32) -> (Panel, unsafe fn(&Panel)) {
        let panel = self.panel(task);
        let Some(wide) = self.wide() else { return (panel, self.dot.panel) };
        let stride = self.wide_stride();
        // SAFETY: the room has as many rows as a panel, each of whole steps.
        unsafe { (wide.pack)((panel.w, panel.w_stride), (panel.n, panel.k), room, stride) };
        let widened = Panel {
            w: room.cast_const().cast(),
            w_stride: stride * size_of::<f32>(),
            k: panel.k.next_multiple_of(self.dot.step),
            ..panel
        };
        (widened, wide.panel)
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
    let mut prepared: [Option<Prepared>; XForm::COUNT] = [None; XForm::COUNT];
    let total: usize = jobs.iter().map(|job| job.weight.data.len()).sum();
    let bytes = panel_bytes(machine, t, total);
    let mut plans = std::mem::take(&mut scratch.plans);
    for job in jobs.iter_mut().filter(|job| !machine.takes_tiles(&job.weight)) {
        let dot = machine.kernels.storage(job.weight.dtype).dot;
        let slot = &mut prepared[dot.x_form as usize];
        let x = *slot.get_or_insert_with(|| prepare(machine, scratch, dot, x, t));
        plans.push(Plan::new(job, t, bytes, Prepared { dot, ..x }));
    }
    let tasks = plans.iter().map(Plan::tasks).sum();
    let room = plans.iter().map(Plan::wide_len).max().unwrap_or(0);
    let rooms = Shared::new(scratch.workers.floats(machine.pool.threads() * room));
    machine.pool.for_each(tasks, &|worker, mut task| {
        for plan in &plans {
            if task < plan.tasks() {
                // SAFETY: shapes were checked; panels of one job write separate columns, jobs
                // separate outputs, workers have a room each.
                unsafe {
                    let (panel, compute) = plan.ready(task, rooms.at(worker * room));
                    compute(&panel);
                }
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
    let same = dots[1].x_form == dots[0].x_form;
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
    let room = part + gate.wide_len() + up.wide_len();
    let rooms = Shared::new(scratch.workers.floats(machine.pool.threads() * room));
    let activate_mul = machine.kernels.activate_mul;
    let plans = (gate, up);
    machine.pool.for_each(plans.0.tasks(), &|worker, task| {
        let room = rooms.at(worker * room);
        let (for_gate, for_up) = (room.wrapping_add(part), plans.0.wide_len() + part);
        // SAFETY: shapes were checked, and every worker has a room of its own.
        let ((mut gate, gate_panel), (mut up, up_panel)) = unsafe {
            (
                plans.0.ready(task, for_gate),
                plans.1.ready(task, room.wrapping_add(for_up)),
            )
        };
        up.out = room;
        up.out_stride = rows;
        for first in (0..t).step_by(GATED_ROWS) {
            let m = GATED_ROWS.min(t - first);
            // A stream keeps its own tile shape; bits are the same either way.
            (gate.m, up.m) = (m, m);
            // SAFETY: shapes were checked; tasks write separate columns of `out`, workers separate
            // parts of the scratch, which hold `GATED_ROWS` rows of a panel.
            unsafe {
                gate_panel(&gate);
                up_panel(&up);
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
