//! Random operations against a slow model that knows blocks by their tokens, not their hashes.

use crate::{BlockPool, BlockTable, HashChain};
use proptest::prelude::*;
use std::collections::HashMap;

const BLOCK_SIZE: usize = 2;
const NUM_BLOCKS: u32 = 12;

#[derive(Debug, Clone)]
enum Op {
    Allocate { tokens: Vec<u32>, extra: usize },
    Grow { who: usize, by: usize },
    Shrink { who: usize, to: usize },
    Compute { who: usize, blocks: usize },
    Release { who: usize },
    Discard { who: usize },
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let tokens = prop::collection::vec(0..2u32, 0..12);
    prop_oneof![
        6 => (tokens, 0..3usize).prop_map(|(tokens, extra)| Op::Allocate { tokens, extra }),
        3 => (any::<usize>(), 0..4usize).prop_map(|(who, by)| Op::Grow { who, by }),
        2 => (any::<usize>(), 0..8usize).prop_map(|(who, to)| Op::Shrink { who, to }),
        6 => (any::<usize>(), 0..7usize).prop_map(|(who, blocks)| Op::Compute { who, blocks }),
        5 => any::<usize>().prop_map(|who| Op::Release { who }),
        1 => any::<usize>().prop_map(|who| Op::Discard { who }),
        1 => Just(Op::Clear),
    ]
}

struct Held {
    table: BlockTable,
    tokens: Vec<u32>,
    chain: HashChain,
    /// What the model says the table holds.
    blocks: Vec<u32>,
    committed: usize,
}

impl Held {
    fn prefix(&self, index: usize) -> Option<Vec<u32>> {
        self.tokens.get(..(index + 1) * BLOCK_SIZE).map(<[u32]>::to_vec)
    }
}

#[derive(Default)]
struct Model {
    free: Vec<u32>,
    /// Oldest first.
    unheld: Vec<u32>,
    known: HashMap<Vec<u32>, u32>,
}

impl Model {
    fn forget(&mut self, block: u32) {
        self.known.retain(|_, known| *known != block);
    }

    fn take(&mut self) -> u32 {
        if let Some(block) = self.free.pop() {
            return block;
        }
        let block = self.unheld.remove(0);
        self.forget(block);
        block
    }

    fn hits(&self, tokens: &[u32], limit: usize) -> Vec<u32> {
        (1..=tokens.len() / BLOCK_SIZE)
            .take(limit)
            .map_while(|blocks| self.known.get(&tokens[..blocks * BLOCK_SIZE]).copied())
            .collect()
    }

    fn release(&mut self, held: &[Held], blocks: &[u32]) {
        for block in blocks.iter().rev() {
            if held.iter().any(|other| other.blocks.contains(block)) {
                continue;
            }
            if self.known.values().any(|known| known == block) {
                self.unheld.push(*block);
            } else {
                self.free.push(*block);
            }
        }
    }
}

struct Run {
    pool: BlockPool,
    model: Model,
    held: Vec<Held>,
}

impl Run {
    fn new() -> Self {
        let free = (0..NUM_BLOCKS).rev().collect();
        Self {
            pool: BlockPool::new(NUM_BLOCKS, true),
            model: Model { free, ..Model::default() },
            held: Vec::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        let pick = |who: usize, held: &[Held]| (!held.is_empty()).then(|| who % held.len());
        match op {
            Op::Allocate { tokens, extra } => self.allocate(tokens, extra),
            Op::Grow { who, by } => {
                if let Some(index) = pick(who, &self.held) {
                    self.grow(index, by);
                }
            }
            Op::Shrink { who, to } => {
                if let Some(index) = pick(who, &self.held) {
                    let held = &mut self.held[index];
                    self.pool.shrink(&mut held.table, to);
                    let kept = to.max(held.committed).min(held.blocks.len());
                    self.model.free.extend(held.blocks.drain(kept..).rev());
                }
            }
            Op::Compute { who, blocks } => {
                if let Some(index) = pick(who, &self.held) {
                    self.compute(index, blocks);
                }
            }
            Op::Release { who } => {
                if let Some(index) = pick(who, &self.held) {
                    let held = self.held.swap_remove(index);
                    self.pool.release(held.table);
                    self.model.release(&self.held, &held.blocks);
                }
            }
            Op::Discard { who } => {
                if let Some(index) = pick(who, &self.held) {
                    let held = self.held.swap_remove(index);
                    self.pool.discard(held.table);
                    held.blocks.iter().for_each(|&block| self.model.forget(block));
                    self.model.release(&self.held, &held.blocks);
                }
            }
            Op::Clear => {
                self.pool.clear_cache();
                self.model.free.append(&mut self.model.unheld);
                self.model.known.clear();
            }
        }
    }

    fn allocate(&mut self, tokens: Vec<u32>, extra: usize) {
        let mut chain = HashChain::new(BLOCK_SIZE as u32, b"");
        chain.extend(&tokens);
        let num_blocks = tokens.len().div_ceil(BLOCK_SIZE) + extra;
        let mut blocks = self.model.hits(&tokens, num_blocks);
        assert_eq!(self.pool.num_cached_prefix(chain.hashes()), blocks.len());
        let unheld = blocks.iter().filter(|block| self.model.unheld.contains(block)).count();
        let available = self.model.free.len() + self.model.unheld.len() - unheld;
        let Ok(table) = self.pool.allocate(chain.hashes(), num_blocks) else {
            assert!(num_blocks - blocks.len() > available);
            return;
        };
        let committed = blocks.len();
        assert_eq!(table.num_hits(), committed);
        self.model.unheld.retain(|block| !blocks.contains(block));
        while blocks.len() < num_blocks {
            blocks.push(self.model.take());
        }
        self.held.push(Held { table, tokens, chain, blocks, committed });
    }

    fn grow(&mut self, index: usize, by: usize) {
        let held = &mut self.held[index];
        let num_blocks = held.blocks.len() + by;
        let available = self.model.free.len() + self.model.unheld.len();
        match self.pool.grow(&mut held.table, num_blocks) {
            Ok(()) => (0..by).for_each(|_| held.blocks.push(self.model.take())),
            Err(error) => assert_eq!((error.wanted, error.available), (by, available)),
        }
    }

    fn compute(&mut self, index: usize, blocks: usize) {
        let held = &mut self.held[index];
        let end = blocks.min(held.chain.hashes().len()).min(held.blocks.len());
        self.pool.commit(&mut held.table, &held.chain.hashes()[..end]);
        for index in held.committed..end {
            let prefix = held.prefix(index).expect("the chain hashes only full blocks");
            self.model.known.entry(prefix).or_insert(held.blocks[index]);
        }
        held.committed = held.committed.max(end);
    }

    fn check(&self) {
        for held in &self.held {
            assert_eq!(held.table.block_ids(), held.blocks);
        }
        assert_eq!(self.pool.num_free(), self.model.free.len());
        assert_eq!(self.pool.num_cached(), self.model.unheld.len());
        let mut in_use = 0;
        for block in 0..NUM_BLOCKS {
            let holders = self.held.iter().filter(|held| held.blocks.contains(&block)).count();
            assert_eq!(self.pool.ref_count(block) as usize, holders, "block {block}");
            in_use += usize::from(holders > 0);
        }
        assert_eq!(self.pool.num_in_use(), in_use);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_does_what_the_model_does(ops in prop::collection::vec(op(), 1..300)) {
        let mut run = Run::new();
        for op in ops {
            run.apply(op);
            run.check();
        }
        while !run.held.is_empty() {
            run.apply(Op::Release { who: 0 });
        }
        run.check();
        prop_assert_eq!(run.pool.num_available(), NUM_BLOCKS as usize);
    }
}
