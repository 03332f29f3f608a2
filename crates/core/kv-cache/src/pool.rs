//! Who holds which block, and which blocks can be had.

use crate::lru::LruList;
use crate::{BlockHash, BlockTable};
use std::collections::HashMap;

/// Fewer blocks can be had than were asked for; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} KV blocks are wanted but only {available} can be had")]
pub struct OutOfBlocks {
    /// Blocks wanted beyond those already held or shared.
    pub wanted: usize,
    /// Blocks that could be had: free ones and cached ones that no one holds.
    pub available: usize,
}

#[derive(Debug, Clone, Default)]
struct Block {
    ref_count: u32,
    /// Set while the prefix cache knows the block: then `cached[hash]` is this block.
    hash: Option<BlockHash>,
}

/// All KV blocks of an engine. Every block is free, cached or in use.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    /// Blocks without content; the last one is taken first.
    free: Vec<u32>,
    /// Blocks with content that no one holds.
    lru: LruList,
    /// Every block with known content, held or not.
    cached: HashMap<BlockHash, u32>,
    prefix_cache: bool,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks; with `prefix_cache` off, content is never shared.
    #[must_use]
    pub fn new(num_blocks: u32, prefix_cache: bool) -> Self {
        Self {
            blocks: vec![Block::default(); num_blocks as usize],
            free: (0..num_blocks).rev().collect(),
            lru: LruList::new(num_blocks),
            cached: HashMap::new(),
            prefix_cache,
        }
    }

    /// Blocks in total.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks without content.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Blocks with known content that no one holds.
    #[must_use]
    pub fn num_cached(&self) -> usize {
        self.lru.len()
    }

    /// Blocks that at least one table holds.
    #[must_use]
    pub fn num_in_use(&self) -> usize {
        self.num_blocks() - self.num_available()
    }

    /// Blocks that can be had: free and cached ones.
    #[must_use]
    pub fn num_available(&self) -> usize {
        self.free.len() + self.lru.len()
    }

    /// How many leading blocks of a sequence the prefix cache knows.
    #[must_use]
    pub fn num_cached_prefix(&self, hashes: &[BlockHash]) -> usize {
        hashes.iter().take_while(|hash| self.cached.contains_key(hash)).count()
    }

    /// Makes the table of a sequence: `num_blocks` blocks, of which as many leading ones as the
    /// prefix cache knows under `hashes` are shared with their content
    /// ([`BlockTable::num_hits`]).
    ///
    /// # Errors
    /// [`OutOfBlocks`] when the rest cannot be had; the pool is then unchanged.
    pub fn allocate(
        &mut self,
        hashes: &[BlockHash],
        num_blocks: usize,
    ) -> Result<BlockTable, OutOfBlocks> {
        let hashes = &hashes[..hashes.len().min(num_blocks)];
        let hits: Vec<u32> = hashes.iter().map_while(|h| self.cached.get(h).copied()).collect();
        let hits_unheld = hits.iter().filter(|&&b| self.blocks[b as usize].ref_count == 0).count();
        self.check(num_blocks - hits.len(), self.num_available() - hits_unheld)?;
        for &block in &hits {
            let state = &mut self.blocks[block as usize];
            if state.ref_count == 0 {
                self.lru.remove(block);
            }
            state.ref_count += 1;
        }
        let num_hits = hits.len();
        let mut table = BlockTable { blocks: hits, num_hits, num_committed: num_hits };
        self.extend(&mut table, num_blocks);
        Ok(table)
    }

    /// Extends a table to `num_blocks` blocks; one that has as many is left alone.
    ///
    /// # Errors
    /// [`OutOfBlocks`] when the missing blocks cannot be had; nothing is then changed.
    pub fn grow(&mut self, table: &mut BlockTable, num_blocks: usize) -> Result<(), OutOfBlocks> {
        let missing = num_blocks.saturating_sub(table.blocks.len());
        self.check(missing, self.num_available())?;
        self.extend(table, num_blocks);
        Ok(())
    }

    /// Takes the blocks beyond the first `num_blocks` back; those that the prefix cache was offered
    /// stay with the table.
    pub fn shrink(&mut self, table: &mut BlockTable, num_blocks: usize) {
        let kept = num_blocks.max(table.num_committed).min(table.blocks.len());
        for block in table.blocks.drain(kept..).rev() {
            // Never offered, so no one shares it and its content means nothing.
            self.blocks[block as usize].ref_count = 0;
            self.free.push(block);
        }
    }

    /// Makes the leading `hashes.len()` blocks of the table known to the prefix cache. All their
    /// tokens are computed. A content that is known already keeps its first block.
    pub fn commit(&mut self, table: &mut BlockTable, hashes: &[BlockHash]) {
        if !self.prefix_cache {
            return;
        }
        let end = hashes.len().min(table.blocks.len());
        for (&block, &hash) in table.blocks.iter().zip(hashes).skip(table.num_committed) {
            self.cached.entry(hash).or_insert_with(|| {
                self.blocks[block as usize].hash = Some(hash);
                block
            });
        }
        table.num_committed = table.num_committed.max(end);
    }

    /// Takes a sequence's blocks back. Those with known content stay cached; later blocks of the
    /// sequence are evicted before earlier ones, because they are of use to fewer others.
    pub fn release(&mut self, table: BlockTable) {
        for &block in table.blocks.iter().rev() {
            let state = &mut self.blocks[block as usize];
            state.ref_count -= 1;
            match (state.ref_count, state.hash) {
                (0, Some(_)) => self.lru.push_newest(block),
                (0, None) => self.free.push(block),
                (_, _) => {}
            }
        }
    }

    /// Takes a sequence's blocks back and forgets their content, because it cannot be trusted.
    pub fn discard(&mut self, table: BlockTable) {
        for &block in &table.blocks {
            self.forget(block);
        }
        self.release(table);
    }

    /// Forgets all known content. Tables keep their blocks.
    pub fn clear_cache(&mut self) {
        while let Some(block) = self.lru.pop_oldest() {
            self.free.push(block);
        }
        for (_, block) in self.cached.drain() {
            self.blocks[block as usize].hash = None;
        }
    }

    fn check(&self, wanted: usize, available: usize) -> Result<(), OutOfBlocks> {
        if wanted > available { Err(OutOfBlocks { wanted, available }) } else { Ok(()) }
    }

    /// Extends a table by blocks of which [`Self::check`] said that they can be had.
    fn extend(&mut self, table: &mut BlockTable, num_blocks: usize) {
        while table.blocks.len() < num_blocks {
            let block = self.take_one().expect("the caller counted the available blocks");
            self.blocks[block as usize].ref_count = 1;
            table.blocks.push(block);
        }
    }

    fn take_one(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let block = self.lru.pop_oldest()?;
            self.forget(block);
            Some(block)
        })
    }

    fn forget(&mut self, block: u32) {
        if let Some(hash) = self.blocks[block as usize].hash.take() {
            self.cached.remove(&hash);
        }
    }

    /// How many tables hold a block.
    #[cfg(test)]
    pub(crate) fn ref_count(&self, block: u32) -> u32 {
        self.blocks[block as usize].ref_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashChain;

    fn hashes(tokens: &[u32]) -> Vec<BlockHash> {
        let mut chain = HashChain::new(1, b"");
        chain.extend(tokens);
        chain.hashes().to_vec()
    }

    /// Allocates, computes and commits a sequence with one token per block.
    fn cache(pool: &mut BlockPool, tokens: &[u32]) -> BlockTable {
        let hashes = hashes(tokens);
        let mut table = pool.allocate(&hashes, tokens.len()).unwrap();
        pool.commit(&mut table, &hashes);
        table
    }

    #[test]
    fn a_refused_allocation_takes_nothing() {
        let mut pool = BlockPool::new(3, true);
        let table = cache(&mut pool, &[1, 2]);
        pool.release(table);
        let error = pool.allocate(&hashes(&[1, 2]), 4).unwrap_err();
        assert_eq!(error, OutOfBlocks { wanted: 2, available: 1 });
        assert_eq!((pool.num_free(), pool.num_cached(), pool.num_in_use()), (1, 2, 0));
        let mut table = pool.allocate(&[], 2).unwrap();
        let error = pool.grow(&mut table, 5).unwrap_err();
        assert_eq!(error, OutOfBlocks { wanted: 3, available: 1 });
        assert_eq!(table.block_ids().len(), 2);
        pool.release(table);
    }

    #[test]
    fn running_sequences_share_computed_blocks() {
        let mut pool = BlockPool::new(6, true);
        let first = cache(&mut pool, &[1, 2, 3]);
        let second = pool.allocate(&hashes(&[1, 2, 9]), 3).unwrap();
        assert_eq!(second.num_hits(), 2);
        assert_eq!(first.block_ids()[..2], second.block_ids()[..2]);
        assert_ne!(first.block_ids()[2], second.block_ids()[2]);
        assert_eq!(pool.num_in_use(), 4);
        pool.release(first);
        assert_eq!((pool.num_in_use(), pool.num_cached()), (3, 1));
        pool.release(second);
        assert_eq!((pool.num_in_use(), pool.num_cached(), pool.num_free()), (0, 3, 3));
    }

    #[test]
    fn blocks_that_are_not_computed_yet_are_not_shared() {
        let mut pool = BlockPool::new(4, true);
        let first = pool.allocate(&hashes(&[1, 2]), 2).unwrap();
        let second = pool.allocate(&hashes(&[1, 2]), 2).unwrap();
        assert_eq!(second.num_hits(), 0);
        pool.release(first);
        pool.release(second);
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    fn the_tail_of_the_least_recently_used_sequence_is_evicted_first() {
        let mut pool = BlockPool::new(4, true);
        for tokens in [[1, 2], [3, 4]] {
            let table = cache(&mut pool, &tokens);
            pool.release(table);
        }
        // A use of the older sequence makes it the newer one.
        let table = pool.allocate(&hashes(&[1, 2]), 2).unwrap();
        pool.release(table);
        let left = |pool: &BlockPool| {
            [[1, 2], [3, 4]].map(|tokens| pool.num_cached_prefix(&hashes(&tokens)))
        };
        let mut table = BlockTable::default();
        let mut seen = Vec::new();
        for blocks in 1..=4 {
            pool.grow(&mut table, blocks).unwrap();
            seen.push(left(&pool));
        }
        assert_eq!(seen, [[2, 1], [2, 0], [1, 0], [0, 0]]);
        pool.release(table);
    }

    #[test]
    fn a_table_shrinks_to_what_was_committed() {
        let mut pool = BlockPool::new(5, true);
        let mut table = cache(&mut pool, &[1, 2]);
        pool.grow(&mut table, 4).unwrap();
        let kept = table.block_ids()[..3].to_vec();
        pool.shrink(&mut table, 3);
        assert_eq!((table.block_ids(), pool.num_free()), (&kept[..], 2));
        pool.shrink(&mut table, 9);
        pool.shrink(&mut table, 0);
        assert_eq!((table.block_ids(), pool.num_free()), (&kept[..2], 3));
        pool.release(table);
        assert_eq!((pool.num_free(), pool.num_cached()), (3, 2));
    }

    #[test]
    fn discarded_content_is_never_found_again() {
        let mut pool = BlockPool::new(4, true);
        let kept = cache(&mut pool, &[1, 2]);
        let bad = cache(&mut pool, &[1, 2, 3]);
        pool.discard(bad);
        assert_eq!(pool.num_cached_prefix(&hashes(&[1, 2, 3])), 0);
        assert_eq!(pool.num_in_use(), 2);
        pool.release(kept);
        assert_eq!((pool.num_free(), pool.num_cached()), (4, 0));
    }

    #[test]
    fn without_the_prefix_cache_nothing_is_shared() {
        let mut pool = BlockPool::new(4, false);
        let table = cache(&mut pool, &[1, 2]);
        pool.release(table);
        assert_eq!((pool.num_free(), pool.num_cached()), (4, 0));
        let table = pool.allocate(&hashes(&[1, 2]), 2).unwrap();
        assert_eq!(table.num_hits(), 0);
        pool.release(table);
    }

    #[test]
    fn clearing_the_cache_leaves_tables_alone() {
        let mut pool = BlockPool::new(4, true);
        let held = cache(&mut pool, &[1, 2]);
        let returned = cache(&mut pool, &[7]);
        pool.release(returned);
        pool.clear_cache();
        assert_eq!((pool.num_free(), pool.num_cached(), pool.num_in_use()), (2, 0, 2));
        assert_eq!(pool.num_cached_prefix(&hashes(&[1])), 0);
        pool.release(held);
        assert_eq!(pool.num_free(), 4);
    }
}
