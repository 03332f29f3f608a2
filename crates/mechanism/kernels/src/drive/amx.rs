//! Linear layers on the matrix unit: outputs are cut into panels of weight rows, never along `K`.

use super::Machine;
use crate::amx::{self, Columns, Gated, Panel};
use crate::gemm::Bias;
use crate::scratch::{Buffer, Floats, Scratch, Shared};
use crate::simd::XForm;
use crate::tensor::{Activation, DType, LinearJob, Matrix, Write};

/// Bytes of weights per task when they stream past a few rows of `x`.
const STREAM_BYTES: usize = 256 << 10;
/// Most bytes of sums per task that wait for the next block of `K`: half of L2.
const SUMS_BYTES: usize = 1 << 20;
/// Most rows of `x` per pass: see [`amx::sweep`].
const PASS_ROWS: usize = 512;
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
    /// Where gated products go instead of `out`.
    product: Option<Columns>,
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
            product: None,
        }
    }

    /// `act` of the first weight's outputs times the second's.
    fn gated(
        machine: Machine<'_>,
        (gate, up, act): (Matrix<'_>, Matrix<'_>, Activation),
        out: &mut [f32],
    ) -> TilePlan {
        let mut plan = TilePlan::new(&mut LinearJob::new(gate, out), gate);
        plan.w[1] = Shared::new(up.data.as_ptr().cast_mut());
        plan.gated = Some(Gated { act, activate_mul: machine.kernels.activate_mul });
        plan
    }

    /// Weight rows `first..first + rows`, for rows of `x` that begin with `x_row`.
    fn panel(&self, (x, x_row): (Columns, usize), first: usize, rows: usize) -> Panel {
        Panel {
            x,
            w: self.w.map(|w| w.at(0).cast_const()),
            n: self.rows,
            first,
            end: (first + rows).min(self.rows),
            out: self.out.at(x_row * self.rows),
            bias: self.bias.map(|(data, dtype)| Bias { dtype, data: data.at(0) }),
            mode: self.mode,
            gated: self.gated,
            product: self.product,
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
    run(machine, scratch, x, t, &plans);
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
        return run(machine, scratch, x, t, &[TilePlan::gated(machine, (gate, up, act), out)]);
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

/// A gated linear and what takes its product, all three weights the matrix unit's. With many rows the
/// product is rounded where it is made, as it would be before the second: that saves a pass over it
/// each way, and changes no bit. `inner` is for the product of few rows.
pub(crate) fn feed_forward(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: &[f32],
    gated: (Matrix<'_>, Matrix<'_>, Activation),
    inner: &mut Floats,
    (down, weight): (&mut LinearJob<'_>, Matrix<'_>),
) {
    let (k, n) = (gated.0.cols, gated.0.rows);
    let down = TilePlan::new(down, weight);
    for (pass, x) in x.chunks(PASS_ROWS * k).enumerate() {
        let (rows, first) = (x.len() / k, pass * PASS_ROWS);
        let columns = pack(machine, scratch, x, rows);
        let product = if columns.is_swept() {
            let product = columns_in(&mut scratch.product, rows, n / amx::STEP);
            let plan = TilePlan::gated(machine, gated, &mut []);
            let plan = TilePlan { product: Some(product), ..plan };
            run_pass(machine, scratch, (columns, 0), &[plan]);
            product
        } else {
            let inner = inner.sized(rows * n);
            let plan = TilePlan::gated(machine, gated, inner);
            run_pass(machine, scratch, (columns, 0), &[plan]);
            pack(machine, scratch, inner, rows)
        };
        run_pass(machine, scratch, (product, first), &[down]);
    }
}

/// Packs `x` (`[t, K]`), a task per group of rows.
fn pack(machine: Machine<'_>, scratch: &mut Scratch, x: &[f32], t: usize) -> Columns {
    let steps = x.len() / t / amx::STEP;
    let columns = columns_in(&mut scratch.x[XForm::Bf16 as usize], t, steps);
    machine.pool.for_each(columns.groups(), &|_, group| {
        // SAFETY: the instruction set is present, `x` holds `t` rows of whole steps, the buffer all
        // groups, and each task writes its own.
        unsafe { amx::pack_x(x.as_ptr(), &columns, group) }
    });
    columns
}

/// Room for `t` rows of `steps` steps.
fn columns_in(buffer: &mut Buffer, t: usize, steps: usize) -> Columns {
    let mut columns = Columns::new(Shared::new(std::ptr::null_mut()), t, steps);
    columns.at = Shared::new(buffer.bytes(columns.bytes()));
    columns
}

/// All plans for all rows of `x` (`[t, K]`), a region per pass.
fn run(machine: Machine<'_>, scratch: &mut Scratch, x: &[f32], t: usize, plans: &[TilePlan]) {
    if t == 0 || plans.is_empty() {
        return;
    }
    let k = x.len() / t;
    for (pass, x) in x.chunks(PASS_ROWS * k).enumerate() {
        let columns = pack(machine, scratch, x, x.len() / k);
        run_pass(machine, scratch, (columns, pass * PASS_ROWS), plans);
    }
}

fn run_pass(machine: Machine<'_>, scratch: &mut Scratch, x: (Columns, usize), plans: &[TilePlan]) {
    let columns = x.0;
    let total = plans.iter().map(|plan| tiles_of(plan).div_ceil(2)).sum();
    let blocks = task_blocks(&columns, total, machine.pool.threads());
    let rows = |plan: &TilePlan| blocks * amx::block_rows(plan.gated.is_some());
    let panel = |mut task: usize| {
        for plan in plans {
            let tasks = plan.rows.div_ceil(rows(plan));
            if task < tasks {
                return plan.panel(x, task * rows(plan), rows(plan));
            }
            task -= tasks;
        }
        unreachable!("tasks are counted below");
    };
    let tasks = plans.iter().map(|plan| plan.rows.div_ceil(rows(plan))).sum();
    let part = if columns.is_swept() { amx::sweep_bytes(&columns, blocks) } else { 0 };
    let parts = Shared::new(scratch.workers.bytes(machine.pool.threads() * part));
    machine.pool.for_each_ahead(tasks, &|worker, task, next| {
        let mut panel_of_task = panel(task);
        let next = next.map_or(panel_of_task, panel);
        panel_of_task.ahead = next.tiles(next.first);
        // SAFETY: the matrix unit is present and has no tiles of this thread's; shapes were
        // checked; panels write separate outputs, workers separate parts of the scratch.
        unsafe {
            if columns.is_swept() {
                amx::sweep(&panel_of_task, parts.at(worker * part));
            } else {
                amx::stream(&panel_of_task);
            }
        }
    });
}

/// Blocks of weight rows per task, of `total`: enough tasks for threads that are not equally fast.
/// Where `K` takes several passes, each task reads all of `x` from L3, and fewer are better.
fn task_blocks(x: &Columns, total: usize, threads: usize) -> usize {
    let blocks = if !x.is_swept() {
        (total / (threads * 4)).min(STREAM_BYTES / amx::block_bytes(x.steps))
    } else if x.block == x.steps {
        total / (threads * 8)
    } else {
        total.div_ceil(threads * 2).min(SUMS_BYTES / amx::sums_bytes(x))
    };
    blocks.max(1)
}

/// Tiles of weight rows in a plan.
fn tiles_of(plan: &TilePlan) -> usize {
    plan.rows.div_ceil(amx::ROWS) * if plan.gated.is_some() { 2 } else { 1 }
}
