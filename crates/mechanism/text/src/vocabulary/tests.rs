use super::*;
use proptest::prelude::*;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

/// A vocabulary with rules, as an image and as the library has it.
#[derive(Debug, Clone)]
struct Case {
    vocab: Vocab,
    merges: Merges,
    unk_token: Option<String>,
    flags: BpeFlags,
}

impl Case {
    fn image(&self) -> Option<BpeImage> {
        BpeImage::build(&BpeSource {
            vocab: &self.vocab,
            merges: &self.merges,
            unk_token: self.unk_token.as_deref(),
            flags: self.flags,
            parts: r#"{"decoder":null}"#,
        })
    }

    fn library(&self) -> BPE {
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab.clone(), self.merges.clone())
            .fuse_unk(self.flags.fuse_unk)
            .byte_fallback(self.flags.byte_fallback)
            .ignore_merges(self.flags.ignore_merges);
        if let Some(unk) = &self.unk_token {
            builder = builder.unk_token(unk.clone());
        }
        builder.build().unwrap()
    }
}

fn ids(model: &impl Model, word: &str) -> Vec<u32> {
    model.tokenize(word).unwrap().iter().map(|token| token.id).collect()
}

/// Characters of one to four bytes; the vocabulary misses some of them.
const ALPHABET: [&str; 8] = ["a", "b", "c", "Ġ", "▁", "é", "🦀", "d"];

prop_compose! {
    /// Merges join any two tokens there are, so that one text comes about in several ways, and some
    /// pairs are listed twice.
    fn case()(
        characters in proptest::collection::vec(any::<bool>(), 8),
        pairs in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
        byte_tokens in prop_oneof![Just(0..0), Just(0xc0..0xf8), Just(0..0x100)],
        has_unknown in any::<bool>(),
        flags in any::<(bool, bool, bool)>(),
        gap in 0..7u32,
    ) -> Case {
        let mut tokens: Vec<String> = vec!["a".to_owned()];
        let known = ALPHABET.iter().zip(&characters).filter(|(_, known)| **known);
        tokens.extend(known.map(|(text, _)| (*text).to_owned()));
        let mut merges = Merges::new();
        for (a, b) in pairs {
            let (a, b) = (a.get(&tokens).clone(), b.get(&tokens).clone());
            if a.len() + b.len() < 24 {
                tokens.push(format!("{a}{b}"));
                merges.push((a, b));
            }
        }
        tokens.extend(byte_tokens.map(|byte| format!("<0x{byte:02X}>")));
        tokens.push("<unk>".to_owned());
        let mut vocab = Vocab::new();
        for token in tokens {
            let id = vocab.len() as u32 * (gap / 4 + 1) + gap;
            vocab.entry(token).or_insert(id);
        }
        let (fuse_unk, byte_fallback, ignore_merges) = flags;
        let flags = BpeFlags { fuse_unk, byte_fallback, ignore_merges, is_bare: gap == 0 };
        Case { vocab, merges, unk_token: has_unknown.then(|| "<unk>".to_owned()), flags }
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::collection::vec(prop::sample::select(&ALPHABET[..]), 0..24)
            .prop_map(|parts| parts.concat()),
        1 => ".{0,6}",
    ]
}

proptest! {
    #[test]
    fn words_become_the_librarys_tokens(
        case in case(),
        words in proptest::collection::vec(word(), 1..8),
    ) {
        let (image, library) = (case.image().unwrap(), case.library());
        prop_assert_eq!(image.flags(), case.flags);
        let ours = Vocabulary::Bpe(image);
        for word in &words {
            prop_assert_eq!(ids(&ours, word), ids(&library, word), "{:?}", word);
        }
        prop_assert_eq!(ours.get_vocab_size(), library.get_vocab_size());
        prop_assert_eq!(ours.get_vocab(), Model::get_vocab(&library));
        for (token, id) in &case.vocab {
            prop_assert_eq!(ours.token_to_id(token), Some(*id));
            let text = ours.id_to_token(*id);
            prop_assert_eq!(text.as_ref(), Some(token));
        }
        for id in [0, 1, 2, 3, 5000, u32::MAX] {
            prop_assert_eq!(ours.id_to_token(id), library.id_to_token(id));
        }
        prop_assert_eq!(ours.token_to_id("nowhere"), None);
    }

    #[test]
    fn damaged_blocks_are_refused_or_usable(
        case in case(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
        words in proptest::collection::vec(word(), 1..4),
    ) {
        let image = case.image().unwrap();
        let (head, checked) = signed(&image, &[7; 32]);
        let whole = [&head, checked].concat();
        let mut block = whole.clone();
        for (at, byte) in damage {
            block[at.index(whole.len())] = byte;
        }
        if let Some(cut) = cut {
            block.truncate(cut.index(whole.len()));
        }
        let is_genuine = checksum(&block).is_some_and(|(of, is_whole)| of == [7; 32] && is_whole);
        // The magic bytes are looked at when the block is opened.
        let same = block.len() == whole.len() && block[8..] == whole[8..];
        prop_assert_eq!(is_genuine, same);
        // Nobody opens it then; if somebody did, it would still be no more than wrong.
        if let Some(image) = BpeImage::on(ImageBytes::Owned(block.into())) {
            for word in &words {
                ids(&Vocabulary::Bpe(image.clone()), word);
            }
            for id in (0..40).chain([image.num_ids().saturating_sub(1), u32::MAX]) {
                image.token(id);
            }
            image.parts();
        }
    }

    #[test]
    fn foreign_bytes_are_refused_or_usable(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), tail in 0..3u32) {
        if let Some(head) = bytes.get_mut(..8) {
            head.copy_from_slice(b"tydtok\x00\x01");
        }
        // Small sizes are more likely to fit together.
        bytes.iter_mut().skip(72).for_each(|byte| *byte &= tail as u8);
        if let Some(image) = BpeImage::on(ImageBytes::Owned(bytes.into())) {
            ids(&Vocabulary::Bpe(image), "ab");
        }
    }
}

#[test]
fn a_changed_pair_that_makes_the_same_token_keeps_its_turn() {
    // "abc" comes about as a+bc and as ab+c; the entry for one is used for the other.
    let tokens = ["a", "b", "c", "d", "ab", "bc", "abc", "cd", "abcd"];
    let vocab: Vocab = (0..).zip(tokens).map(|(id, token)| (token.to_owned(), id)).collect();
    let merges = [("b", "c"), ("a", "bc"), ("a", "b"), ("c", "d"), ("ab", "c"), ("ab", "cd")];
    let merges: Merges = merges.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
    let case = Case { vocab, merges, unk_token: None, flags: BpeFlags::default() };
    let ours = Vocabulary::Bpe(case.image().unwrap());
    for word in ["abc", "abcd", "aabcdbcab", "abab", "cdcd"] {
        assert_eq!(ids(&ours, word), ids(&case.library(), word), "{word}");
    }
}

#[test]
fn unusual_vocabularies_stay_with_the_library() {
    let vocab = |entries: &[(&str, u32)]| -> Vocab {
        entries.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect()
    };
    let check = |vocab: Vocab, merges: &[(&str, &str)], unk: Option<&str>, is_known: bool| {
        let merges = merges.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let unk_token = unk.map(str::to_owned);
        let case = Case { vocab, merges, unk_token, flags: BpeFlags::default() };
        assert_eq!(case.image().is_some(), is_known, "{case:?}");
    };
    check(vocab(&[]), &[], None, true);
    check(vocab(&[("a", 0), ("b", 7)]), &[], Some("a"), true);
    check(vocab(&[("a", 0), ("b", 0)]), &[], None, false);
    check(vocab(&[("a", 0), ("", 1)]), &[], None, false);
    check(vocab(&[("a", 0)]), &[], Some("b"), false);
    check(vocab(&[("a", 0), ("b", 1)]), &[("a", "b")], None, false);
    check(vocab(&[("a", u32::MAX)]), &[], None, false);
    check(vocab(&[("a", 1 << 20)]), &[], None, false);
}
