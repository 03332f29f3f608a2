//! A sequence's blocks.

/// The blocks of one sequence, in the order of its tokens.
///
/// It owns a reference to each of them, cannot be copied, and goes back to the pool that made it
/// with [`BlockPool::release`](crate::BlockPool::release); one that is dropped keeps its blocks
/// in use for ever.
#[derive(Debug, Default)]
#[must_use = "dropping a table leaks its blocks: release it"]
pub struct BlockTable {
    pub(crate) blocks: Vec<u32>,
    /// Leading blocks that were found in the prefix cache.
    pub(crate) num_hits: usize,
    /// Leading blocks that have been offered to the prefix cache.
    pub(crate) num_committed: usize,
}

impl BlockTable {
    /// The block ids: token `t` lives in block `block_ids()[t / block_size]`.
    #[must_use]
    pub fn block_ids(&self) -> &[u32] {
        &self.blocks
    }

    /// Leading blocks that came from the prefix cache with their content.
    #[must_use]
    pub fn num_hits(&self) -> usize {
        self.num_hits
    }
}
