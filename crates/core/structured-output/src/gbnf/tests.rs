use std::collections::BTreeSet;

use proptest::prelude::*;
use tyndall_types::StructuredOutput;

use super::*;
use crate::error::Place;

#[test]
fn what_is_wrong_is_named_by_line_and_column() {
    let check = |grammar: &str, line: usize, column: usize, cause: &str| {
        let error = to_lark(grammar).unwrap_err();
        assert_eq!(error.place, Place::Line { line, column }, "{grammar}: {error}");
        assert!(error.cause.contains(cause), "{error}");
    };
    check("a ::= \"x\"", 1, 1, "named root");
    check("root ::= \"x\"\nroot ::= \"y\"", 2, 1, "there already");
    check("root ::= a\n# comment\n  b ::= \"x\"", 1, 10, "named \"a\"");
    check("root ::= \"x", 1, 10, "not closed");
    check("root ::= [a\n]", 1, 10, "not closed");
    check("root ::= (\"a\"", 1, 10, "not closed");
    check("root ::= \"a\")", 1, 13, "no name");
    check("root ::= * \"a\"", 1, 10, "nothing to repeat");
    check("root ::= \"a\"{x}", 1, 13, "no counts");
    check("root ::= \"a\"{3,2}", 1, 13, "order");
    check("root ::= [b-a]", 1, 13, "order");
    check("root ::= \"\\q\"", 1, 11, "escape");
    check("root ::= \"\\xZZ\"", 1, 11, "no character");
    check("root ::= <think>", 1, 10, "special tokens");
    check("root ::= \"a\" ;", 1, 14, "means nothing");
    check("root = \"a\"", 1, 6, "no ::=");
    check("root ::= \"a\" root", 1, 1, "ends");
    check("root ::= \"a\"?\nx ::= x", 2, 1, "ends");
    check(&format!("root ::= {}", "(".repeat(100)), 1, 74, "brackets");
    check(&format!("root ::= \"a\"{}", "*".repeat(100)), 1, 21, "quantifiers");
}

#[test]
fn all_of_the_syntax() {
    let grammar = concat!(
        "# a comment\r\n",
        "root  ::= (item ws)*\n",
        "  | \"none\" # at the end\n",
        "item ::= \"\\x41\\u00e9\\\"\\n\" | [^a-y\\]\\n\\\\] [x-] | . b_2{2} [0-9]{1,} \"z\"{0,1}\n",
        "b_2 ::=\n  \"b\"{,2} \"!\"\n",
        "ws ::= [ \\t]?\n",
    );
    assert!(is_gbnf(grammar));
    let output = StructuredOutput::Grammar(grammar.to_owned());
    let yes = ["", "none", "Aé\"\n", "zx z-\t", "?b!bb!7z"];
    crate::tests::check(&output, &yes, &["nope", "ax", "]x", "?b!7", "?bbb!b!7", "  "]);
}

#[test]
fn lark_is_no_gbnf() {
    assert!(!is_gbnf("start: \"a ::= b\"\n"));
    assert!(!is_gbnf("start: a::_\n"));
}

const LETTERS: usize = 4;

/// The texts of an expression of at most so many letters.
fn texts(body: &Expression, rules: &[BTreeSet<String>]) -> BTreeSet<String> {
    let join = |a: &BTreeSet<String>, b: &BTreeSet<String>| -> BTreeSet<String> {
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| format!("{a}{b}")));
        pairs.filter(|text| text.len() <= LETTERS).collect()
    };
    let nothing = || BTreeSet::from([String::new()]);
    match body {
        Expression::Literal(text) if text.len() > LETTERS => BTreeSet::new(),
        Expression::Literal(text) => BTreeSet::from([text.clone()]),
        Expression::Class(_) => BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        Expression::Rule(rule) => rules[*rule].clone(),
        Expression::Sequence(items) => {
            items.iter().fold(nothing(), |all, item| join(&all, &texts(item, rules)))
        }
        Expression::Alternatives(all) => all.iter().flat_map(|one| texts(one, rules)).collect(),
        Expression::Repeat(inner, min, max) => {
            let inner = texts(inner, rules);
            let mut power = (0..*min).fold(nothing(), |all, _| join(&all, &inner));
            let mut all = power.clone();
            for _ in *min..max.unwrap_or(*min + LETTERS as u32) {
                power = join(&power, &inner);
                all.extend(power.iter().cloned());
            }
            all
        }
    }
}

fn written(body: &Expression) -> String {
    let all = |items: &[Expression], between: &str| {
        let items: Vec<String> = items.iter().map(written).collect();
        format!("({})", items.join(between))
    };
    match body {
        Expression::Literal(text) => format!("{text:?}"),
        Expression::Class(class) => class.clone(),
        Expression::Rule(0) => "root".to_owned(),
        Expression::Rule(rule) => format!("rule{rule}"),
        Expression::Sequence(items) => all(items, " "),
        Expression::Alternatives(items) => all(items, " | "),
        Expression::Repeat(inner, min, None) => format!("{}{{{min},}}", written(inner)),
        Expression::Repeat(inner, min, Some(max)) => format!("{}{{{min},{max}}}", written(inner)),
    }
}

/// Bodies that refer to rules from `first` on.
fn body(first: usize) -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        "[ab]{0,2}".prop_map(Expression::Literal),
        Just(Expression::Class("[ab]".to_owned())),
        (first..3.max(first + 1)).prop_map(|rule| match rule {
            3.. => Expression::Literal("a".to_owned()),
            rule => Expression::Rule(rule),
        }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Expression::Sequence),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Expression::Alternatives),
            (inner, 0u32..3, prop::option::of(0u32..3)).prop_map(|(inner, min, more)| {
                Expression::Repeat(Box::new(inner), min, more.map(|more| min + more))
            }),
        ]
    })
}

/// Checks a grammar against what its texts are; they are all of them if no rule recurs.
fn compare(bodies: &[Expression], exact: bool) -> Result<(), TestCaseError> {
    let rules = bodies.iter().enumerate();
    let lines: Vec<String> = rules
        .map(|(i, body)| format!("{} ::= {}\n", written(&Expression::Rule(i)), written(body)))
        .collect();
    let grammar = lines.concat();
    let mut known = vec![BTreeSet::new(); bodies.len()];
    loop {
        let next: Vec<_> = bodies.iter().map(|body| texts(body, &known)).collect();
        if next == known {
            break;
        }
        known = next;
    }
    let output = StructuredOutput::Grammar(grammar.clone());
    if let Err(error) = crate::check(&output) {
        prop_assert!(error.cause.contains("ends"), "{error} of {grammar}");
        return Ok(());
    }
    for length in 0..=LETTERS {
        for bits in 0..1 << length {
            let text: String =
                (0..length).map(|i| if bits >> i & 1 == 1 { 'a' } else { 'b' }).collect();
            let (expected, found) =
                (known[0].contains(&text), crate::tests::possible(&output, &text));
            prop_assert!(expected || !found, "{text:?} of {grammar}");
            prop_assert!(!(exact && expected) || found, "{text:?} is missing of {grammar}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn grammars_without_recursion_are_exact((root, one, two) in (body(1), body(2), body(3))) {
        compare(&[root, one, two], true)?;
    }

    #[test]
    fn grammars_with_recursion_have_no_other_texts((root, one, two) in (body(0), body(0), body(0))) {
        compare(&[root, one, two], false)?;
    }
}
