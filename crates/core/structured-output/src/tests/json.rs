use serde_json::{Value, json};
use tyndall_types::StructuredOutput;

use super::{check, json, possible};
use crate::Place;

#[test]
fn white_space_is_free_and_bounded() {
    let object = json(json!({"type": "object", "properties": {"a": {"type": "integer"}}}));
    let deep = format!("{{\n{}\"a\": 1}}", " ".repeat(64));
    let endless = format!("{{{}\"a\": 1}}", " ".repeat(80));
    let yes = ["{\"a\":1}", "{ \"a\" : 1 }", "{\r\n\t\"a\":\n1\n}", &deep];
    check(&object, &yes, &[&endless, "{\n\n\"a\":1}", " {\"a\":1}", "{\"a\":1"]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let compact = StructuredOutput::Json { schema, compact: true, closed: false };
    check(&compact, &["{\"a\":1}"], &["{ \"a\":1}", "{\"a\": 1}"]);
}

#[test]
fn any_object_and_any_value() {
    let yes = ["{}", r#"{"a": [1, -2.5e3, "x\n", null, {"b": true}]}"#];
    check(&StructuredOutput::JsonObject, &yes, &["[]", "1", "", "{\"a\"}", "{a: 1}"]);
    for schema in [json!(true), json!({}), json!({"title": "Any"})] {
        check(&json(schema), &["1", "null", "[]", "\"é\"", yes[1]], &["", "nul", "01", "\"\t\""]);
    }
}

#[test]
fn strings() {
    let of = |schema: Value| json(schema);
    let length = of(json!({"type": "string", "minLength": 2, "maxLength": 3}));
    check(&length, &[r#""ab""#, r#""é\n😀""#], &[r#""a""#, r#""abcd""#, "\"\""]);
    let both = of(json!({"type": "string", "pattern": "^a+$", "maxLength": 2}));
    check(&both, &[r#""a""#, r#""aa""#], &[r#""aaa""#, r#""ba""#, "\"\""]);
    let inside = of(json!({"type": "string", "pattern": "[0-9]{2}"}));
    check(&inside, &[r#""x12y""#], &[r#""x1y2""#]);
    let formatted = of(json!({"type": "string", "format": "date", "pattern": "^2"}));
    check(&formatted, &[r#""2024-02-29""#], &[r#""2023-02-29""#, r#""1999-01-01""#]);
    let bytes = of(json!({"type": "string", "contentEncoding": "base64"}));
    check(&bytes, &[r#""""#, r#""YQ==""#, r#""YWJj""#], &[r#""YQ""#, r#""Y===""#]);
    let literal = of(json!({"const": "a\"\\\n/é"}));
    check(&literal, &[r#""a\"\\\n/é""#], &[r#""a""#, r#""\u0061\"\\\n/é""#]);
}

/// A declared property cannot be written a second way, where its schema would not hold.
#[test]
fn names_have_one_spelling() {
    let schema = json(json!({"properties": {"a": {"type": "integer"}}, "type": "object"}));
    check(&schema, &[r#"{"a": 1, "b": "x"}"#], &[r#"{"\u0061": "x"}"#, r#"{"a": 1, "a": "x"}"#]);
}

#[test]
fn numbers() {
    let of = |schema: Value| json(schema);
    let small = of(json!({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}));
    check(&small, &["-3", "0", "11"], &["-4", "12", "1.0", "1e1", "01", "-"]);
    let share = of(json!({"type": "number", "minimum": 0, "maximum": 1}));
    check(&share, &["0", "0.25", "1", "1.0"], &["1.1", "-0.1", "1e1", "2e-1", ".5"]);
    let fives = of(json!({"type": "integer", "multipleOf": 5}));
    check(&fives, &["0", "-15", "100"], &["1", "12"]);
    let cents = of(json!({"type": "number", "multipleOf": 0.01}));
    check(&cents, &["1.25", "3"], &["1.255"]);
    let wide = of(json!({"type": "integer", "maximum": 9_223_372_036_854_775_807u64}));
    check(&wide, &["9007199254740992"], &["9007199254740993", "9223372036854775808"]);
    let int32 = of(json!({"type": "integer", "format": "int32"}));
    check(&int32, &["2147483647"], &["2147483648"]);
}

#[test]
fn arrays_and_objects() {
    let list =
        json(json!({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2}));
    check(&list, &["[null]", "[null, null]"], &["[]", "[null,null,null]", "[1]"]);
    let pair =
        json(json!({"type": "array", "items": [{"type": "null"}], "additionalItems": false}));
    check(&pair, &["[]", "[null]"], &["[1]", "[null, null]"]);
    let object =
        json(json!({"type": "object", "required": ["a", "c"], "additionalProperties": false,
        "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": true}}));
    let yes = [r#"{"a": null, "c": 1}"#, r#"{"a": null, "b": null, "c": []}"#];
    check(
        &object,
        &yes,
        &[r#"{"a": null}"#, r#"{"c": 1, "a": null}"#, r#"{"a":null,"c":1,"d":1}"#],
    );
    let some = json(
        json!({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1}),
    );
    check(&some, &[r#"{"x": null}"#], &["{}", r#"{"x": 1}"#]);
    let named = json(json!({"type": "object", "propertyNames": {"enum": ["x", "y"]},
        "additionalProperties": {"type": "integer"}}));
    check(&named, &["{}", r#"{"x": 1, "y": 2}"#], &[r#"{"z": 1}"#, r#"{"x": "1"}"#]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let closed = StructuredOutput::Json { schema, compact: false, closed: true };
    check(&closed, &["{}", r#"{"a": 1}"#], &[r#"{"b": 1}"#]);
    let both = json!({"allOf": [
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
    ], "type": "object"});
    let both = StructuredOutput::Json { schema: both, compact: false, closed: true };
    check(&both, &[r#"{"a": 1, "b": 2}"#], &[r#"{"a": 1}"#]);
}

#[test]
fn combinations_and_references() {
    let all = json(json!({"allOf": [
        {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        {"properties": {"a": {"const": 1}}, "required": ["a"]}]}));
    check(&all, &[r#"{"b": 2, "a": 1}"#], &[r#"{"b": 2}"#, r#"{"b": "x", "a": 1}"#]);
    let either = json(json!({"oneOf": [{"type": "string"}, {"type": "null"}]}));
    check(&either, &["null", "\"a\""], &["1"]);
    let list = json(json!({"$defs": {"a/b": {"type": "object", "additionalProperties": false,
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}]}},
        "required": ["next"]}}, "$ref": "#/%24defs/a~1b"}));
    check(&list, &[r#"{"next": {"next": null}}"#], &["{}", r#"{"next": 1}"#]);
    let anchored = json(json!({"$id": "https://x.test/s", "properties": {"a": {"$ref": "#here"}},
        "$defs": {"x": {"$anchor": "here", "type": "null"}}, "type": "object"}));
    check(&anchored, &[r#"{"a": null}"#], &[r#"{"a": 1}"#]);
}

#[test]
fn what_is_not_enforced_is_refused_by_its_pointer() {
    let check = |schema: Value, pointer: &str| {
        let error = crate::check(&json(schema.clone())).expect_err(&schema.to_string());
        assert_eq!(error.place, Place::Pointer(pointer.to_owned()), "{schema}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    };
    for (keyword, value) in [
        ("not", json!({"type": "null"})),
        ("if", json!(true)),
        ("contains", json!({})),
        ("uniqueItems", json!(true)),
        ("dependentRequired", json!({"a": ["b"]})),
        ("dependentSchemas", json!({"a": {"required": ["b"]}})),
        ("dependencies", json!({"a": ["b"]})),
        ("propertyNames", json!({"minLength": 3})),
        ("contentMediaType", json!("application/json")),
        ("contentSchema", json!({})),
        ("contentEncoding", json!("7bit")),
        ("$dynamicRef", json!("#a")),
        ("format", json!("iri")),
        ("pattern", json!("a(?=b)")),
        ("pattern", json!("(a")),
        ("minLength", json!(-1)),
        ("minItems", json!(1.5)),
        ("minProperties", json!(2)),
        ("type", json!("text")),
        ("enum", json!([])),
        ("minlength", json!(1)),
        ("multipleOf", json!(0)),
        ("multipleOf", json!(0.123456789)),
        ("minimum", json!(1e300)),
        ("minimum", json!(9_007_199_254_740_993u64)),
        ("const", json!("\u{0}")),
        ("const", json!(9_007_199_254_740_993u64)),
        ("$ref", json!("#/$defs/none")),
        ("$ref", json!("other.json")),
        ("$schema", json!("https://x.test/dialect")),
        ("oneOf", json!([{"type": "integer"}, {"type": "number"}])),
        ("items", json!(1)),
        ("required", json!("a")),
    ] {
        let mut inner = json!({ keyword: value });
        if keyword == "if" {
            inner["then"] = json!(true);
        }
        check(json!({"properties": {"a~": inner}}), &format!("/properties/a~0/{keyword}"));
    }
    check(json!({"enum": [{"a": ["\u{1}"]}]}), "/enum/0/a/0");
    check(json!({"anyOf": [{}, {"allOf": [{"not": {}}]}]}), "/anyOf/1/allOf/0/not");
    check(json!({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}), "/$defs/a/not");
    let short = json!({"type": "number", "exclusiveMinimum": 0});
    check(json!({"allOf": [short, {"maximum": 0.5}]}), "/allOf/0/exclusiveMinimum");
    let unevaluated = json!({"allOf": [{}], "unevaluatedProperties": false});
    check(unevaluated, "/unevaluatedProperties");
    check(json!({"patternProperties": {"a": {}, "b": {}}}), "/patternProperties");
    check(json!({"patternProperties": {"[0-9]": {}, "\\d": {}}}), "/patternProperties");
    let few = json!({"properties": {"a": {}}, "maxProperties": 1});
    check(few, "/maxProperties");
    check(json!({"$defs": {"a": {"$id": "x", "$ref": "#"}}, "$ref": "#/$defs/a"}), "/$defs/a/$ref");
}

#[test]
fn what_says_nothing_is_taken() {
    let schema = json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://x.test/s",
        "title": "T", "description": "d", "default": 1, "examples": [1], "deprecated": true,
        "readOnly": true, "writeOnly": true, "$comment": "c", "x-guidance": {"lenient": true},
        "discriminator": {"propertyName": "a"}, "unknown": {"not": {}}, "then": {"not": {}},
        "minContains": 2, "uniqueItems": false, "not": false, "type": "integer", "contains": {},
        "format": "double"});
    check(&json(schema), &["1"], &["\"a\"", "null"]);
}

#[test]
fn what_no_text_fits_is_refused() {
    for schema in [
        json!(false),
        json!({"type": "integer", "minimum": 2, "maximum": 1}),
        json!({"type": "string", "pattern": "^a$", "minLength": 2}),
        json!({"allOf": [{"type": "string"}, {"type": "null"}]}),
        json!({"$ref": "#"}),
        json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}),
        json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
    ] {
        let error = crate::check(&json(schema.clone())).unwrap_err();
        assert_eq!(error.place, Place::Pointer(String::new()), "{schema}: {error}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let deep = |levels: usize| (0..levels).fold(json!({}), |schema, _| json!({"items": schema}));
    crate::check(&json(deep(63))).unwrap();
    let error = crate::check(&json(deep(64))).unwrap_err();
    assert!(error.cause.contains("64 levels"), "{error}");
    let wide: Vec<Value> = (0..20_000).map(|i| json!({"const": i})).collect();
    let error = crate::check(&json(json!({"anyOf": wide}))).unwrap_err();
    assert!(error.cause.contains("10000 schemas"), "{error}");
    let long = "a".repeat(600 << 10);
    let error = crate::check(&json(json!({"const": long}))).unwrap_err();
    assert!(error.cause.contains("bytes"), "{error}");
    // One reference leads into the next, which is deep on the stack.
    let chain = |links: usize| {
        let link = |i: usize| json!({"items": {"$ref": format!("#/$defs/d{}", (i + 1) % links)}});
        let links: serde_json::Map<_, _> = (0..links).map(|i| (format!("d{i}"), link(i))).collect();
        json(json!({"$ref": "#/$defs/d0", "$defs": links}))
    };
    crate::check(&chain(2000)).unwrap();
    let error = crate::check(&chain(4000)).unwrap_err();
    assert!(error.cause.contains("levels"), "{error}");
}

/// As `model_json_schema()` of pydantic writes it, for a model with most kinds of fields.
fn model() -> Value {
    json!({
        "$defs": {
            "Address": {"properties": {
                "street": {"maxLength": 80, "minLength": 1, "title": "Street", "type": "string"},
                "zip": {"pattern": "^\\d{5}$", "title": "Zip", "type": "string"}},
                "required": ["street", "zip"], "title": "Address", "type": "object"},
            "Cat": {"properties": {
                "kind": {"const": "cat", "title": "Kind", "type": "string"},
                "lives": {"default": 9, "title": "Lives", "type": "integer"}},
                "required": ["kind"], "title": "Cat", "type": "object"},
            "Dog": {"properties": {
                "kind": {"const": "dog", "title": "Kind", "type": "string"},
                "good": {"title": "Good", "type": "boolean"}},
                "required": ["kind", "good"], "title": "Dog", "type": "object"},
            "Color": {"enum": ["red", "green"], "title": "Color", "type": "string"},
            "Tree": {"properties": {
                "value": {"title": "Value", "type": "integer"},
                "children": {"default": [], "items": {"$ref": "#/$defs/Tree"},
                    "title": "Children", "type": "array"}},
                "required": ["value"], "title": "Tree", "type": "object"}},
        "additionalProperties": false,
        "properties": {
            "age": {"maximum": 150, "minimum": 0, "title": "Age", "type": "integer"},
            "score": {"exclusiveMaximum": 1.5, "exclusiveMinimum": 0, "title": "Score", "type": "number"},
            "color": {"$ref": "#/$defs/Color", "description": "of the hair"},
            "nick": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": null, "title": "Nick"},
            "pet": {"discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"},
                "propertyName": "kind"}, "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                "title": "Pet"},
            "homes": {"items": {"$ref": "#/$defs/Address"}, "maxItems": 3, "minItems": 1,
                "title": "Homes", "type": "array"},
            "at": {"format": "date-time", "title": "At", "type": "string"},
            "id": {"format": "uuid", "title": "Id", "type": "string"},
            "secret": {"format": "password", "title": "Secret", "type": "string", "writeOnly": true},
            "counts": {"additionalProperties": {"type": "integer"},
                "propertyNames": {"enum": ["a", "b"]}, "title": "Counts", "type": "object"},
            "pair": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "integer"},
                {"type": "string"}], "title": "Pair", "type": "array"},
            "url": {"format": "uri", "maxLength": 2083, "minLength": 1, "title": "Url", "type": "string"},
            "tree": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}},
        "required": ["age", "score", "color", "pet", "homes", "at", "id", "secret", "counts", "pair",
            "url", "tree"],
        "title": "Person", "type": "object"})
}

#[test]
fn a_model_of_pydantic() {
    let value = json!({
        "age": 42, "score": 0.25, "color": "red", "pet": {"kind": "dog", "good": true},
        "homes": [{"street": "Main Street 1", "zip": "12345"}],
        "at": "2024-02-29T12:30:00Z", "id": "123e4567-e89b-12d3-a456-426614174000",
        "secret": "x", "counts": {"a": 1}, "pair": [1, "b"], "url": "https://x.test/a?b#c",
        "tree": {"value": 1, "children": [{"value": 2}]}});
    let output = json(model());
    assert!(possible(&output, &value.to_string()));
    assert!(possible(&output, &serde_json::to_string_pretty(&value).unwrap()));
    for (pointer, wrong) in [
        ("/age", json!(151)),
        ("/score", json!(0)),
        ("/color", json!("blue")),
        ("/pet/kind", json!("cow")),
        ("/pet/good", json!(null)),
        ("/homes", json!([])),
        ("/homes/0/zip", json!("1234")),
        ("/at", json!("2023-02-29T12:30:00Z")),
        ("/id", json!("123")),
        ("/counts/a", json!("1")),
        ("/pair", json!([1])),
        ("/url", json!("no url")),
        ("/tree/children/0/value", json!(1.5)),
    ] {
        let mut value = value.clone();
        *value.pointer_mut(pointer).unwrap() = wrong;
        assert!(!possible(&output, &value.to_string()), "{pointer}");
    }
}
