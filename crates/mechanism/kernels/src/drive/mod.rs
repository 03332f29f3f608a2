//! Cuts checked calls into tasks for the pool.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod grouped;
mod linear;
mod rows;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{TilePlan, feed_forward as tiled_feed_forward};
pub(crate) use attention::{Task, attention};
pub(crate) use grouped::{GroupedPlan, gated_linear as grouped_gated_linear, quantize};
pub(crate) use linear::{Plan, gated_linear, linear};
pub(crate) use rows::{Elements, activation, add, embed, gate, norm, rope, store_kv};

#[cfg(target_arch = "x86_64")]
use crate::amx::fits;
use crate::grouped::GroupedKernels;
use crate::pool::Pool;
use crate::table::Kernels;
use crate::tensor::Matrix;

/// What every driver needs.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) kernels: &'static Kernels,
    pub(crate) grouped: &'static GroupedKernels,
    /// Whether bf16 weights that fit the matrix unit go there.
    pub(crate) matrix_unit: bool,
}

impl Machine<'_> {
    /// Whether the matrix unit computes with this weight.
    pub(crate) fn takes_tiles(&self, weight: &Matrix<'_>) -> bool {
        self.matrix_unit && fits(weight)
    }
}

/// No other processor has the unit.
#[cfg(not(target_arch = "x86_64"))]
fn fits(_: &Matrix<'_>) -> bool {
    false
}
