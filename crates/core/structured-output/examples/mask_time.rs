//! How long a mask and the acceptance of a token take, at 128k tokens.
//!
//! `cargo run --release -p tyndall-structured-output --example mask_time`
//!
//! The vocabulary is made up like those of byte-level BPE: bytes, words of syllables with and
//! without a blank before them, numbers, runs of punctuation and blanks, other scripts. A walk
//! writes a given text by its longest tokens, as a model would, or takes any possible token.

#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tyndall_structured_output::{Compiler, Vocabulary, check};
use tyndall_types::{Structure, StructuredOutput};

const TOKENS: usize = 128_000;
const END: u32 = TOKENS as u32;
const WALKS: usize = 20;

fn main() {
    let tokens = tokens();
    let bytes: usize = tokens.iter().map(Vec::len).sum();
    let started = Instant::now();
    let vocabulary = Vocabulary::new(tokens.clone(), &[END], TOKENS + 256).expect("it is one");
    println!("vocabulary: {TOKENS} tokens, {bytes} bytes, built in {:?}", started.elapsed());
    let compiler = Compiler::new(Arc::new(vocabulary));
    println!("microseconds            steps    mean     p50     p99     max");
    for (name, output, text) in constraints() {
        let started = Instant::now();
        check(&output).expect("it can be honoured");
        let checked = started.elapsed();
        let started = Instant::now();
        compiler.compile(&output).expect("it can be honoured");
        let compiled = started.elapsed();
        let started = Instant::now();
        compiler.compile(&output).expect("it can be honoured");
        println!("{name}: check {checked:?}, compile {compiled:?}, again {:?}", started.elapsed());
        report("  the first text", write(&compiler, &output, &tokens, &text));
        // The same steps again and again: the least time of each is without the machine's pauses.
        let walks: Vec<Vec<Duration>> =
            (0..WALKS).map(|_| write(&compiler, &output, &tokens, &text)).collect();
        let least = |i: usize| walks.iter().map(|walk| walk[i]).min().unwrap_or_default();
        report("  a later text", (0..walks[0].len()).map(least).collect());
        let random = (0..WALKS).flat_map(|seed| wander(&compiler, &output, seed as u64)).collect();
        report("  random tokens", random);
    }
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |share: f64| us(times[((times.len() - 1) as f64 * share) as usize]);
    let mean = us(times.iter().sum()) / times.len() as f64;
    println!(
        "{name:22} {:6} {mean:7.1} {:7.1} {:7.1} {:7.1}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Times of the steps that write the text, by the longest possible tokens.
fn write(
    compiler: &Compiler,
    output: &StructuredOutput,
    tokens: &[Vec<u8>],
    text: &str,
) -> Vec<Duration> {
    let ids: std::collections::HashMap<&[u8], u32> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_slice(), id as u32)).collect();
    let mut matcher = compiler.compile(output).expect("it was compiled before");
    let mut rest = text.as_bytes();
    let mut times = Vec::new();
    while !rest.is_empty() {
        let longest =
            (1..=rest.len().min(16)).rev().find_map(|n| ids.get(&rest[..n]).map(|id| (n, *id)));
        let (length, id) = longest.expect("all bytes are tokens");
        let started = Instant::now();
        let mask = matcher.mask().expect("the text fits");
        assert!(mask[id as usize / 32] >> (id % 32) & 1 == 1, "{}", String::from_utf8_lossy(rest));
        matcher.accept(id).expect("it is possible");
        times.push(started.elapsed());
        rest = &rest[length..];
    }
    assert!(matcher.can_end(), "the text is complete");
    times
}

/// Times of up to 200 steps of a random walk.
fn wander(compiler: &Compiler, output: &StructuredOutput, seed: u64) -> Vec<Duration> {
    let mut random = Random(seed + 1);
    let mut matcher = compiler.compile(output).expect("it was compiled before");
    let mut times = Vec::new();
    while times.len() < 200 {
        let started = Instant::now();
        let Ok(mask) = matcher.mask() else { break };
        let masked = started.elapsed();
        let possible: Vec<u32> =
            (0..=END).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        let id = possible[random.below(possible.len())];
        let started = Instant::now();
        matcher.accept(id).expect("it is possible");
        times.push(masked + started.elapsed());
    }
    times
}

fn constraints() -> Vec<(&'static str, StructuredOutput, String)> {
    let object = json!({"title": "Report", "count": 12, "items": [{"a": true}, {"a": null}], "text":
        "The quick brown fox jumps over the lazy dog, and then it rests for a while in the shade."});
    let schema = json!({"type": "object", "additionalProperties": false,
        "required": ["name", "kind", "address", "tags", "score"],
        "properties": {
            "name": {"type": "string", "maxLength": 80},
            "kind": {"enum": ["person", "company", "other"]},
            "address": {"type": "object", "required": ["street", "zip"],
                "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
            "born": {"type": "string", "format": "date"},
            "score": {"type": "number", "minimum": 0, "maximum": 100}}});
    let person = json!({"name": "Some Person of this town", "kind": "person",
        "address": {"street": "A rather long street name 12", "zip": "12345"},
        "tags": ["one", "two", "more words in a tag"], "score": 99.5});
    let pretty = serde_json::to_string_pretty(&person).expect("values can be written");
    let call = Structure {
        begin: "<tool_call>".to_owned(),
        schema: schema.clone(),
        end: "</tool_call>".to_owned(),
    };
    vec![
        ("json_object", StructuredOutput::JsonObject, object.to_string()),
        (
            "nested schema",
            StructuredOutput::Json { schema, compact: false, closed: false },
            pretty.clone(),
        ),
        (
            "regex",
            StructuredOutput::Regex(
                r"[A-Z][a-z]+( [a-z]+){3,40}, [0-9]{1,3}(\.[0-9]{2})? (EUR|USD)".to_owned(),
            ),
            "Some words that make a short line of text, 123.45 EUR".to_owned(),
        ),
        (
            "tool calls in text",
            StructuredOutput::StructuralTag {
                structures: vec![call],
                triggers: vec!["<tool_call>".to_owned()],
            },
            format!("I will look that up: one moment.\n<tool_call>{pretty}</tool_call>"),
        ),
    ]
}

/// A small generator of numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn tokens() -> Vec<Vec<u8>> {
    const SYLLABLES: [&str; 40] = [
        "a", "e", "i", "o", "th", "er", "on", "an", "re", "he", "in", "ed", "nd", "ha", "at", "en",
        "es", "of", "or", "nt", "ea", "ti", "to", "it", "st", "io", "le", "is", "ou", "ar", "as",
        "de", "rt", "ve", "ing", "tion", "ment", "com", "pre", "ly",
    ];
    const MARKS: [&str; 16] =
        ["\"", ":", ",", "{", "}", "[", "]", "(", ")", ".", "\\", "/", "-", "_", "=", "<"];
    let mut random = Random(7);
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut add = |token: Vec<u8>| {
        if tokens.len() < TOKENS && seen.insert(token.clone()) {
            tokens.push(token);
        }
        tokens.len()
    };
    for token in (0..=255).map(|byte| vec![byte]) {
        add(token);
    }
    for token in (0..1000).map(|number| number.to_string().into_bytes()) {
        add(token);
    }
    for n in 1..80 {
        add(vec![b' '; n]);
        add([&b"\n"[..], &vec![b' '; n]].concat());
    }
    while add(Vec::from(&b"the"[..])) < TOKENS {
        let word: String = (0..=random.below(4)).map(|_| SYLLABLES[random.below(40)]).collect();
        let token = match random.below(20) {
            0..=8 => format!(" {word}"),
            9..=13 => word,
            14 => format!("{}{}", word[..1].to_uppercase(), &word[1..]),
            15 => (0..=random.below(4)).map(|_| MARKS[random.below(16)]).collect(),
            16 => format!("{}{word}", MARKS[random.below(16)]),
            _ => {
                let base = [0x400, 0x4E00, 0xAC00, 0x600][random.below(4)];
                let letter = |random: &mut Random| char::from_u32(base + random.below(200) as u32);
                (0..=random.below(3)).filter_map(|_| letter(&mut random)).collect()
            }
        };
        add(token.into_bytes());
    }
    tokens
}
