//! Borrowed views of weights and of the paged cache, and the small enums that go with them.

use std::ops::Range;

use crate::error::{KernelError, expect_count, product};
use crate::grouped::GroupedMatrix;

/// Storage type of weights and of the KV cache, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE half.
    F16,
    /// 16-bit brain float.
    BF16,
}

impl DType {
    /// Bytes per value.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// A borrowed row-major `[rows, cols]` matrix; its bytes need no alignment.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Storage type.
    pub dtype: DType,
    /// `rows * cols` values, little endian, row after row.
    pub data: &'a [u8],
    /// Number of rows (outputs of a linear layer).
    pub rows: usize,
    /// Number of columns (inputs of a linear layer).
    pub cols: usize,
}

impl<'a> Matrix<'a> {
    /// Views `data` as a matrix.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `data` is not exactly `rows * cols` values.
    pub fn new(
        dtype: DType,
        data: &'a [u8],
        rows: usize,
        cols: usize,
    ) -> Result<Matrix<'a>, KernelError> {
        let matrix = Matrix { dtype, data, rows, cols };
        matrix.check("matrix")?;
        Ok(matrix)
    }

    /// The fields are public, so every entry point checks them again.
    pub(crate) fn check(&self, name: &'static str) -> Result<(), KernelError> {
        let values = product(name, self.rows, self.cols)?;
        let bytes = product(name, values, self.dtype.size_bytes())?;
        expect_count(name, self.data.len(), bytes, "bytes")
    }
}

/// A borrowed vector (norm weight, bias); its bytes need no alignment.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a> {
    /// Storage type.
    pub dtype: DType,
    /// The values, little endian.
    pub data: &'a [u8],
}

impl<'a> Vector<'a> {
    /// Views `data` as a vector.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `data` does not end at a value's end.
    pub fn new(dtype: DType, data: &'a [u8]) -> Result<Vector<'a>, KernelError> {
        let vector = Vector { dtype, data };
        expect_count("vector", data.len(), vector.len() * dtype.size_bytes(), "bytes")?;
        Ok(vector)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size_bytes()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that the vector holds exactly `expected` whole values.
    pub(crate) fn check(&self, name: &'static str, expected: usize) -> Result<(), KernelError> {
        let bytes = product(name, expected, self.dtype.size_bytes())?;
        expect_count(name, self.data.len(), bytes, "bytes")
    }
}

/// A weight of a linear layer, `[N, K]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// As it lies in a checkpoint.
    Plain(Matrix<'a>),
    /// Rounded, in groups.
    Grouped(GroupedMatrix<'a>),
}

impl<'a> From<Matrix<'a>> for Weight<'a> {
    fn from(matrix: Matrix<'a>) -> Weight<'a> {
        Weight::Plain(matrix)
    }
}

impl<'a> From<GroupedMatrix<'a>> for Weight<'a> {
    fn from(matrix: GroupedMatrix<'a>) -> Weight<'a> {
        Weight::Grouped(matrix)
    }
}

impl<'a> Weight<'a> {
    /// Number of rows (outputs of a linear layer).
    pub fn rows(&self) -> usize {
        match self {
            Weight::Plain(matrix) => matrix.rows,
            Weight::Grouped(matrix) => matrix.rows,
        }
    }

    /// Number of columns (inputs of a linear layer).
    pub fn cols(&self) -> usize {
        match self {
            Weight::Plain(matrix) => matrix.cols,
            Weight::Grouped(matrix) => matrix.cols,
        }
    }

    pub(crate) fn plain(&self) -> Option<Matrix<'a>> {
        match self {
            Weight::Plain(matrix) => Some(*matrix),
            Weight::Grouped(_) => None,
        }
    }

    pub(crate) fn grouped(&self) -> Option<GroupedMatrix<'a>> {
        match self {
            Weight::Plain(_) => None,
            Weight::Grouped(matrix) => Some(*matrix),
        }
    }

    pub(crate) fn check(&self, name: &'static str) -> Result<(), KernelError> {
        match self {
            Weight::Plain(matrix) => matrix.check(name),
            Weight::Grouped(matrix) => matrix.check(name),
        }
    }
}

/// What a linear job does with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Overwrites the output.
    Store,
    /// Adds to the output (residual connections).
    Add,
}

/// One output of [`crate::Cpu::linear`]; all jobs of a call share the input.
#[derive(Debug)]
pub struct LinearJob<'a> {
    /// Weight `[N, K]`.
    pub weight: Weight<'a>,
    /// Bias `[N]`, added before the result is written.
    pub bias: Option<Vector<'a>>,
    /// Output `[T, N]`.
    pub out: &'a mut [f32],
    /// Overwrite or accumulate.
    pub mode: Write,
}

impl<'a> LinearJob<'a> {
    /// Without bias; overwrites `out`.
    pub fn new(weight: impl Into<Weight<'a>>, out: &'a mut [f32]) -> LinearJob<'a> {
        LinearJob { weight: weight.into(), bias: None, out, mode: Write::Store }
    }
}

/// Elementwise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x * Φ(x)` by the error function.
    Gelu,
    /// `x * Φ(x)` by the tanh formula.
    GeluTanh,
}

/// One layer's paged cache of blocks of `S` tokens: `k` is `[B, H_kv, D, S]`, `v` is `[B, H_kv, S, D]`.
#[derive(Debug)]
pub struct KvLayer<'a> {
    /// Storage type of both.
    pub dtype: DType,
    /// Keys.
    pub k: &'a mut [u8],
    /// Values.
    pub v: &'a mut [u8],
    /// `B`.
    pub num_blocks: usize,
    /// `H_kv`.
    pub num_kv_heads: usize,
    /// `S`.
    pub block_size: usize,
    /// `D`.
    pub head_dim: usize,
}

impl KvLayer<'_> {
    /// Checks the byte counts of both halves and that no dimension of a row is zero.
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        if self.num_kv_heads == 0 || self.block_size == 0 || self.head_dim == 0 {
            let (left, right) = (self.num_kv_heads, self.block_size * self.head_dim);
            return Err(KernelError::Mismatch { what: "kv heads and block", left, right });
        }
        let row = product("kv cache", self.head_dim, self.dtype.size_bytes())?;
        let head = product("kv cache", row, self.block_size)?;
        let block = product("kv cache", head, self.num_kv_heads)?;
        let bytes = product("kv cache", block, self.num_blocks)?;
        expect_count("kv.k", self.k.len(), bytes, "bytes")?;
        expect_count("kv.v", self.v.len(), bytes, "bytes")
    }

    /// Number of token slots, `B * S`.
    pub(crate) fn slots(&self) -> usize {
        self.num_blocks * self.block_size
    }
}

/// Which tokens of its sequence a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Itself and all before it.
    Past,
    /// So many, itself and those just before it; at least 1.
    Window(u32),
    /// All of them, before and after it.
    All,
}

/// The sequences of one ragged batch, for [`crate::Cpu::attention`].
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// Query heads `H`; a multiple of the cache's `H_kv`.
    pub num_heads: usize,
    /// Factor on the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// Which tokens a query sees.
    pub sight: Sight,
    /// `[R + 1]`: the query tokens of sequence `r` are rows `q_starts[r]..q_starts[r + 1]`.
    pub q_starts: &'a [u32],
    /// `[R]`: tokens of each sequence after this step; its last query stands at `context_len - 1`.
    pub context_lens: &'a [u32],
    /// `[R]`: block ids of each sequence, in order of position.
    pub block_tables: &'a [&'a [u32]],
}

impl AttentionArgs<'_> {
    /// Checks the batch against the cache and returns the number of query tokens.
    pub(crate) fn check(&self, kv: &KvLayer<'_>) -> Result<usize, KernelError> {
        let mismatch = |what, left, right| Err(KernelError::Mismatch { what, left, right });
        let sequences = self.context_lens.len();
        if self.num_heads == 0 || !self.num_heads.is_multiple_of(kv.num_kv_heads) {
            return mismatch("query heads and kv heads", self.num_heads, kv.num_kv_heads);
        }
        if self.sight == Sight::Window(0) {
            return mismatch("attention window and the token itself", 0, 1);
        }
        expect_count("q_starts", self.q_starts.len(), sequences + 1, "rows")?;
        expect_count("block_tables", self.block_tables.len(), sequences, "rows")?;
        if self.q_starts[0] != 0 {
            return mismatch("first of q_starts and zero", self.q_starts[0] as usize, 0);
        }
        for (r, pair) in self.q_starts.windows(2).enumerate() {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            if end < start {
                return mismatch("neighbours in q_starts", start, end);
            }
            let context = self.context_lens[r] as usize;
            if end - start > context {
                return mismatch("query tokens and context length", end - start, context);
            }
            if end > start {
                self.check_blocks(r, context - (end - start), context, kv)?;
            }
        }
        Ok(self.q_starts[sequences] as usize)
    }

    /// The positions that the query at `position` of sequence `r` sees.
    pub(crate) fn visible(&self, r: usize, position: usize) -> Range<usize> {
        let end = position + 1;
        match self.sight {
            Sight::Past => 0..end,
            Sight::Window(size) => end.saturating_sub(size as usize)..end,
            Sight::All => 0..self.context_lens[r] as usize,
        }
    }

    /// Blocks that slid out of the window may be stale; all others must exist.
    fn check_blocks(
        &self,
        sequence: usize,
        first_query: usize,
        context: usize,
        kv: &KvLayer<'_>,
    ) -> Result<(), KernelError> {
        let table = self.block_tables[sequence];
        let needed = context.div_ceil(kv.block_size);
        if table.len() < needed {
            return Err(KernelError::Length {
                tensor: "block table",
                found: table.len(),
                expected: needed,
                unit: "blocks",
            });
        }
        let first = self.visible(sequence, first_query).start / kv.block_size;
        match table[first..needed].iter().find(|&&id| id as usize >= kv.num_blocks) {
            None => Ok(()),
            Some(&id) => Err(KernelError::Index {
                tensor: "block table",
                index: id as usize,
                bound: kv.num_blocks,
            }),
        }
    }
}
