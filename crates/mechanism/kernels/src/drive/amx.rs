//! Linear layers on the matrix unit: outputs are cut into panels of weight rows, never along `K`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Machine;
use crate::amx::{self, Columns, Gated, Panel, Tiles};
use crate::gemm::Bias;
use crate::scratch::{Scratch, Shared};
use crate::simd::XForm;
use crate::tensor::{Activation, DType, LinearJob, Matrix, Write};

/// Bytes of weights per task when they stream past a few rows of `x`.
const STREAM_BYTES: usize = 256 << 10;
/// Bytes of weights per task when they are copied: they stay in half of L2 while `x` passes.
const PANEL_BYTES: usize = 1 << 20;
/// Rows of `x` at a time when only one half of a gated linear is the matrix unit's.
const MIXED_ROWS: usize = 64;

/// One job as the tasks see it, or the two halves of a gated linear.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TilePlan {
    w: [Shared<u8>; 2],
    rows: usize,
    out: Shared<f32>,
    bias: Option<(Shared<u8>, DType)>,
    mode: Write,
    gated: Option<Gated>,
}

impl TilePlan {
    /// `weight` is the job's.
    fn new(job: &mut LinearJob<'_>, weight: Matrix<'_>) -> TilePlan {
        let w = Shared::new(weight.data.as_ptr().cast_mut());
        TilePlan {
            w: [w, w],
            rows: weight.rows,
            out: Shared::new(job.out.as_mut_ptr()),
            bias: job.bias.map(|b| (Shared::new(b.data.as_ptr().cast_mut()), b.dtype)),
            mode: job.mode,
            gated: None,
        }
    }

    fn panel(&self, x: Columns, first: usize, rows: usize) -> Panel {
        Panel {
            x,
            w: self.w.map(|w| w.at(0).cast_const()),
            n: self.rows,
            first,
            end: (first + rows).min(self.rows),
            out: self.out.at(0),
            bias: self.bias.map(|(data, dtype)| Bias { dtype, data: data.at(0) }),
            mode: self.mode,
            gated: self.gated,
            ahead: [std::ptr::null(); 2],
        }
    }
}

/// Computes those of `jobs` whose weights fit the matrix unit, in one region.
pub(crate) fn linear(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    t: usize,
    jobs: &mut [LinearJob<'_>],
) {
    let mut plans = std::mem::take(&mut scratch.tile_plans);
    for job in jobs {
        if let Some(weight) = job.weight.plain().filter(amx::fits) {
            plans.push(TilePlan::new(job, weight));
        }
    }
    if t > 0 && !plans.is_empty() {
        let x = pack(machine, scratch, x, t);
        run(machine, scratch, x, &plans);
    }
    plans.clear();
    scratch.tile_plans = plans;
}

/// `out = act(x·gateᵀ) * (x·upᵀ)`, where the matrix unit takes at least one of the weights; shapes
/// are checked.
pub(crate) fn gated_linear(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    t: usize,
    (gate, up, act): (Matrix<'_>, Matrix<'_>, Activation),
    out: &mut [f32],
) {
    if amx::fits(&gate) && amx::fits(&up) {
        let mut plan = TilePlan::new(&mut LinearJob::new(gate, out), gate);
        plan.w[1] = Shared::new(up.data.as_ptr().cast_mut());
        plan.gated = Some(Gated { act, activate_mul: machine.kernels.activate_mul });
        if t > 0 {
            let x = pack(machine, scratch, x, t);
            run(machine, scratch, x, &[plan]);
        }
        return;
    }
    // No model mixes types here, so that this may take memory of its own.
    let (n, k) = (gate.rows, gate.cols);
    let mut part = vec![0.0; MIXED_ROWS.min(t) * n];
    for (x, out) in x.chunks(MIXED_ROWS * k).zip(out.chunks_mut(MIXED_ROWS * n)) {
        let part = &mut part[..out.len()];
        let mut jobs = [LinearJob::new(gate, &mut *out), LinearJob::new(up, &mut *part)];
        super::linear(machine, scratch, x, x.len() / k, &mut jobs);
        super::gate(machine, act, out, part);
    }
}

/// Packs `x` (`[t, K]`), a task per group of rows.
fn pack(machine: Machine<'_>, scratch: &mut Scratch, x: &[f32], t: usize) -> Columns {
    let mut columns =
        Columns { at: Shared::new(std::ptr::null_mut()), t, steps: x.len() / t / amx::STEP };
    let bytes = columns.groups() * columns.group_bytes();
    columns.at = Shared::new(scratch.x[XForm::Bf16 as usize].bytes(bytes));
    machine.pool.for_each(columns.groups(), &|_, group| {
        // SAFETY: the instruction set is present, `x` holds `t` rows of whole steps, the buffer all
        // groups, and each task writes its own.
        unsafe { amx::pack_x(x.as_ptr(), &columns, group) }
    });
    columns
}

/// All plans in one region. A thread takes its next task before it computes one, so that it can
/// prefetch the next task's weights.
fn run(machine: Machine<'_>, scratch: &mut Scratch, x: Columns, plans: &[TilePlan]) {
    let threads = machine.pool.threads();
    let copied = x.t > amx::STREAM_ROWS;
    let total: usize = plans.iter().map(|plan| tiles_of(plan).div_ceil(2)).sum();
    let most = if copied { PANEL_BYTES } else { STREAM_BYTES };
    let blocks = (total / (threads * 4)).min(most / amx::packed_bytes(1, x.steps, false)).max(1);
    let rows = |plan: &TilePlan| blocks * amx::block_rows(plan.gated.is_some());
    let panel = |mut task: usize| {
        for plan in plans {
            let tasks = plan.rows.div_ceil(rows(plan));
            if task < tasks {
                return Some(plan.panel(x, task * rows(plan), rows(plan)));
            }
            task -= tasks;
        }
        None
    };
    let part = if copied { blocks * amx::packed_bytes(1, x.steps, false) } else { 0 };
    let parts = Shared::new(scratch.workers.bytes(threads * part));
    let next = AtomicUsize::new(0);
    let work = |worker: usize| {
        let take = || panel(next.fetch_add(1, Ordering::Relaxed));
        let Some(mut panel) = take() else { return };
        // SAFETY: the matrix unit is present, and these are the thread's only tiles.
        let _tiles = unsafe { Tiles::configure(x.width()) };
        loop {
            let after = take();
            panel.ahead = after.map_or(panel.tiles(panel.first), |next| next.tiles(next.first));
            // SAFETY: shapes were checked; panels write separate outputs, workers separate parts
            // of the scratch, which hold a task's blocks.
            unsafe { amx::compute(&panel, parts.at(worker * part)) };
            match after {
                Some(next) => panel = next,
                None => break,
            }
        }
    };
    let one = panel(1).is_none();
    if one { work(0) } else { machine.pool.run(&work) }
}

/// Tiles of weight rows in a plan.
fn tiles_of(plan: &TilePlan) -> usize {
    plan.rows.div_ceil(amx::ROWS) * if plan.gated.is_some() { 2 } else { 1 }
}
