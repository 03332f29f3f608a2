use serde_json::{Value, json};
use tyndall_types::{Structure, StructuredOutput};

use super::check;
use crate::{Place, structural_tag};

#[test]
fn patterns_choices_and_grammars() {
    let pattern = StructuredOutput::Regex(r"^(a|bc)*/\d$".to_owned());
    check(&pattern, &["/1", "abca/0"], &["", "b/1", "a/1 ", "a/٣"]);
    check(&StructuredOutput::Regex(String::new()), &[""], &["a"]);
    let choices = ["a", "a/b", "\"\\\n\u{7f}", "äß"];
    let choice = StructuredOutput::Choice(choices.map(str::to_owned).to_vec());
    check(&choice, &choices, &["", "a/", "ä"]);
    let empty = StructuredOutput::Choice(vec![String::new(), "a".to_owned()]);
    check(&empty, &["", "a"], &["aa"]);
    let lark = "start: sum\nsum: NUMBER (\"+\" sum)?\nNUMBER: /[0-9]+/\n%ignore / /\n";
    let lark = StructuredOutput::Grammar(lark.to_owned());
    check(&lark, &["1", "1+2", "12 + 3"], &["", "1+", "+1"]);
    let gbnf =
        "root ::= expr # all\nexpr ::= [0-9]+ | \"(\" expr (op expr)* \")\"\nop ::= [-+*/]\n";
    let gbnf = StructuredOutput::Grammar(gbnf.to_owned());
    check(&gbnf, &["1", "(1)", "((12-3)*4)"], &["", "1+1", "(1", "()"]);
}

#[test]
fn wrong_texts_name_their_place() {
    let check = |output: StructuredOutput, place: Place, cause: &str| {
        let error = crate::check(&output).unwrap_err();
        assert_eq!(error.place, place, "{error}");
        assert!(error.cause.contains(cause), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    };
    let grammar = |text: &str| StructuredOutput::Grammar(text.to_owned());
    let at = |line, column| Place::Line { line, column };
    check(grammar("start: a\n"), at(1, 8), "unknown name");
    check(grammar("start: \"a\" ~\n"), at(1, 13), "xpected");
    check(grammar("start: \"a\n"), at(1, 10), "lexer error");
    check(grammar(""), Place::Whole, "start");
    check(grammar("start: <eos>"), at(1, 8), "special");
    check(grammar("root ::= a"), at(1, 10), "named \"a\"");
    check(StructuredOutput::Regex("a(".to_owned()), Place::Character(2), "not closed");
    check(StructuredOutput::Regex(r"\p{Nonsense}".to_owned()), Place::Whole, "");
    check(StructuredOutput::Choice(Vec::new()), Place::Whole, "0 strings");
}

#[test]
fn automata_that_cost_too_much_are_refused() {
    for pattern in ["(((a{1,900}){1,900}){1,900}b){900}c", ".*a.{900}b.{900}c.{900}"] {
        let output = StructuredOutput::Regex(pattern.to_owned());
        // Either is fine; what matters is that it ends.
        if let Err(error) = crate::check(&output) {
            assert!(!error.cause.is_empty(), "{pattern}");
        }
    }
    let chain: String = (0..1500).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect();
    let deep = StructuredOutput::Grammar(format!("start: r0\n{chain}r1500: \"b\"\n"));
    crate::check(&deep).unwrap();
}

fn calls() -> StructuredOutput {
    let structure = |name: &str, schema: Value| Structure {
        begin: format!("<f={name}>"),
        schema,
        end: "</f>".to_owned(),
    };
    StructuredOutput::StructuralTag {
        structures: vec![
            structure(
                "a",
                json!({"type": "object", "required": ["x"], "additionalProperties": false,
                "properties": {"x": {"type": "integer"}}}),
            ),
            structure("b", json!({"type": "null"})),
        ],
        triggers: vec!["<f=".to_owned()],
    }
}

#[test]
fn a_trigger_begins_what_must_be_completed() {
    let yes = [
        "",
        "text < f= <f",
        r#"one <f=a>{"x": 1}</f> two <f=b>null</f>"#,
        r#"<f=a>{"x":1}</f><f=b>null</f>"#,
        "<<f=b>null</f>\n",
    ];
    let no = [
        "<f=",
        "text <f=c>",
        r#"<f=a>{"x": "1"}</f>"#,
        r#"<f=a>{"x": 1}"#,
        "<f=b>null</f",
        "text <f= more",
    ];
    check(&calls(), &yes, &no);
}

#[test]
fn formats_of_a_structural_tag() {
    let of = |format: Value| {
        structural_tag(&json!({"type": "structural_tag", "format": format})).unwrap()
    };
    let think = json!({"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"});
    let call = json!({"type": "tag", "begin": "<c>", "end": ["</c>", "<e>"],
        "content": {"type": "json_schema", "json_schema": {"type": "integer"}}});
    let tags = json!({"type": "triggered_tags", "triggers": ["<c"], "tags": [call], "at_least_one": true,
        "excludes": ["!"]});
    let sequence = of(json!({"type": "sequence", "elements": [think, tags]}));
    let yes = ["<think></think><c>1</c>", "<think>a </think b</think>x <c>12<e> y"];
    let no =
        ["<think></think>", "<c>1</c>", "<think>a</think>! <c>1</c>", "<think>a</think><c>x</c>"];
    check(&sequence, &yes, &no);

    let list = of(json!({"type": "tags_with_separator", "tags": [call], "separator": ", "}));
    check(&list, &["", "<c>1</c>", "<c>1</c>, <c>2<e>"], &[", ", "<c>1</c><c>2</c>"]);
    let one = of(json!({"type": "or", "elements": [
        {"type": "const_string", "value": "yes"},
        {"type": "regex", "pattern": "no+"},
        {"type": "grammar", "grammar": "root ::= \"<\" root \">\" | \"-\""}]}));
    check(&one, &["yes", "nooo", "<<->>"], &["", "n", "<->>", "yesno"]);
    let first = of(json!({"type": "triggered_tags", "triggers": ["<c>"], "tags": [call],
        "stop_after_first": true}));
    check(&first, &["", "text", "text <c>1</c>"], &["<c>1</c> text", "<c>1</c><c>2</c>"]);
    let nested = of(json!({"type": "tag", "begin": "(", "end": ")", "content": tags}));
    check(&nested, &["(<c>1</c>)", "(a <c>1</c> b)"], &["()", "(<c>1</c>", "(<c>1</c>) b)"]);
    let older =
        structural_tag(&json!({"structures": [{"begin": "<f=a>", "schema": true, "end": "</f>"}],
        "triggers": ["<f="]}));
    assert!(matches!(older.unwrap(), StructuredOutput::StructuralTag { .. }));
}

#[test]
fn wrong_tags_name_their_part() {
    let check = |value: Value, pointer: &str| {
        let error = structural_tag(&value).and_then(|output| crate::check(&output)).unwrap_err();
        assert_eq!(error.place, Place::Pointer(pointer.to_owned()), "{value}: {error}");
    };
    let format = |format: Value| json!({"format": format});
    check(json!({}), "/structures");
    check(format(json!({"type": "qwen_xml_parameter"})), "/format/type");
    check(format(json!({"type": "const_string"})), "/format/value");
    check(format(json!({"type": "any_text", "exclude": []})), "/format/exclude");
    let schema = json!({"type": "json_schema", "json_schema": {"not": {}}});
    check(
        format(json!({"type": "sequence", "elements": [schema]})),
        "/format/elements/0/json_schema/not",
    );
    let text = json!({"type": "any_text"});
    check(format(json!({"type": "sequence", "elements": [text, text]})), "/format/elements/0");
    check(format(json!({"type": "regex", "pattern": "(?=a)"})), "/format/pattern");
    let tag = json!({"begin": "<a>", "content": text, "end": "</a>"});
    let triggered = |triggers: Value| {
        format(json!({"type": "triggered_tags", "triggers": triggers, "tags": [tag]}))
    };
    check(triggered(json!(["<b"])), "/format/tags/0/begin");
    check(triggered(json!(["<a", "<b"])), "/format/triggers");
    check(triggered(json!(vec!["<a"; 200])), "/format/triggers");
    check(triggered(json!([])), "/format/triggers");
    let structure = json!({"begin": "<a>", "schema": {"not": {}}, "end": ""});
    check(json!({"structures": [structure], "triggers": ["<"]}), "/structures/0/schema/not");
}
