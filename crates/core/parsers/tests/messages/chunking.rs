//! Any text is read without a panic, and how it is cut changes nothing.

use crate::support::{options, parse};
use crate::transcripts::{self, Transcript};
use proptest::prelude::*;
use proptest::sample::select;
use tyndall_parsers::{ParserOptions, ReasoningFormat, ToolFormat, markers};
use tyndall_types::{MessageDelta, ToolChoice};

/// Pieces of JSON, Python, tags and text, of which texts are made that come far into the readers.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    ": ",
    "=",
    "\"",
    "'",
    "\\",
    "\n",
    " ",
    "; ",
    "```",
    "<",
    ">",
    "0",
    "-1.5",
    "true",
    "None",
    "é",
    "😀",
    "\u{1}",
    "text",
    "name",
    "\"name\": \"weather\"",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"city\": \"Rome\"}",
    "\"a\": 1",
    "weather",
    "weather(",
    "city=",
    "'Rome'",
    "{\"name\": \"weather\", \"arguments\": {\"city\": \"x\"}}",
    "{\"foo\": ",
    "<function=weather>",
    "<parameter=days>",
    "<parameter=city>",
    "functions.weather:0",
    "function<｜tool▁sep｜>weather\n```json\n",
    "weather<｜tool▁sep｜>",
    "name=\"city\"",
    "\">",
    " string=\"false\">",
    "<arg_key>days</arg_key>",
    "<arg_value>",
    "analysis",
    "commentary",
    "final",
    "to=functions.weather",
    "assistant",
    "json",
    "Here is my",
    "[weather(city=\"x\")]",
];

fn all_options() -> impl Strategy<Value = ParserOptions> {
    let reasonings: Vec<_> = ReasoningFormat::all().map(Some).chain([None]).collect();
    let formats: Vec<_> = ToolFormat::all().map(Some).chain([None]).collect();
    let choices = vec![
        ToolChoice::Auto,
        ToolChoice::Auto,
        ToolChoice::Auto,
        ToolChoice::Required,
        ToolChoice::Named("weather".to_owned()),
        ToolChoice::None,
    ];
    (select(reasonings), select(formats), select(choices), any::<[bool; 3]>()).prop_map(
        |(reasoning, format, choice, [thinking, prompt_opens_reasoning, parallel])| ParserOptions {
            thinking,
            prompt_opens_reasoning,
            choice,
            parallel,
            ..options(reasoning, format)
        },
    )
}

fn options_and_text() -> impl Strategy<Value = (ParserOptions, String)> {
    (all_options(), proptest::collection::vec((any::<u16>(), 0..4_u8), 0..24)).prop_map(
        |(options, picks)| {
            let own = markers(options.reasoning, options.format);
            let piece = |(pick, kind): (u16, u8)| {
                let (pick, len) = (usize::from(pick), own.len());
                if kind < 2 && len > 0 { own[pick % len] } else { PIECES[pick % PIECES.len()] }
            };
            let text = picks.into_iter().map(piece).collect();
            (options, text)
        },
    )
}

/// A transcript in which pieces are moved, doubled or lost.
fn damaged_transcript() -> impl Strategy<Value = (ParserOptions, String)> {
    let cuts = proptest::collection::vec(any::<(u16, u16, u8)>(), 1..5);
    (select(transcripts::all()), cuts, any::<[bool; 2]>()).prop_map(|(transcript, cuts, flags)| {
        let Transcript { options, text, .. } = transcript;
        let mut chars: Vec<char> = text.chars().collect();
        for (at, len, kind) in cuts {
            let at = usize::from(at) % (chars.len() + 1);
            let end = (at + usize::from(len) % 16).min(chars.len());
            let piece: Vec<char> = match kind % 3 {
                0 => chars.drain(at..end).collect(),
                1 => chars[at..end].to_vec(),
                _ => PIECES[usize::from(len) % PIECES.len()].chars().collect(),
            };
            if kind % 3 > 0 {
                chars.splice(at..at, piece);
            }
        }
        let [thinking, parallel] = flags;
        (ParserOptions { thinking, parallel, ..options }, chars.into_iter().collect())
    })
}

/// Checks what holds for every text, and that no cut changes it.
fn check(options: &ParserOptions, text: &str) -> Result<(), TestCaseError> {
    let whole = parse(options, [text]);
    let chars: Vec<&str> = text.split_inclusive(|_: char| true).collect();
    prop_assert_eq!(&parse(options, chars), &whole, "char by char");
    for (at, _) in text.char_indices() {
        let (left, right) = text.split_at(at);
        prop_assert_eq!(&parse(options, [left, right]), &whole, "cut at {}", at);
    }
    let mut begun = 0;
    for delta in &whole {
        match delta {
            MessageDelta::ToolCall { index, name } => {
                prop_assert_eq!(*index, begun);
                prop_assert!(!name.is_empty());
                begun += 1;
            }
            MessageDelta::Arguments { index, fragment } => {
                prop_assert_eq!(*index + 1, begun);
                prop_assert!(fragment.starts_with('{'), "{}", fragment);
                let json = serde_json::from_str::<serde_json::Value>(fragment);
                prop_assert!(json.is_ok() || json.is_err_and(|e| e.is_eof()), "{}", fragment);
            }
            MessageDelta::Content(text) | MessageDelta::Reasoning(text) => {
                prop_assert!(!text.is_empty());
            }
        }
    }
    prop_assert!(options.parallel || begun <= 1);
    Ok(())
}

/// Names of functions and parameters have bounds; cuts before, at and behind them make no difference.
#[test]
fn cuts_change_nothing_beyond_bounds() {
    for format in ToolFormat::all() {
        for open in markers(None, Some(format)) {
            let long = "x".repeat(520);
            let text = format!("{open}{long}{open}weather(city=1) {open}{long}");
            let options = options(None, Some(format));
            let whole = parse(&options, [text.as_str()]);
            let pieces = text.split_inclusive(|_: char| true);
            assert_eq!(parse(&options, pieces), whole, "{open}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn cuts_change_nothing_in_likely_texts((options, text) in options_and_text()) {
        check(&options, &text)?;
    }

    #[test]
    fn cuts_change_nothing_in_damaged_transcripts((options, text) in damaged_transcript()) {
        check(&options, &text)?;
    }

    #[test]
    fn cuts_change_nothing_in_any_text(options in all_options(), text in "\\PC{0,40}") {
        check(&options, &text)?;
    }

    #[test]
    fn without_tools_and_reasoning_a_text_is_content(text in any::<String>()) {
        let options = ParserOptions { choice: ToolChoice::None, ..options(None, None) };
        let expected = (!text.is_empty()).then(|| MessageDelta::Content(text.clone()));
        prop_assert_eq!(parse(&options, [text.as_str()]), Vec::from_iter(expected));
    }

    /// Text that holds no call and no marker comes out as it is, whatever the format.
    #[test]
    fn text_that_is_no_call_is_content(
        format in select(ToolFormat::all().collect::<Vec<_>>()),
        text in "[a-z{}()<>|_\\[\\]\", \n]{1,60}",
    ) {
        let deltas = parse(&options(None, Some(format)), [text.as_str()]);
        prop_assume!(!deltas.iter().any(|delta| matches!(delta, MessageDelta::ToolCall { .. })));
        prop_assert_eq!(deltas, [MessageDelta::Content(text)]);
    }
}
