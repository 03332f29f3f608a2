//! One table of function pointers per instruction set. The `target_feature` entries made here are
//! the only places where generic kernels meet an instruction set, so each whole loop nest is
//! compiled for it.

use crate::attention::{State, Tile, Workspace};
use crate::elementwise::Norm;
use crate::gemm::Panel;
use crate::isa::Isa;
use crate::simd::XForm;
use crate::tensor::{Activation, DType};

/// Kernels of one weight type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DotKernels {
    /// `(x, rows, k, to, stride_bytes)`, see [`crate::gemm::prepare`].
    pub(crate) prepare: unsafe fn(*const f32, usize, usize, *mut u8, usize),
    pub(crate) panel: unsafe fn(&Panel),
    /// Values per step: rows of prepared activations are padded to it.
    pub(crate) step: usize,
    /// Most values of a block of `K`.
    pub(crate) block: usize,
    /// Bytes of one prepared activation.
    pub(crate) x_bytes: usize,
    pub(crate) x_form: XForm,
    /// Where widening a panel once saves work.
    pub(crate) wide: Option<WideKernels>,
}

/// `((w, w_stride), (rows, k), to, stride)`, see [`crate::gemm::pack`].
pub(crate) type Pack = unsafe fn((*const u8, usize), (usize, usize), *mut f32, usize);

/// Kernels for panels that many rows of `x` pass; bits as of the direct ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WideKernels {
    pub(crate) pack: Pack,
    /// Takes what `pack` made, with `k` rounded up to whole steps.
    pub(crate) panel: unsafe fn(&Panel),
}

/// Kernels of one storage type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StorageKernels {
    pub(crate) dot: DotKernels,
    pub(crate) widen: unsafe fn(*const u8, *mut f32, usize),
    pub(crate) narrow: unsafe fn(*const f32, *mut u8, usize),
    /// `(tile, chunk, workspace, state)`, see [`crate::attention::attend`].
    pub(crate) attend: unsafe fn(&Tile, usize, Workspace, State),
}

/// All kernels of an instruction set.
pub(crate) struct Kernels {
    storage: [StorageKernels; 3],
    pub(crate) norm: unsafe fn(&Norm, *const f32, *mut f32, usize),
    pub(crate) activate: unsafe fn(Activation, *mut f32, usize),
    pub(crate) activate_mul: unsafe fn(Activation, *mut f32, *const f32, usize),
    pub(crate) add: unsafe fn(*mut f32, *const f32, usize),
    pub(crate) rotate: unsafe fn(*mut f32, *const f32, *const f32, usize),
    pub(crate) merge: unsafe fn(State, State, usize, usize),
}

impl Kernels {
    /// The kernels of `isa`, which must be available.
    pub(crate) fn of(isa: Isa) -> &'static Kernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 | Isa::Avx512Bf16 => &avx512bf16::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            _ => &portable::KERNELS,
        }
    }

    /// The kernels of a storage type.
    pub(crate) fn storage(&self, dtype: DType) -> &StorageKernels {
        &self.storage[match dtype {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::BF16 => 2,
        }]
    }
}

/// Instantiates every generic kernel under one set of target features.
macro_rules! kernels {
    ($module:ident, $lanes:ty, $bf16:expr $(, $feature:literal)?) => {
        mod $module {
            use super::{
                Activation, DotKernels, Kernels, Norm, Panel, State, StorageKernels, Tile,
                WideKernels, Workspace,
            };
            use crate::simd::{Bf16, Dot, F16, F32, Storage, Widen};
            use crate::{attention, elementwise, gemm};

            type L = $lanes;

            $(#[target_feature(enable = $feature)])?
            unsafe fn prepare<D: Dot>(x: *const f32, rows: usize, k: usize, to: *mut u8, stride: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { gemm::prepare::<D>(x, rows, k, to, stride) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn panel<D: Dot, const PACKED: bool>(p: &Panel) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { gemm::panel::<D, PACKED>(p) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn pack<D: Dot<W = L>>(
                w: (*const u8, usize), rows: (usize, usize), to: *mut f32, stride: usize,
            ) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { gemm::pack::<L, D>(w, rows, to, stride) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn widen<S: Storage>(from: *const u8, to: *mut f32, n: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::widen::<L, S>(from, to, n) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn narrow<S: Storage>(from: *const f32, to: *mut u8, n: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::narrow::<L, S>(from, to, n) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn attend<S: Storage>(tile: &Tile, chunk: usize, to: Workspace, state: State) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { attention::attend::<L, S>(tile, chunk, to, state) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn norm(norm: &Norm, x: *const f32, out: *mut f32, rows: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::norm::<L>(norm, x, out, rows) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn activate(act: Activation, x: *mut f32, n: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::activate_all::<L>(act, x, n) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn activate_mul(act: Activation, gate: *mut f32, up: *const f32, n: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::activate_mul::<L>(act, gate, up, n) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn add(x: *mut f32, y: *const f32, n: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::add::<L>(x, y, n) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn rotate(x: *mut f32, cos: *const f32, sin: *const f32, half: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { elementwise::rotate::<L>(x, cos, sin, half) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn merge(so_far: State, next: State, rows: usize, dim: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { attention::merge::<L>(so_far, next, rows, dim) }
            }

            const fn dot<D: Dot>() -> DotKernels {
                DotKernels {
                    prepare: prepare::<D>,
                    panel: panel::<D, false>,
                    step: D::STEP,
                    block: D::BLOCK,
                    x_bytes: D::X_BYTES,
                    x_form: D::X_FORM,
                    wide: None,
                }
            }

            /// Of weights that are widened to f32.
            const fn widening<D: Dot<W = L>>() -> DotKernels {
                let wide = WideKernels { pack: pack::<D>, panel: panel::<Widen<L, F32>, true> };
                DotKernels { wide: Some(wide), ..dot::<D>() }
            }

            const fn storage<S: Storage>(dot_kernels: DotKernels) -> StorageKernels {
                StorageKernels {
                    dot: dot_kernels,
                    widen: widen::<S>,
                    narrow: narrow::<S>,
                    attend: attend::<S>,
                }
            }

            pub(super) static KERNELS: Kernels = Kernels {
                storage: [
                    storage::<F32>(dot::<Widen<L, F32>>()),
                    storage::<F16>(widening::<Widen<L, F16>>()),
                    storage::<Bf16>($bf16),
                ],
                norm,
                activate,
                activate_mul,
                add,
                rotate,
                merge,
            };
        }
    };
}

kernels!(portable, crate::simd::portable::Portable, widening::<crate::simd::WidenPairs<L>>());
#[cfg(target_arch = "x86_64")]
kernels!(avx2, crate::simd::avx2::Avx2, widening::<crate::simd::WidenPairs<L>>(), "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    crate::simd::avx512::Avx512<false>,
    widening::<crate::simd::WidenPairs<L>>(),
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512bf16,
    crate::simd::avx512::Avx512<true>,
    dot::<crate::simd::avx512::Dpbf16>(),
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
);
