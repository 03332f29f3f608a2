//! What a kernel refuses, with the tensor's name and both numbers.

use std::io;

use crate::isa::Isa;

/// A call that was refused before any output was written.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tensor has another number of elements (or bytes, for raw storage) than the shapes ask for.
    #[error("{tensor} holds {found} {unit}, the shapes ask for {expected}")]
    Length {
        /// Name of the argument.
        tensor: &'static str,
        /// What was passed.
        found: usize,
        /// What the other arguments imply.
        expected: usize,
        /// What is counted: `values`, `bytes`, `rows`…
        unit: &'static str,
    },
    /// An id, slot or position lies outside its range.
    #[error("{tensor} holds {index}, which is outside 0..{bound}")]
    Index {
        /// Name of the argument.
        tensor: &'static str,
        /// The offending value.
        index: usize,
        /// First value that is too large.
        bound: usize,
    },
    /// Two numbers of the shape do not fit each other.
    #[error("{what}: {left} and {right} do not fit")]
    Mismatch {
        /// Which relation is broken.
        what: &'static str,
        /// First number.
        left: usize,
        /// Second number.
        right: usize,
    },
    /// The processor lacks the instructions that were asked for.
    #[error("this processor has no {asked} instructions; use {best} or let the program choose")]
    UnsupportedIsa {
        /// The instruction set in the options.
        asked: Isa,
        /// The best one this processor has.
        best: Isa,
    },
    /// The name of an instruction set is unknown.
    #[error("unknown instruction set {0:?}; use amx, avx512, avx2 or portable")]
    UnknownIsa(String),
    /// The thread count is zero or absurdly large.
    #[error("{found} threads were asked for; use 1 to {max}")]
    Threads {
        /// The number in the options.
        found: usize,
        /// The largest number accepted.
        max: usize,
    },
    /// A worker thread could not be started.
    #[error("failed to start a worker thread")]
    Spawn(#[source] io::Error),
}

/// Compares a length with what the shapes ask for.
pub(crate) fn expect_len(
    tensor: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), KernelError> {
    expect_count(tensor, found, expected, "values")
}

/// Same as [`expect_len`] for another unit.
pub(crate) fn expect_count(
    tensor: &'static str,
    found: usize,
    expected: usize,
    unit: &'static str,
) -> Result<(), KernelError> {
    if found == expected {
        return Ok(());
    }
    Err(KernelError::Length { tensor, found, expected, unit })
}

/// `a * b`, or an error that names the product when it does not fit in `usize`.
pub(crate) fn product(what: &'static str, a: usize, b: usize) -> Result<usize, KernelError> {
    a.checked_mul(b).ok_or(KernelError::Mismatch { what, left: a, right: b })
}
