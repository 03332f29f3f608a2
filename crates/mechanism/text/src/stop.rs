//! Stop strings, found in text that arrives in arbitrary portions.
//!
//! The match that is complete first wins, counted in characters of the text and not in portions,
//! so the outcome never depends on how the text was cut into tokens. Of several that are complete
//! at the same character, the first in the caller's list wins.
//!
//! Each stop string has a Knuth-Morris-Pratt automaton: its state is how much of the stop string
//! the text ends with. The longest state is exactly the text that must be held back.

/// Cuts a stream of text at the first stop string.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Automaton>,
    include: bool,
    held: String,
    done: bool,
}

/// What a portion of text released.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that can no longer become part of a match, maybe empty.
    pub emit: String,
    /// The stop string that ended the text; the caller should end the generation.
    pub matched: Option<String>,
}

impl StopMatcher {
    /// Looks for `stops`; empty strings are ignored. With `include` the matched string stays at
    /// the end of the text.
    #[must_use]
    pub fn new(stops: &[String], include: bool) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Automaton::new(stop));
        Self { stops: stops.collect(), include, held: String::new(), done: false }
    }

    /// Takes the next portion of text. After a match everything is swallowed.
    pub fn push(&mut self, text: &str) -> StopOutput {
        if self.done {
            return StopOutput::default();
        }
        if self.stops.is_empty() {
            return StopOutput { emit: text.to_owned(), matched: None };
        }
        let base = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            // Every automaton sees the byte, but after a match none is asked again.
            let complete = self.stops.iter_mut().find_map(|stop| stop.step(byte).then_some(&*stop));
            if let Some(stop) = complete {
                let end = base + at + 1;
                self.done = true;
                self.held.truncate(if self.include { end } else { end - stop.text.len() });
                let matched = Some(stop.text.clone());
                return StopOutput { emit: std::mem::take(&mut self.held), matched };
            }
        }
        let hold = self.stops.iter().map(|stop| stop.state).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        StopOutput { emit: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// The text has ended: what was held back is no match after all.
    pub fn finish(&mut self) -> String {
        self.done = true;
        std::mem::take(&mut self.held)
    }
}

#[derive(Debug, Clone)]
struct Automaton {
    text: String,
    /// For each prefix length `n + 1`: the length of its longest proper prefix that is its suffix.
    fallback: Vec<usize>,
    /// How many bytes of the stop string the text ends with.
    state: usize,
}

impl Automaton {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut length = 0;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = fallback[length - 1];
            }
            length += usize::from(bytes[at] == bytes[length]);
            fallback[at] = length;
        }
        Self { text: text.to_owned(), fallback, state: 0 }
    }

    /// Whether the text up to and with `byte` ends with the stop string.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.state > 0 && bytes[self.state] != byte {
            self.state = self.fallback[self.state - 1];
        }
        self.state += usize::from(bytes[self.state] == byte);
        self.state == bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(portions: &[&str], stops: &[&str], include: bool) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops, include);
        let mut text = String::new();
        let mut matched = None;
        for portion in portions {
            let out = matcher.push(portion);
            assert!(matched.is_none() || out == StopOutput::default());
            text.push_str(&out.emit);
            matched = matched.or(out.matched);
        }
        text.push_str(&matcher.finish());
        (text, matched)
    }

    fn check(portions: &[&str], stops: &[&str], text: &str, matched: Option<&str>) {
        assert_eq!(run(portions, stops, false), (text.to_owned(), matched.map(str::to_owned)));
    }

    #[test]
    fn stops_are_found_across_portions() {
        check(&["a EN", "D b"], &["END"], "a ", Some("END"));
        check(&["a EN", "E b"], &["END"], "a ENE b", None);
        check(&["a E", "N", "D"], &["x", "END"], "a ", Some("END"));
        check(&["aab", "aac"], &["aabaac", "zz"], "", Some("aabaac"));
        check(&["aabaa", "bc"], &["aabc"], "aab", Some("aabc"));
        check(&["ab"], &[], "ab", None);
        check(&["ab"], &[""], "ab", None);
        check(&["x", "日", "本"], &["日本"], "x", Some("日本"));
    }

    #[test]
    fn the_first_complete_match_wins_and_ties_go_by_list_order() {
        check(&["xabcd"], &["abcd", "c"], "xab", Some("c"));
        check(&["xabc"], &["bc", "abc"], "xa", Some("bc"));
        check(&["xabc"], &["abc", "bc"], "x", Some("abc"));
    }

    #[test]
    fn the_stop_can_stay_in_the_text() {
        assert_eq!(run(&["a EN", "D b"], &["END"], true), ("a END".into(), Some("END".into())));
    }

    #[test]
    fn only_what_could_become_a_match_is_held_back() {
        let mut matcher = StopMatcher::new(&["stop".into(), "\n\n".into()], false);
        for (text, emit) in
            [("a st", "a "), ("ay\n", "stay"), ("b", "\nb"), ("sto", ""), ("sto", "sto")]
        {
            assert_eq!(matcher.push(text).emit, emit);
        }
        assert_eq!(matcher.finish(), "sto");
    }

    /// Tries every end of every stop at every place.
    fn naive(text: &str, stops: &[String], include: bool) -> (String, Option<String>) {
        for end in 0..=text.len() {
            let Some(head) = text.get(..end) else { continue };
            for stop in stops.iter().filter(|stop| !stop.is_empty()) {
                if let Some(before) = head.strip_suffix(stop.as_str()) {
                    let kept = if include { head } else { before };
                    return (kept.to_owned(), Some(stop.clone()));
                }
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn equals_the_naive_search(
            portions in prop::collection::vec("[abé]{0,4}", 0..8),
            stops in prop::collection::vec("[abé]{0,5}", 0..4),
            include: bool,
        ) {
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let portion_refs: Vec<&str> = portions.iter().map(String::as_str).collect();
            let got = run(&portion_refs, &stop_refs, include);
            prop_assert_eq!(got, naive(&portions.concat(), &stops, include));
        }

        #[test]
        fn never_holds_more_than_a_possible_match(
            text in "[ab]{0,12}",
            stops in prop::collection::vec("[ab]{1,5}", 1..4),
        ) {
            let mut matcher = StopMatcher::new(&stops, false);
            let out = matcher.push(&text);
            let held = matcher.finish();
            prop_assert!(out.matched.is_some() || held.is_empty() || stops.iter().any(|stop| stop.starts_with(&held)));
        }
    }
}
