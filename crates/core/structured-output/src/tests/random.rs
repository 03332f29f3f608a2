use proptest::prelude::*;
use serde_json::{Value, json};
use tyndall_types::StructuredOutput;

use super::{END, compile, json, possible};

/// Writes a text by possible tokens, those that close something as often as all others.
fn walk(output: &StructuredOutput, choices: &mut impl FnMut(usize) -> usize) -> String {
    let mut matcher = compile(output).unwrap();
    let mut text: Vec<u8> = Vec::new();
    for _ in 0..20_000 {
        let mask = matcher.mask().unwrap();
        let is_set = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
        // An exponent may be beyond what a parser takes.
        let is_exponent =
            |id: &u32| matches!(id, 69 | 101) && text.last().is_some_and(u8::is_ascii_digit);
        let mut all: Vec<u32> = (0..=END).filter(is_set).filter(|id| !is_exponent(id)).collect();
        let closing: Vec<u32> = b"\"}],".iter().map(|byte| u32::from(*byte)).chain([END]).collect();
        let closing: Vec<u32> = all.iter().copied().filter(|id| closing.contains(id)).collect();
        if !closing.is_empty() && choices(2) == 0 {
            all = closing;
        }
        let token = all[choices(all.len())];
        matcher.accept(token).unwrap();
        if token == END {
            return String::from_utf8(text).unwrap();
        }
        text.push(token as u8);
    }
    panic!("the text does not end: {}", String::from_utf8_lossy(&text[..200]));
}

/// A judge of its own, for the keywords in the schemas below.
fn fits(schema: &Value, root: &Value, value: &Value) -> bool {
    let Some(map) = schema.as_object() else { return *schema == true };
    map.iter().all(|(key, rule)| match (key.as_str(), value) {
        ("$ref", _) => fits(root.pointer(&rule.as_str().unwrap()[1..]).unwrap(), root, value),
        ("type", _) => match rule.as_str().unwrap() {
            // -0 is whole, and no integer for the parser.
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            _ => value.is_object(),
        },
        ("enum", _) => rule.as_array().unwrap().contains(value),
        ("const", _) => rule == value,
        ("anyOf" | "oneOf", _) => {
            rule.as_array().unwrap().iter().any(|rule| fits(rule, root, value))
        }
        ("minimum", Value::Number(n)) => n.as_f64() >= rule.as_f64(),
        ("exclusiveMaximum", Value::Number(n)) => n.as_f64() < rule.as_f64(),
        ("minLength", Value::String(s)) => s.chars().count() as u64 >= rule.as_u64().unwrap(),
        ("maxLength", Value::String(s)) => s.chars().count() as u64 <= rule.as_u64().unwrap(),
        ("items", Value::Array(items)) => items.iter().all(|item| fits(rule, root, item)),
        ("minItems", Value::Array(items)) => items.len() as u64 >= rule.as_u64().unwrap(),
        ("maxItems", Value::Array(items)) => items.len() as u64 <= rule.as_u64().unwrap(),
        ("required", Value::Object(o)) => {
            rule.as_array().unwrap().iter().all(|name| o.contains_key(name.as_str().unwrap()))
        }
        ("properties", Value::Object(o)) => rule
            .as_object()
            .unwrap()
            .iter()
            .all(|(name, rule)| o.get(name).is_none_or(|value| fits(rule, root, value))),
        ("additionalProperties", Value::Object(o)) => o
            .iter()
            .all(|(name, value)| map["properties"].get(name).is_some() || fits(rule, root, value)),
        _ => true,
    })
}

fn schemas() -> Vec<Value> {
    vec![
        json!(true),
        json!({"type": "object"}),
        json!({"type": "object", "required": ["n", "s"], "additionalProperties": {"type": "null"},
            "properties": {"n": {"type": "integer", "minimum": -7, "exclusiveMaximum": 120},
                "s": {"type": "string", "minLength": 2, "maxLength": 5},
                "e": {"enum": ["a", 1, null, "\"\\"]}}}),
        json!({"$defs": {"tree": {"type": "object", "additionalProperties": false, "properties":
                {"v": {"type": "number", "minimum": 0.5}, "kids": {"type": "array", "maxItems": 2,
                    "items": {"$ref": "#/$defs/tree"}}}, "required": ["v"]}},
            "type": "array", "minItems": 1, "maxItems": 3, "items": {"oneOf": [
                {"$ref": "#/$defs/tree"}, {"const": "x"}, {"type": "boolean"}]}}),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_walk_ends_in_json_that_fits(seed in any::<u64>(), schema in 0usize..4) {
        let schema = schemas().swap_remove(schema);
        let mut state = seed | 1;
        let mut choices = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % bound
        };
        let text = walk(&json(schema.clone()), &mut choices);
        let value: Value = serde_json::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert!(fits(&schema, &schema, &value), "{text}");
    }

    #[test]
    fn bounds_of_numbers_hold(
        bounds in prop::collection::vec((0usize..4, -30i32..30), 1..3),
        tenths in any::<bool>(),
        numbers in prop::collection::vec(-400i32..400, 30),
        integer in any::<bool>(),
    ) {
        let names = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        let mut schema = json!({"type": if integer { "integer" } else { "number" }});
        for (name, bound) in &bounds {
            let bound = f64::from(*bound);
            schema[names[*name]] = if tenths { json!(bound / 10.0) } else { json!(bound as i64) };
        }
        let output = json(schema.clone());
        if crate::check(&output).is_err() {
            return Ok(());
        }
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let texts = numbers.iter().flat_map(|n| {
            let number = f64::from(*n) / 100.0;
            [format!("{number}"), format!("{number:.1}"), format!("{}", n / 10), format!("-{}", n.abs() / 100)]
        });
        for text in texts {
            let number: f64 = text.parse().unwrap();
            let fits = bound("minimum").is_none_or(|b| number >= b)
                && bound("maximum").is_none_or(|b| number <= b)
                && bound("exclusiveMinimum").is_none_or(|b| number > b)
                && bound("exclusiveMaximum").is_none_or(|b| number < b)
                && (!integer || number.fract() == 0.0);
            let plain = integer && !text.contains('.') && text != "-0";
            let written = possible(&output, &text);
            prop_assert!(fits || !written, "{text} under {schema}");
            prop_assert!(!(fits && plain) || written, "{text} is missing under {schema}");
        }
    }
}
