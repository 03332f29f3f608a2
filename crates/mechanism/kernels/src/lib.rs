//! CPU kernels and the worker pool: the only crate with unsafe code.
//!
//! [`Cpu`] is the way in: it owns the threads and the table of kernels for one instruction set.
//! Weights are used where they lie, row-major and unaligned, usually in a [`MappedFile`].

#![expect(
    clippy::needless_range_loop,
    reason = "accumulator tiles are indexed like the matrices they stand for"
)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod ceilings;
mod cpu;
mod drive;
mod elementwise;
mod error;
mod gemm;
mod grouped;
mod isa;
mod memory;
#[cfg(test)]
mod naive;
mod pool;
mod scratch;
mod simd;
mod table;
mod tensor;
#[cfg(test)]
mod tests;

pub use ceilings::{CeilingOptions, Ceilings, Peak};
pub use cpu::{Cpu, CpuOptions};
pub use error::KernelError;
pub use grouped::{GroupedMatrix, GroupedType};
pub use isa::Isa;
pub use memory::{MappedFile, ZeroedMemory};
pub use scratch::Floats;
pub use tensor::{
    Activation, AttentionArgs, DType, KvLayer, LinearJob, Matrix, Sight, Vector, Weight, Write,
};
