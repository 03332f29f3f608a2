//! Which replica is likely to have the beginning of a prompt in its cache.
//!
//! A router cannot see the caches; it remembers which prompts it has given to whom. A text is cut into
//! blocks, each named by a hash of everything up to its end, so that two texts have as many names
//! in common as they have whole blocks, and a text that is the same has all.
//!
//! 1. Where the load is uneven, by more requests than the threshold, the beginning does not count.
//! 2. Those with the longest beginning, if it is long enough a share of the text.
//! 3. Else those that were given the least text, so that conversations spread.
//!
//! Of several, by power of two choices, and of all when none of them has room: a request does not wait
//! for a cache. Source: `PrefixCacheAffinityRouter` of Ray Serve LLM, which keeps characters
//! in a tree.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::PrefixAffinity;

/// About as long as a block of a replica's cache.
const BLOCK_BYTES: usize = 64;

/// A prompt's text, as routers compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// The names of its blocks. The last one may be shorter than the others.
    blocks: Arc<[u64]>,
    bytes: usize,
}

impl Prefix {
    /// Of a text in pieces, which are taken as one.
    #[must_use]
    pub fn of<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut hasher, mut blocks, mut bytes) = (DefaultHasher::new(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = piece.as_bytes();
            while !rest.is_empty() {
                let room = BLOCK_BYTES - bytes % BLOCK_BYTES;
                let (block, after) = rest.split_at(room.min(rest.len()));
                hasher.write(block);
                (bytes, rest) = (bytes + block.len(), after);
                if bytes % BLOCK_BYTES == 0 {
                    blocks.push(hasher.finish());
                }
            }
        }
        if bytes % BLOCK_BYTES != 0 {
            // It ends here, which a block that goes on does not.
            bytes.hash(&mut hasher);
            blocks.push(hasher.finish());
        }
        Self { blocks: blocks.into(), bytes }
    }

    /// How many bytes so many of its blocks are.
    fn bytes_of(&self, blocks: usize) -> usize {
        (blocks * BLOCK_BYTES).min(self.bytes)
    }
}

/// What each replica was given.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    affinity: PrefixAffinity,
    given: HashMap<ReplicaId, Given>,
}

/// What one was given: what was used last is kept.
#[derive(Debug, Default)]
struct Given {
    /// When each was used last.
    used: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
    clock: u64,
}

impl Given {
    /// How many of the first blocks it has.
    fn matched(&self, prefix: &Prefix) -> usize {
        prefix.blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    fn take(&mut self, prefix: &Prefix, max_blocks: usize) {
        // The end first, so that it is forgotten before the beginning, without which it is of no use.
        for block in prefix.blocks.iter().take(max_blocks).rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(*block, self.clock) {
                self.by_use.remove(&before);
            }
            self.by_use.insert(self.clock, *block);
        }
        while self.used.len() > max_blocks
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.used.remove(&oldest);
        }
    }
}

impl Prefixes {
    pub(crate) fn set(&mut self, affinity: PrefixAffinity) {
        self.affinity = affinity;
    }

    /// Which of these replicas it would go to first, each with what it has: whether it is one of them.
    pub(crate) fn prefer(
        &self,
        prefix: &Prefix,
        replicas: &[Option<(&ReplicaId, u32)>],
    ) -> Vec<bool> {
        let ongoing = || replicas.iter().flatten().map(|(_, ongoing)| *ongoing);
        let spread = ongoing().max().unwrap_or(0) - ongoing().min().unwrap_or(0);
        if self.affinity.imbalanced_threshold.is_some_and(|most| f64::from(spread) > most) {
            return vec![true; replicas.len()];
        }
        let of_each = |count: &dyn Fn(&Given) -> usize| -> Vec<Option<usize>> {
            let of = |(id, _)| self.given.get(id).map_or(0, count);
            replicas.iter().map(|replica| replica.map(of)).collect()
        };
        let matched = of_each(&|given| given.matched(prefix));
        let longest = matched.iter().flatten().copied().max().unwrap_or(0);
        let share = prefix.bytes_of(longest) as f64 / prefix.bytes.max(1) as f64;
        if longest > 0 && share >= self.affinity.match_rate_threshold {
            return matched.iter().map(|matched| *matched == Some(longest)).collect();
        }
        let remembered = of_each(&|given| given.used.len());
        let fewest = remembered.iter().flatten().min();
        remembered.iter().map(|remembered| remembered.as_ref() == fewest).collect()
    }

    /// A replica got it.
    pub(crate) fn took(&mut self, prefix: &Prefix, replica: &ReplicaId) {
        let max_blocks = self.affinity.max_bytes / BLOCK_BYTES;
        self.given.entry(replica.clone()).or_default().take(prefix, max_blocks);
    }

    /// Replicas that are gone have nothing any more.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&ReplicaId) -> bool) {
        self.given.retain(|id, _| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(index: usize) -> ReplicaId {
        ReplicaId::new(format!("r{index}"))
    }

    fn text(words: usize, word: &str) -> String {
        word.repeat(words)
    }

    /// Who is preferred of three with so many requests.
    fn preferred(prefixes: &Prefixes, text: &str, ongoing: [u32; 3]) -> Vec<usize> {
        let ids: Vec<_> = (0..3).map(id).collect();
        let replicas: Vec<_> = ids.iter().zip(ongoing).map(Some).collect();
        let preferred = prefixes.prefer(&Prefix::of([text]), &replicas);
        (0..3).filter(|index| preferred[*index]).collect()
    }

    #[test]
    fn who_has_the_longest_beginning_comes_first_and_then_who_has_the_least() {
        let mut prefixes = Prefixes::default();
        assert_eq!(preferred(&prefixes, "anything", [0; 3]), [0, 1, 2]);
        let first = text(100, "a conversation ");
        prefixes.took(&Prefix::of([&*first]), &id(1));
        assert_eq!(preferred(&prefixes, &first, [0; 3]), [1]);
        let longer = format!("{first} and what follows it");
        assert_eq!(preferred(&prefixes, &longer, [9, 50, 0]), [1]);
        prefixes.took(&Prefix::of([&*longer]), &id(2));
        assert_eq!(preferred(&prefixes, &longer, [0; 3]), [2]);
        // Both have all of the first one but its end.
        assert_eq!(preferred(&prefixes, &text(80, "a conversation "), [0; 3]), [1, 2]);
        assert_eq!(preferred(&prefixes, &text(100, "another thing "), [0; 3]), [0]);
        // Less than a tenth of it is known.
        let mostly_new = format!("{}{}", &first[..128], text(200, "new text "));
        assert_eq!(preferred(&prefixes, &mostly_new, [0; 3]), [0]);
    }

    #[test]
    fn a_short_text_is_known_when_it_comes_again() {
        let mut prefixes = Prefixes::default();
        prefixes.took(&Prefix::of(["hello"]), &id(2));
        assert_eq!(preferred(&prefixes, "hello", [0; 3]), [2]);
        assert_eq!(preferred(&prefixes, "hello, you", [0; 3]), [0, 1]);
    }

    #[test]
    fn beyond_the_threshold_the_load_decides() {
        let mut prefixes = Prefixes::default();
        prefixes.set(PrefixAffinity { imbalanced_threshold: Some(5.0), ..Default::default() });
        prefixes.took(&Prefix::of(["hello"]), &id(1));
        assert_eq!(preferred(&prefixes, "hello", [0, 5, 3]), [1]);
        assert_eq!(preferred(&prefixes, "hello", [0, 6, 3]), [0, 1, 2]);
    }

    #[test]
    fn what_was_used_last_is_kept_and_its_beginning_longest() {
        let mut prefixes = Prefixes::default();
        let max_bytes = 10 * BLOCK_BYTES;
        prefixes.set(PrefixAffinity { max_bytes, ..Default::default() });
        let texts = ["a", "b", "c"].map(|word| text(4 * BLOCK_BYTES, word));
        for text in texts.iter().chain(&texts[..1]) {
            prefixes.took(&Prefix::of([&**text]), &id(0));
        }
        let given = &prefixes.given[&id(0)];
        assert_eq!(texts.map(|text| given.matched(&Prefix::of([&*text]))), [4, 2, 4]);
        prefixes.keep(|id| *id != ReplicaId::new("r0".to_owned()));
        assert!(prefixes.given.is_empty());
    }

    proptest! {
        #[test]
        fn blocks_in_common_are_what_texts_have_in_common(
            common in "[ab]{0,300}",
            first in "[ab]{0,200}",
            second in "[ab]{0,200}",
            cut in 0_usize..300,
        ) {
            let (first, second) = (common.clone() + &first, common + &second);
            let (one, two) = (Prefix::of([&*first]), Prefix::of([&*second]));
            let in_common = first.bytes().zip(second.bytes()).take_while(|(a, b)| a == b).count();
            let whole = in_common / BLOCK_BYTES + usize::from(first == second && !first.is_empty());
            let mut given = Given::default();
            given.take(&one, 1000);
            prop_assert_eq!(given.matched(&two), whole.min(two.blocks.len()));
            // How it is cut does not matter.
            let (head, tail) = first.split_at(cut.min(first.len()));
            prop_assert_eq!(Prefix::of([head, tail]), one);
        }

        #[test]
        fn memory_is_bounded(
            texts in proptest::collection::vec("[a-c]{0,400}", 0..40),
            max_blocks in 0_usize..12,
        ) {
            let mut given = Given::default();
            for text in &texts {
                given.take(&Prefix::of([&**text]), max_blocks);
                prop_assert!(given.used.len() <= max_blocks);
                prop_assert_eq!(given.used.len(), given.by_use.len());
            }
        }
    }
}
