//! The safe entry points: every shape is checked here, once, before any kernel runs.
//!
//! Legend: `T` tokens, `K` inputs, `N` outputs, `H` query heads, `H_kv` key/value heads, `D` head
//! size, `B` cache blocks, `S` tokens per block, `R` sequences. All activations are f32, row-major.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::drive::{self, Elements, Machine};
use crate::error::{KernelError, expect_count, expect_len, product};
use crate::grouped::{GroupedKernels, GroupedMatrix, GroupedType};
use crate::isa::Isa;
use crate::pool::Pool;
use crate::scratch::{Floats, Scratch, Shared};
use crate::table::Kernels;
use crate::tensor::{Activation, AttentionArgs, KvLayer, LinearJob, Matrix, Vector, Weight};

/// Most threads a pool accepts.
const MAX_THREADS: usize = 1024;

/// How a [`Cpu`] is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuOptions {
    /// Threads that compute, the calling one included; `None` uses every core this process may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the best one the processor has.
    pub isa: Option<Isa>,
}

/// A table of kernels for one instruction set and the threads that run them.
///
/// For one instruction set, the bits of a result row depend on that row's inputs alone: not on the
/// number of threads, the other rows of the batch, or the way a prompt was cut into chunks.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    /// Held for a whole call: calls from several threads take turns.
    scratch: Mutex<Scratch>,
}

impl Cpu {
    /// Chooses the kernels and starts the worker threads.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedIsa`], [`KernelError::Threads`] or [`KernelError::Spawn`].
    pub fn new(options: CpuOptions) -> Result<Cpu, KernelError> {
        let best = Isa::detect();
        let isa = options.isa.unwrap_or(best);
        if !isa.is_available() {
            return Err(KernelError::UnsupportedIsa { asked: isa, best });
        }
        let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = options.threads.unwrap_or(usable.min(MAX_THREADS));
        if threads == 0 || threads > MAX_THREADS {
            return Err(KernelError::Threads { found: threads, max: MAX_THREADS });
        }
        let pool = Pool::new(threads).map_err(KernelError::Spawn)?;
        Ok(Cpu { isa, pool, scratch: Mutex::default() })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs `f(thread)` once on every computing thread, all together, and returns when all are done.
    ///
    /// # Panics
    /// When `f` does, after all threads have finished.
    pub fn on_every_thread(&self, f: &(dyn Fn(usize) + Sync)) {
        self.pool.run_on_all(f);
    }

    /// Runs `f` once on every item, side by side on the computing threads, and returns when all are
    /// done.
    ///
    /// # Panics
    /// When `f` does, after all threads have finished.
    pub fn for_each_mut<T: Send>(&self, items: &mut [T], f: &(dyn Fn(&mut T) + Sync)) {
        let first = Shared::new(items.as_mut_ptr().cast::<u8>());
        self.pool.for_each(items.len(), &|_, index| {
            // SAFETY: every index below the number of items is taken exactly once, so nobody else
            // has this item, and the items are borrowed until the call returns.
            f(unsafe { &mut *first.at(index * size_of::<T>()).cast::<T>() });
        });
    }

    fn machine(&self) -> Machine<'_> {
        Machine {
            pool: &self.pool,
            kernels: Kernels::of(self.isa),
            grouped: GroupedKernels::of(self.isa),
            matrix_unit: self.isa == Isa::AmxBf16,
        }
    }

    /// Scratch is overwritten by each call, so one that panicked leaves nothing behind.
    fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes several outputs of one input in one parallel region: `out = x·weightᵀ (+ bias)`.
    ///
    /// `x` is `[T, K]`; each job's weight is `[N, K]`, its output `[T, N]`. f32 accumulation. On
    /// [`Isa::AmxBf16`] and [`Isa::Avx512Bf16`], activations that meet bf16 weights are rounded to
    /// bf16 first. Those that meet weights in groups are rounded to 8 bits, by row and group; the
    /// bits are then the same on every instruction set.
    ///
    /// # Errors
    /// [`KernelError::Length`] names the tensor whose size does not fit.
    pub fn linear(
        &self,
        x: &[f32],
        t: usize,
        jobs: &mut [LinearJob<'_>],
    ) -> Result<(), KernelError> {
        for job in jobs.iter() {
            check_job(x.len(), t, job)?;
        }
        drive::linear(self.machine(), &mut self.scratch(), x, t, jobs);
        Ok(())
    }

    /// `out = act(x·gateᵀ) * (x·upᵀ)` in one parallel region, without intermediate buffers.
    ///
    /// `x` is `[T, K]`, both weights `[N, K]`, `out` `[T, N]`. Each product has the bits that
    /// [`Cpu::linear`] gives.
    ///
    /// # Errors
    /// [`KernelError::Length`] or [`KernelError::Mismatch`] when shapes do not fit.
    pub fn gated_linear<'a>(
        &self,
        x: &[f32],
        t: usize,
        gate: impl Into<Weight<'a>>,
        up: impl Into<Weight<'a>>,
        act: Activation,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (gate, up) = (gate.into(), up.into());
        check_gated(x, t, gate, up)?;
        expect_len("out", out.len(), product("out", t, gate.rows())?)?;
        let (machine, mut scratch) = (self.machine(), self.scratch());
        match (gate, up) {
            (Weight::Plain(gate), Weight::Plain(up)) => {
                drive::gated_linear(machine, &mut scratch, x, t, (gate, up, act), out);
            }
            (Weight::Grouped(gate), Weight::Grouped(up)) => {
                drive::grouped_gated_linear(machine, &mut scratch, x, t, (gate, up, act), out);
            }
            // No model mixes them, so that this may take memory of its own.
            (gate, up) => {
                let mut part = vec![0.0; out.len()];
                let mut jobs = [LinearJob::new(gate, &mut *out), LinearJob::new(up, &mut part)];
                drive::linear(machine, &mut scratch, x, t, &mut jobs);
                drive::gate(machine, act, out, &part);
            }
        }
        Ok(())
    }

    /// A feed-forward network: `inner = act(x·gateᵀ) * (x·upᵀ)`, then `down` of that.
    ///
    /// The bits are those of [`Cpu::gated_linear`] and [`Cpu::linear`]; `inner` is room for the product
    /// where it has to be kept.
    ///
    /// # Errors
    /// As those two.
    pub fn feed_forward(
        &self,
        (x, t): (&[f32], usize),
        (gate, up, act): (Weight<'_>, Weight<'_>, Activation),
        inner: &mut Floats,
        mut down: LinearJob<'_>,
    ) -> Result<(), KernelError> {
        #[cfg(target_arch = "x86_64")]
        if let (Weight::Plain(gate), Weight::Plain(up), Weight::Plain(weight)) =
            (gate, up, down.weight)
        {
            let machine = self.machine();
            if [gate, up, weight].iter().all(|weight| machine.takes_tiles(weight)) {
                check_gated(x, t, gate.into(), up.into())?;
                check_job(product("inner", t, gate.rows)?, t, &down)?;
                let (mut scratch, down) = (self.scratch(), (&mut down, weight));
                drive::tiled_feed_forward(machine, &mut scratch, x, (gate, up, act), inner, down);
                return Ok(());
            }
        }
        let inner = inner.sized(product("inner", t, gate.rows())?);
        self.gated_linear(x, t, gate, up, act, inner)?;
        self.linear(inner, t, &mut [down])
    }

    /// Rounds `weight` to numbers in groups, as [`GroupedMatrix`] takes them, into `out`. On every
    /// instruction set the bytes are the same. A value that is not finite makes its group NaN.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `weight` is not whole or `out` does not have
    /// [`GroupedType::matrix_bytes`] bytes.
    pub fn quantize(
        &self,
        weight: Matrix<'_>,
        to: GroupedType,
        out: &mut [u8],
    ) -> Result<(), KernelError> {
        weight.check("weight")?;
        GroupedMatrix { grouped: to, data: out, rows: weight.rows, cols: weight.cols }
            .check("out")?;
        drive::quantize(self.machine(), &mut self.scratch(), weight, to, out);
        Ok(())
    }

    /// Applies `act` to every value.
    pub fn activation(&self, act: Activation, x: &mut [f32]) {
        drive::activation(self.machine(), act, x);
    }

    /// `gate = act(gate) * up`, with the bits of [`Cpu::gated_linear`].
    ///
    /// # Errors
    /// [`KernelError::Length`] when the lengths differ.
    pub fn gate(&self, act: Activation, gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
        expect_len("up", up.len(), gate.len())?;
        drive::gate(self.machine(), act, gate, up);
        Ok(())
    }

    /// Root-mean-square norm of each row of `weight.len()` values: hidden states and heads alike.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `out` differs from `x`, [`KernelError::Mismatch`] when `x` is
    /// not a whole number of rows.
    pub fn rms_norm(
        &self,
        x: &[f32],
        weight: Vector<'_>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_rows(x.len(), &weight)?;
        expect_len("out", out.len(), x.len())?;
        let x = Elements { from: x.as_ptr(), to: out.as_mut_ptr(), len: x.len() };
        // SAFETY: both slices have whole rows, as checked, and `out` is borrowed exclusively.
        unsafe { drive::norm(self.machine(), &mut self.scratch(), x, weight, None, eps) };
        Ok(())
    }

    /// [`Cpu::rms_norm`] that overwrites its input.
    ///
    /// # Errors
    /// [`KernelError::Mismatch`] when `x` is not a whole number of rows.
    pub fn rms_norm_in_place(
        &self,
        x: &mut [f32],
        weight: Vector<'_>,
        eps: f32,
    ) -> Result<(), KernelError> {
        check_rows(x.len(), &weight)?;
        let x = Elements { from: x.as_ptr(), to: x.as_mut_ptr(), len: x.len() };
        // SAFETY: the slice has whole rows, as checked, and is borrowed exclusively.
        unsafe { drive::norm(self.machine(), &mut self.scratch(), x, weight, None, eps) };
        Ok(())
    }

    /// Layer norm of each row of `weight.len()` values.
    ///
    /// # Errors
    /// As [`Cpu::rms_norm`]; `bias` must be as long as `weight`.
    pub fn layer_norm(
        &self,
        x: &[f32],
        weight: Vector<'_>,
        bias: Vector<'_>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_rows(x.len(), &weight)?;
        bias.check("bias", weight.len())?;
        expect_len("out", out.len(), x.len())?;
        let x = Elements { from: x.as_ptr(), to: out.as_mut_ptr(), len: x.len() };
        // SAFETY: both slices have whole rows, as checked, and `out` is borrowed exclusively.
        unsafe { drive::norm(self.machine(), &mut self.scratch(), x, weight, Some(bias), eps) };
        Ok(())
    }

    /// Gathers rows `ids` of `table` (`[vocabulary, K]`), widened to f32, into `out` (`[T, K]`).
    ///
    /// # Errors
    /// [`KernelError::Index`] for the first id outside the table, [`KernelError::Length`] for `out`.
    pub fn embed(
        &self,
        table: Matrix<'_>,
        ids: &[u32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        table.check("embedding table")?;
        expect_len("out", out.len(), product("out", ids.len(), table.cols)?)?;
        check_indices("ids", ids, table.rows)?;
        drive::embed(self.machine(), table, ids, out);
        Ok(())
    }

    /// `x += y`.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) -> Result<(), KernelError> {
        expect_len("y", y.len(), x.len())?;
        drive::add(self.machine(), x, y);
        Ok(())
    }

    /// Rotates pairs `(i, half + i)` of each head of `x` (`[T, H, D]`) in place, NeoX style, by
    /// `cos` and `sin` (`[T, half]`). Dimensions from `2 * half` on stay as they are.
    ///
    /// # Errors
    /// [`KernelError::Mismatch`] or [`KernelError::Length`] when shapes do not fit.
    pub fn rope(
        &self,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        cos: &[f32],
        sin: &[f32],
    ) -> Result<(), KernelError> {
        expect_len("sin", sin.len(), cos.len())?;
        let row = product("heads and head size", heads, head_dim)?;
        if row == 0 || !x.len().is_multiple_of(row) {
            return Err(KernelError::Mismatch {
                what: "x and its rows",
                left: x.len(),
                right: row,
            });
        }
        let tokens = x.len() / row;
        if tokens == 0 {
            return expect_len("cos", cos.len(), 0);
        }
        if !cos.len().is_multiple_of(tokens) || cos.len() / tokens * 2 > head_dim {
            let (left, right) = (cos.len(), tokens);
            return Err(KernelError::Mismatch { what: "cos and its rows", left, right });
        }
        drive::rope(self.machine(), x, (heads, head_dim), cos, sin);
        Ok(())
    }

    /// Writes `k` and `v` (`[T, H_kv, D]`) into the paged cache, rounded to its type.
    ///
    /// Token `t` goes to slot `slots[t] = block * S + offset`; slots of one call differ.
    ///
    /// # Errors
    /// [`KernelError::Index`] for the first slot outside the cache, [`KernelError::Length`] else.
    pub fn store_kv(
        &self,
        kv: &mut KvLayer<'_>,
        k: &[f32],
        v: &[f32],
        slots: &[u32],
    ) -> Result<(), KernelError> {
        kv.check()?;
        let values = product("k", slots.len(), kv.num_kv_heads * kv.head_dim)?;
        expect_len("k", k.len(), values)?;
        expect_len("v", v.len(), values)?;
        check_indices("slots", slots, kv.slots())?;
        drive::store_kv(self.machine(), kv, k, v, slots);
        Ok(())
    }

    /// Attends every query token to those cached positions of its own sequence that it sees.
    ///
    /// `q` and `out` are `[T, H, D]`. f32 accumulation; softmax over 256-token chunks aligned to
    /// position 0, in order.
    ///
    /// # Errors
    /// [`KernelError::Index`] for a block id outside the cache, else the tensor that does not fit.
    ///
    /// Source: Kwon et al., SOSP 2023, section 4.1 (paging); Milakov and Gimelshein, 2018 (online
    /// softmax).
    pub fn attention(
        &self,
        a: &AttentionArgs<'_>,
        q: &[f32],
        kv: &KvLayer<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        kv.check()?;
        let tokens = a.check(kv)?;
        let row = product("heads and head size", a.num_heads, kv.head_dim)?;
        expect_len("q", q.len(), product("q", tokens, row)?)?;
        expect_len("out", out.len(), q.len())?;
        drive::attention(self.machine(), &mut self.scratch(), a, q, kv, out);
        Ok(())
    }
}

/// That a job takes `len` values of `t` rows.
fn check_job(len: usize, t: usize, job: &LinearJob<'_>) -> Result<(), KernelError> {
    job.weight.check("weight")?;
    expect_len("x", len, product("x", t, job.weight.cols())?)?;
    expect_len("out", job.out.len(), product("out", t, job.weight.rows())?)?;
    job.bias.as_ref().map_or(Ok(()), |bias| bias.check("bias", job.weight.rows()))
}

fn check_gated(x: &[f32], t: usize, gate: Weight<'_>, up: Weight<'_>) -> Result<(), KernelError> {
    gate.check("gate")?;
    up.check("up")?;
    expect_count("up", up.rows(), gate.rows(), "rows")?;
    expect_count("up", up.cols(), gate.cols(), "columns")?;
    expect_len("x", x.len(), product("x", t, gate.cols())?)
}

/// Checks that `values` is a whole number of rows as long as `weight`.
fn check_rows(values: usize, weight: &Vector<'_>) -> Result<(), KernelError> {
    weight.check("weight", weight.len())?;
    if values == 0 || (!weight.is_empty() && values.is_multiple_of(weight.len())) {
        return Ok(());
    }
    Err(KernelError::Mismatch { what: "x and its rows", left: values, right: weight.len() })
}

/// Names the first index outside `0..bound`.
fn check_indices(tensor: &'static str, indices: &[u32], bound: usize) -> Result<(), KernelError> {
    match indices.iter().find(|&&i| i as usize >= bound) {
        None => Ok(()),
        Some(&i) => Err(KernelError::Index { tensor, index: i as usize, bound }),
    }
}
