//! The identity of a block's content: a hash chained over all tokens up to the block's end.

/// Names the content of a full block together with everything before it.
///
/// BLAKE3 resists collisions, so equal hashes are taken as equal tokens without comparing them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash([u8; blake3::OUT_LEN]);

impl BlockHash {
    /// What the first block is chained to. Sequences with different salts never share blocks.
    #[must_use]
    pub fn root(salt: &[u8]) -> Self {
        Self(blake3::derive_key("tyndall 2026 kv prefix cache root v1", salt))
    }

    /// The hash of a full block of `tokens` that follows the block `self`.
    #[must_use]
    pub fn child(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in &self.0[..6] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The hashes of a growing sequence's full blocks, each computed once.
#[derive(Debug, Clone)]
pub struct HashChain {
    block_size: usize,
    root: BlockHash,
    hashes: Vec<BlockHash>,
}

impl HashChain {
    /// An empty chain over blocks of `block_size` tokens (at least one).
    #[must_use]
    pub fn new(block_size: u32, salt: &[u8]) -> Self {
        let block_size = block_size.max(1) as usize;
        Self { block_size, root: BlockHash::root(salt), hashes: Vec::new() }
    }

    /// Hashes the blocks that `tokens` fills beyond those already hashed.
    ///
    /// `tokens` is the sequence from its first token; earlier calls saw a prefix of it.
    pub fn extend(&mut self, tokens: &[u32]) {
        let done = self.hashes.len() * self.block_size;
        for block in tokens.get(done..).unwrap_or_default().chunks_exact(self.block_size) {
            let parent = self.hashes.last().unwrap_or(&self.root);
            self.hashes.push(parent.child(block));
        }
    }

    /// One hash for each full block so far, in order.
    #[must_use]
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(salt: &[u8], tokens: &[u32]) -> Vec<BlockHash> {
        let mut chain = HashChain::new(2, salt);
        chain.extend(tokens);
        chain.hashes().to_vec()
    }

    #[test]
    fn only_full_blocks_are_hashed() {
        for (tokens, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] {
            let tokens: Vec<u32> = (0..tokens).collect();
            assert_eq!(chain(b"", &tokens).len(), expected, "{tokens:?}");
        }
    }

    #[test]
    fn a_hash_covers_everything_before_it() {
        let base = chain(b"", &[1, 2, 3, 4]);
        assert_eq!(base[0], chain(b"", &[1, 2, 9, 9])[0]);
        assert_ne!(base[1], chain(b"", &[1, 9, 3, 4])[1]);
        assert_ne!(base[0], chain(b"tenant", &[1, 2, 3, 4])[0]);
        assert_ne!(base[1], chain(b"tenant", &[1, 2, 3, 4])[1]);
        assert_ne!(base[0], base[1]);
        // The same bytes cut differently are different blocks.
        assert_ne!(chain(b"", &[1, 0x0200_0000])[0], chain(b"", &[0x0200_0001, 0])[0]);
    }

    #[test]
    fn extending_in_pieces_equals_at_once() {
        let tokens: Vec<u32> = (0..11).map(|t| t * 7).collect();
        let mut pieces = HashChain::new(3, b"s");
        for end in 0..=tokens.len() {
            pieces.extend(&tokens[..end]);
        }
        let mut whole = HashChain::new(3, b"s");
        whole.extend(&tokens);
        assert_eq!(pieces.hashes(), whole.hashes());
        assert_eq!(whole.hashes().len(), 3);
    }
}
