//! Weights of 8 or 4 bits in groups, and the products with them.
//!
//! A group is 32 consecutive inputs of one output: whole numbers and one bf16 scale (its range is
//! that of f32, so no weight is too small or too large for it). Activations are rounded to 8 bits
//! by row and group of 32 as they arrive. Inside a group the sum of products is a whole number,
//! exact in any order; groups are added in f32, from the first on, one fused multiply-add each. So
//! the bits of an output depend neither on the batch nor on the number of threads, and not even on
//! the instruction set: the portable version is the oracle of the others.
//!
//! Layout, made for the kernels: a matrix is a row of tiles of 16 outputs, the last one padded with
//! zeros. A tile is the scales of all its groups, `[groups, 16]`, padded to 64 bytes, and then its
//! numbers, group by group. For 8 bits a cache line has four inputs of the sixteen outputs, output
//! after output; for 4 bits it has eight, the first four in the low halves. A lane thus stands for
//! an output, and no sum crosses lanes. Numbers are stored as unsigned, 128 or 8 too large, as the
//! dot-product instructions take one unsigned operand.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod panel;
mod portable;
mod quantize;
mod table;

pub(crate) use panel::{Panel, STREAM_ROWS};
pub(crate) use table::GroupedKernels;

use crate::error::{KernelError, expect_count, product};

/// Inputs of a group.
pub(crate) const GROUP: usize = 32;
/// Outputs of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of the scales of a tile's group.
const SCALES: usize = 2 * ROWS;

/// How the numbers of a [`GroupedMatrix`] are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupedType {
    /// Whole numbers from -127 to 127; 8.5 bits per weight with the scale.
    Int8,
    /// Whole numbers from -8 to 7; 4.5 bits per weight with the scale.
    Int4,
}

impl GroupedType {
    /// Bytes of a `[rows, cols]` matrix, padding included.
    ///
    /// # Errors
    /// [`KernelError::Mismatch`] when that is beyond the address space.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> Result<usize, KernelError> {
        let padded = product("grouped matrix", cols.div_ceil(GROUP), 2 * GROUP * ROWS)?;
        product("grouped matrix", rows.div_ceil(ROWS), padded)?;
        Ok(rows.div_ceil(ROWS) * self.tile_bytes(groups(cols)))
    }

    /// Bytes of a tile's group without its scales.
    const fn group_bytes(self) -> usize {
        match self {
            GroupedType::Int8 => GROUP * ROWS,
            GroupedType::Int4 => GROUP * ROWS / 2,
        }
    }

    pub(crate) const fn tile_bytes(self, groups: usize) -> usize {
        scale_bytes(groups) + groups * self.group_bytes()
    }
}

/// A borrowed `[rows, cols]` matrix of numbers in groups, as [`crate::Cpu::quantize`] writes it.
#[derive(Debug, Clone, Copy)]
pub struct GroupedMatrix<'a> {
    /// How the numbers are stored.
    pub grouped: GroupedType,
    /// Exactly [`GroupedType::matrix_bytes`] bytes.
    pub data: &'a [u8],
    /// Number of rows (outputs of a linear layer).
    pub rows: usize,
    /// Number of columns (inputs of a linear layer).
    pub cols: usize,
}

impl<'a> GroupedMatrix<'a> {
    /// Views `data` as a matrix.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `data` has another size.
    pub fn new(
        grouped: GroupedType,
        data: &'a [u8],
        rows: usize,
        cols: usize,
    ) -> Result<GroupedMatrix<'a>, KernelError> {
        let matrix = GroupedMatrix { grouped, data, rows, cols };
        matrix.check("grouped matrix")?;
        Ok(matrix)
    }

    /// The fields are public, so every entry point checks them again.
    pub(crate) fn check(&self, name: &'static str) -> Result<(), KernelError> {
        let bytes = self.grouped.matrix_bytes(self.rows, self.cols)?;
        expect_count(name, self.data.len(), bytes, "bytes")
    }
}

pub(crate) const fn groups(cols: usize) -> usize {
    cols.div_ceil(GROUP)
}

/// Bytes of a tile's scales; whole cache lines, so that no load of numbers crosses one.
const fn scale_bytes(groups: usize) -> usize {
    (groups * SCALES).next_multiple_of(64)
}
