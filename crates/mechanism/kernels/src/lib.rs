//! CPU kernels and the worker pool: the only crate with unsafe code.
//!
//! [`Cpu`] is the way in: it owns the threads and the table of kernels for one instruction set.
//! Weights are used where they lie, row-major and unaligned, usually in a [`MappedFile`].

mod cpu;
mod error;
mod isa;
mod memory;
mod naive;
mod tensor;

pub use cpu::{Cpu, CpuOptions};
pub use error::KernelError;
pub use isa::Isa;
pub use memory::{MappedFile, ZeroedMemory};
pub use tensor::{Activation, AttentionArgs, DType, KvLayer, LinearJob, Matrix, Vector, Write};
