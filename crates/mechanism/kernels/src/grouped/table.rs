//! One table of function pointers per instruction set, as in [`crate::table`].

use super::panel::Panel;
use super::{GroupedType, activations};
use crate::isa::Isa;

/// The kernels of one instruction set.
pub(crate) struct GroupedKernels {
    /// `(x, rows, k, to, stride_bytes)`, see [`activations::prepare`].
    pub(crate) prepare: unsafe fn(*const f32, usize, usize, *mut u8, usize),
    panels: [unsafe fn(&Panel); 2],
    /// `(type, values, cols, tile)`, see [`super::quantize::tile`].
    pub(crate) quantize: unsafe fn(GroupedType, &[f32], usize, &mut [u8]),
}

impl GroupedKernels {
    /// The kernels that go with `isa`, which must be available.
    pub(crate) fn of(isa: Isa) -> &'static GroupedKernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            Isa::Portable => &portable::KERNELS,
            #[cfg(target_arch = "x86_64")]
            _ if is_x86_feature_detected!("avx512vnni") => &avx512::KERNELS,
            // The first processors with AVX-512 have no dot products of bytes.
            #[cfg(target_arch = "x86_64")]
            _ => &avx2::KERNELS,
            #[cfg(not(target_arch = "x86_64"))]
            _ => &portable::KERNELS,
        }
    }

    pub(crate) fn panel(&self, grouped: GroupedType) -> unsafe fn(&Panel) {
        self.panels[match grouped {
            GroupedType::Int8 => 0,
            GroupedType::Int4 => 1,
        }]
    }

    /// Bytes between prepared rows of `groups` groups: one cache line more than they take, as rows
    /// a multiple of 4 KiB apart would compete for the same sets of L1.
    pub(crate) fn stride(groups: usize) -> usize {
        activations::row_bytes(groups).next_multiple_of(64) + 64
    }
}

/// Instantiates every generic kernel under one set of target features.
macro_rules! kernels {
    ($module:ident, $dot:ty $(, $feature:literal)?) => {
        mod $module {
            use super::super::{GroupedType, activations, panel, quantize};
            use super::{GroupedKernels, Panel};

            $(#[target_feature(enable = $feature)])?
            unsafe fn prepare(x: *const f32, rows: usize, k: usize, to: *mut u8, stride: usize) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { activations::prepare(x, rows, k, to, stride) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn panel<const INT4: bool>(p: &Panel) {
                // SAFETY: the table is only handed out for a present instruction set; the rest of
                // the contract is the caller's.
                unsafe { panel::panel::<$dot, INT4>(p) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn quantize(grouped: GroupedType, values: &[f32], cols: usize, tile: &mut [u8]) {
                quantize::tile(grouped, values, cols, tile);
            }

            pub(super) static KERNELS: GroupedKernels =
                GroupedKernels { prepare, panels: [panel::<false>, panel::<true>], quantize };
        }
    };
}

kernels!(portable, crate::grouped::portable::Portable);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, crate::grouped::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    crate::grouped::avx512::Vnni,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
);
