//! Where a sequence's last tokens occurred before: what followed then may follow again.

use std::collections::HashMap;

/// Tokens that must match at least. They are the key, so this is also the shape of the index.
const KEY: usize = 2;
/// Earlier occurrences that are looked at, the latest first.
const CANDIDATES: usize = 8;
/// Matches longer than this are not told apart.
const LONGEST: usize = 16;

/// An earlier occurrence of a sequence's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// Index of the token that followed it.
    pub(crate) next: usize,
    /// Tokens that are equal, up to [`LONGEST`].
    pub(crate) len: usize,
}

/// The places of all pairs of neighbouring tokens, extended as the sequence grows: constant time
/// for each token and each look-up.
#[derive(Debug, Default)]
pub(crate) struct LookupIndex {
    /// What follows the latest occurrence of a pair.
    latest: HashMap<[u32; KEY], u32>,
    /// By what follows a pair: the same for the occurrence before it. 0 is none.
    earlier: Vec<u32>,
}

impl LookupIndex {
    /// The longest match of the end of `tokens` with an earlier part; among equals the latest.
    ///
    /// `tokens` is the sequence from its first token; earlier calls saw a prefix of it.
    pub(crate) fn find(&mut self, tokens: &[u32]) -> Option<Match> {
        self.extend(tokens);
        let mut next = *self.latest.get(last_pair(tokens)?)? as usize;
        let mut best: Option<Match> = None;
        for _ in 0..CANDIDATES {
            let len = common_end(&tokens[..next], tokens);
            if best.is_none_or(|best| len > best.len) {
                best = Some(Match { next, len });
            }
            next = self.earlier[next] as usize;
            if next == 0 {
                break;
            }
        }
        best
    }

    /// Indexes all pairs that another token follows.
    fn extend(&mut self, tokens: &[u32]) {
        self.earlier.resize(self.earlier.len().max(KEY), 0);
        for next in self.earlier.len()..tokens.len() {
            let Some(&pair) = last_pair(&tokens[..next]) else { continue };
            let next =
                u32::try_from(next).expect("a sequence is at most max_model_len tokens long");
            self.earlier.push(self.latest.insert(pair, next).unwrap_or(0));
        }
    }
}

/// The first `count` tokens after a match. Where they reach the end of the sequence they go on with
/// themselves, as a loop does.
pub(crate) fn continuation(tokens: &[u32], next: usize, count: usize) -> Vec<u32> {
    let period = &tokens[next..];
    period.iter().copied().cycle().take(count).collect()
}

fn last_pair(tokens: &[u32]) -> Option<&[u32; KEY]> {
    tokens.last_chunk()
}

fn common_end(a: &[u32], b: &[u32]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take(LONGEST).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(tokens: &[u32]) -> Option<Match> {
        LookupIndex::default().find(tokens)
    }

    #[test]
    fn the_longest_match_wins_and_then_the_latest() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[1, 2]), None);
        assert_eq!(find(&[1, 2, 1]), None);
        assert_eq!(find(&[1, 2, 9, 1, 2]), Some(Match { next: 2, len: 2 }));
        assert_eq!(find(&[1, 2, 8, 1, 2, 9, 1, 2]), Some(Match { next: 5, len: 2 }));
        let longer = [7, 1, 2, 8, 3, 1, 2, 9, 7, 1, 2];
        assert_eq!(find(&longer), Some(Match { next: 3, len: 3 }));
    }

    #[test]
    fn loops_go_on() {
        assert_eq!(find(&[5, 5, 5]), Some(Match { next: 2, len: 2 }));
        assert_eq!(continuation(&[5, 5, 5], 2, 3), [5, 5, 5]);
        let tokens = [9, 1, 2, 3, 1, 2, 3];
        let found = find(&tokens).unwrap();
        assert_eq!(continuation(&tokens, found.next, 5), [1, 2, 3, 1, 2]);
    }

    proptest! {
        #[test]
        fn growing_equals_building_at_once(tokens in prop::collection::vec(0..3u32, 0..60)) {
            let mut growing = LookupIndex::default();
            for end in 0..=tokens.len() {
                prop_assert_eq!(growing.find(&tokens[..end]), find(&tokens[..end]));
            }
        }

        #[test]
        fn matches_are_real(tokens in prop::collection::vec(0..4u32, 0..60)) {
            if let Some(Match { next, len }) = find(&tokens) {
                prop_assert!(len >= KEY && next < tokens.len());
                prop_assert_eq!(&tokens[next - len..next], &tokens[tokens.len() - len..]);
            } else if let Some((end, before)) = tokens.split_last_chunk::<KEY>().map(|(b, e)| (e, b)) {
                let inner = before.iter().chain(&end[..1]).copied().collect::<Vec<_>>();
                prop_assert!(!inner.windows(KEY).any(|pair| pair == end));
            }
        }
    }
}
