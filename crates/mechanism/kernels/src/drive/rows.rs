//! Work that falls apart into independent rows or values.

use super::Machine;
use crate::elementwise::Norm;
use crate::scratch::{Scratch, Shared};
use crate::tensor::{Activation, KvLayer, Matrix, Vector};

/// Values per task. Less work than this costs less than waking a thread for it.
const TASK_VALUES: usize = 16 << 10;

/// Input and output of a norm, which may be one buffer.
#[derive(Clone, Copy)]
pub(crate) struct Elements {
    pub(crate) from: *const f32,
    pub(crate) to: *mut f32,
    pub(crate) len: usize,
}

/// Runs `f(first, count)` over `rows` rows of `row_len` values.
fn for_rows(machine: Machine<'_>, rows: usize, row_len: usize, f: &(dyn Fn(usize, usize) + Sync)) {
    let per_task = (TASK_VALUES / row_len.max(1)).max(1);
    machine.pool.for_each(rows.div_ceil(per_task), &|_, task| {
        let first = task * per_task;
        f(first, per_task.min(rows - first));
    });
}

/// Norms each row; without `bias` it is the root-mean-square norm.
///
/// # Safety
/// Both ends of `x` hold `x.len` values, a multiple of the weight's; `to` is exclusive to the call,
/// and is `from` or does not overlap it.
pub(crate) unsafe fn norm(
    machine: Machine<'_>,
    scratch: &mut Scratch,
    x: Elements,
    weight: Vector<'_>,
    bias: Option<Vector<'_>>,
    eps: f32,
) {
    let cols = weight.len();
    let rows = x.len.checked_div(cols).unwrap_or(0);
    let wide = scratch.shared.floats(2 * cols);
    // SAFETY: the scratch holds both vectors; their lengths were checked to be `cols`.
    let bias = unsafe {
        (machine.kernels.storage(weight.dtype).widen)(weight.data.as_ptr(), wide, cols);
        bias.map_or(std::ptr::null_mut(), |bias| {
            let to = wide.add(cols);
            (machine.kernels.storage(bias.dtype).widen)(bias.data.as_ptr(), to, cols);
            to
        })
    };
    let (weight, bias) = (Shared::new(wide), Shared::new(bias));
    let (from, to) = (Shared::new(x.from.cast_mut()), Shared::new(x.to));
    for_rows(machine, rows, cols, &|first, count| {
        let norm = Norm { weight: weight.at(0), bias: bias.at(0), cols, eps };
        let at = first * cols;
        // SAFETY: tasks have separate rows; the rest is the caller's promise.
        unsafe { (machine.kernels.norm)(&norm, from.at(at), to.at(at), count) }
    });
}

/// `x = act(x)`.
pub(crate) fn activation(machine: Machine<'_>, act: Activation, x: &mut [f32]) {
    let (n, x) = (x.len(), Shared::new(x.as_mut_ptr()));
    for_rows(machine, n, 1, &|first, count| {
        // SAFETY: tasks have separate values of the slice.
        unsafe { (machine.kernels.activate)(act, x.at(first), count) }
    });
}

/// `gate = act(gate) * up`; equally long.
pub(crate) fn gate(machine: Machine<'_>, act: Activation, gate: &mut [f32], up: &[f32]) {
    let (n, gate) = (gate.len().min(up.len()), Shared::new(gate.as_mut_ptr()));
    for_rows(machine, n, 1, &|first, count| {
        // SAFETY: tasks have separate values of the slices.
        unsafe {
            (machine.kernels.activate_mul)(act, gate.at(first), up[first..].as_ptr(), count);
        }
    });
}

/// `x += y`; equally long.
pub(crate) fn add(machine: Machine<'_>, x: &mut [f32], y: &[f32]) {
    let (n, x) = (x.len().min(y.len()), Shared::new(x.as_mut_ptr()));
    for_rows(machine, n, 1, &|first, count| {
        // SAFETY: tasks have separate values of the slices.
        unsafe { (machine.kernels.add)(x.at(first), y[first..].as_ptr(), count) }
    });
}

/// Gathers and widens rows; ids are checked.
pub(crate) fn embed(machine: Machine<'_>, table: Matrix<'_>, ids: &[u32], out: &mut [f32]) {
    let cols = table.cols;
    let row_bytes = cols * table.dtype.size_bytes();
    let widen = machine.kernels.storage(table.dtype).widen;
    let out = Shared::new(out.as_mut_ptr());
    for_rows(machine, ids.len(), cols, &|first, count| {
        for (t, &id) in ids.iter().enumerate().skip(first).take(count) {
            let row = &table.data[id as usize * row_bytes..][..row_bytes];
            // SAFETY: the row has `cols` values, and so has row `t` of `out`.
            unsafe { widen(row.as_ptr(), out.at(t * cols), cols) }
        }
    });
}

/// Rotates every head; shapes are checked and there is at least one token.
pub(crate) fn rope(
    machine: Machine<'_>,
    x: &mut [f32],
    (heads, head_dim): (usize, usize),
    cos: &[f32],
    sin: &[f32],
) {
    let row = heads * head_dim;
    let tokens = x.len() / row;
    let half = cos.len() / tokens;
    let x = Shared::new(x.as_mut_ptr());
    for_rows(machine, tokens, row, &|first, count| {
        for t in first..first + count {
            let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
            for head in 0..heads {
                let at = x.at(t * row + head * head_dim);
                // SAFETY: `2 * half <= head_dim`, and tokens belong to one task each.
                unsafe { (machine.kernels.rotate)(at, cos.as_ptr(), sin.as_ptr(), half) }
            }
        }
    });
}

/// Writes keys and values to their slots; shapes and slots are checked.
///
/// A task is one head of the keys or of the values: where two tokens are sent to one slot by
/// mistake, the last one wins on any number of threads.
pub(crate) fn store_kv(
    machine: Machine<'_>,
    kv: &mut KvLayer<'_>,
    k: &[f32],
    v: &[f32],
    slots: &[u32],
) {
    let narrow = machine.kernels.storage(kv.dtype).narrow;
    let (heads, dim, block_size) = (kv.num_kv_heads, kv.head_dim, kv.block_size);
    let size = kv.dtype.size_bytes();
    let (keys, values) = (Shared::new(kv.k.as_mut_ptr()), Shared::new(kv.v.as_mut_ptr()));
    let store = |_: usize, task: usize| {
        let head = task / 2;
        for (t, &slot) in slots.iter().enumerate() {
            let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
            let of_head = (block * heads + head) * block_size * dim;
            let row = (t * heads + head) * dim..(t * heads + head + 1) * dim;
            // SAFETY: the slot is below the number of slots, so it lies in the caches, whose sizes
            // were checked; one head of one cache belongs to one task.
            unsafe {
                if task.is_multiple_of(2) {
                    let to = keys.at((of_head + offset) * size);
                    scatter(narrow, &k[row], to, size, block_size * size);
                } else {
                    let to = values.at((of_head + offset * dim) * size);
                    narrow(v[row].as_ptr(), to, dim);
                }
            }
        }
    };
    if k.len() < TASK_VALUES {
        return (0..2 * heads).for_each(|task| store(0, task));
    }
    machine.pool.for_each(2 * heads, &store);
}

/// Narrows values of `size` bytes to places `stride` bytes apart.
///
/// # Safety
/// `narrow` makes values of `size` bytes; `to` is valid for the places.
unsafe fn scatter(
    narrow: unsafe fn(*const f32, *mut u8, usize),
    values: &[f32],
    to: *mut u8,
    size: usize,
    stride: usize,
) {
    let mut buffer = [0u32; 64];
    let narrowed = buffer.as_mut_ptr().cast::<u8>();
    for (i, values) in values.chunks(64).enumerate() {
        // SAFETY: the buffer holds 64 values of any type; the rest is the caller's promise.
        unsafe {
            narrow(values.as_ptr(), narrowed, values.len());
            let to = to.add(i * 64 * stride);
            for j in 0..values.len() {
                let (from, to) = (narrowed.add(j * size), to.add(j * stride));
                if size == 2 {
                    to.cast::<u16>().write_unaligned(from.cast::<u16>().read_unaligned());
                } else {
                    to.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned());
                }
            }
        }
    }
}
