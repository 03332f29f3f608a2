//! What text a request allows: `response_format`, `structured_outputs`, and the `guided_…` fields
//! that came before it.

use crate::ApiError;
use crate::fields::{Fields, Numbers, shown};
use serde_json::{Map, Value};
use tyndall_types::StructuredOutput;

/// The kinds of `structured_outputs`.
pub(crate) const KINDS: [&str; 6] =
    ["json", "regex", "choice", "grammar", "json_object", "structural_tag"];

/// vLLM's older fields, each with the kind that it is now.
pub(crate) const GUIDED: [(&str, &str); 4] = [
    ("guided_json", "json"),
    ("guided_regex", "regex"),
    ("guided_choice", "choice"),
    ("guided_grammar", "grammar"),
];

/// How JSON is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Without white space.
    pub(crate) compact: bool,
    /// Without properties that the schema does not name.
    pub(crate) closed: bool,
}

impl Default for Style {
    /// Closed, as in vLLM, whose default backend writes no property that the schema does not name:
    /// a model that may add some seldom finds an end.
    fn default() -> Self {
        Self { compact: false, closed: true }
    }
}

/// Reads what the request allows; none is any text.
pub(crate) fn read(fields: &Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    let mut found: Vec<(&str, StructuredOutput)> = Vec::new();
    if let Some(output) = response_format(fields)? {
        found.push(("response_format", output));
    }
    if let Some(object) = fields.object("structured_outputs")? {
        found.push(("structured_outputs", structured_outputs(object)?));
    }
    for (name, kind) in GUIDED {
        if let Some(value) = fields.get(name) {
            found.push((name, of_kind(name, kind, value, Style::default())?));
        }
    }
    if fields.get("guided_whitespace_pattern").is_some() {
        return Err(ApiError::unsupported("guided_whitespace_pattern"));
    }
    match found.len() {
        0 | 1 => Ok(found.pop().map(|(_, output)| output)),
        _ => {
            let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
            Err(ApiError::invalid(
                names[1],
                format!("{} exclude each other; send one of them", names.join(" and ")),
            ))
        }
    }
}

/// Reads a `response_format` object, or the `text.format` of `/v1/responses`.
fn response_format(fields: &Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    let Some(object) = fields.object("response_format")? else { return Ok(None) };
    let kind = object.get("type").and_then(Value::as_str);
    match kind {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(StructuredOutput::JsonObject)),
        Some("json_schema") => {
            let path = "response_format.json_schema";
            let schema = match object.get("json_schema") {
                Some(Value::Object(outer)) => outer.get("schema").cloned().unwrap_or_else(|| {
                    // Ray's documents show the schema itself in this place.
                    Value::Object(outer.clone())
                }),
                other => {
                    let value = shown(other.unwrap_or(&Value::Null));
                    return Err(ApiError::malformed(
                        path,
                        format!("{path} must be {{\"name\": …, \"schema\": …}}, got {value}"),
                    ));
                }
            };
            Ok(Some(json_schema(path, &schema, Style::default())?))
        }
        Some("structural_tag") => {
            let value = Value::Object(object.clone());
            Ok(Some(structural_tag("response_format", &value)?))
        }
        _ => Err(ApiError::malformed(
            "response_format.type",
            format!(
                "response_format.type must be text, json_object, json_schema or structural_tag, \
                 got {}",
                shown(object.get("type").unwrap_or(&Value::Null))
            ),
        )),
    }
}

fn structured_outputs(object: &Map<String, Value>) -> Result<StructuredOutput, ApiError> {
    let nested = Fields::nested(object, "structured_outputs.", Numbers::Strict);
    let style = Style {
        compact: nested.bool("disable_any_whitespace")?.unwrap_or_default(),
        closed: nested.bool("disable_additional_properties")?.unwrap_or(Style::default().closed),
    };
    if nested.get("whitespace_pattern").is_some() {
        return Err(ApiError::unsupported(&nested.path("whitespace_pattern")));
    }
    let mut kinds = KINDS.iter().filter_map(|kind| Some((*kind, nested.get(kind)?)));
    match (kinds.next(), kinds.next()) {
        (Some((kind, value)), None) => of_kind(&nested.path(kind), kind, value, style),
        (None, _) => Err(ApiError::malformed(
            "structured_outputs",
            format!("structured_outputs needs one of {}", KINDS.join(", ")),
        )),
        (Some((first, _)), Some((second, _))) => Err(ApiError::invalid(
            "structured_outputs",
            format!("structured_outputs takes one kind, got {first} and {second}"),
        )),
    }
}

fn of_kind(
    path: &str,
    kind: &str,
    value: &Value,
    style: Style,
) -> Result<StructuredOutput, ApiError> {
    let wrong = |expected: &str| {
        Err(ApiError::malformed(path, format!("{path} must be {expected}, got {}", shown(value))))
    };
    match (kind, value) {
        ("json", schema) => json_schema(path, schema, style),
        ("json_object", Value::Bool(true)) => Ok(StructuredOutput::JsonObject),
        ("json_object", _) => wrong("true"),
        ("regex", Value::String(text)) if !text.is_empty() => {
            Ok(StructuredOutput::Regex(text.clone()))
        }
        ("regex", _) => wrong("a regular expression"),
        ("grammar", Value::String(text)) if !text.is_empty() => {
            Ok(StructuredOutput::Grammar(text.clone()))
        }
        ("grammar", _) => wrong("a grammar, in Lark's syntax or EBNF"),
        ("choice", Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            match texts.collect::<Option<Vec<_>>>().filter(|texts| !texts.is_empty()) {
                Some(texts) => Ok(StructuredOutput::Choice(texts)),
                None => wrong("a list of at least one string"),
            }
        }
        ("choice", _) => wrong("a list of at least one string"),
        ("structural_tag", Value::Object(_)) => structural_tag(path, value),
        ("structural_tag", Value::String(text)) => match serde_json::from_str(text) {
            Ok(value @ Value::Object(_)) => structural_tag(path, &value),
            _ => wrong("an object, or its JSON text"),
        },
        _ => wrong("an object, or its JSON text"),
    }
}

/// A schema, or the JSON text of one.
pub(crate) fn json_schema(
    path: &str,
    schema: &Value,
    style: Style,
) -> Result<StructuredOutput, ApiError> {
    let parsed = match schema {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    };
    match parsed {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            let Style { compact, closed } = style;
            Ok(StructuredOutput::Json { schema, compact, closed })
        }
        _ => Err(ApiError::malformed(
            path,
            format!("{path} must be a JSON schema, an object, got {}", shown(schema)),
        )),
    }
}

fn structural_tag(path: &str, value: &Value) -> Result<StructuredOutput, ApiError> {
    tyndall_structured_output::structural_tag(value)
        .map_err(|error| ApiError::malformed(path, format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::object;
    use serde_json::json;

    fn of(body: &Value) -> Result<Option<StructuredOutput>, ApiError> {
        let object = object(body.to_string().as_bytes())?;
        read(&Fields::new(&object, Numbers::Strict))
    }

    #[test]
    fn every_form_has_its_meaning() {
        let schema = json!({"type": "object"});
        let json = StructuredOutput::Json { schema: schema.clone(), compact: false, closed: true };
        let check = |body: Value, expected: Option<StructuredOutput>| {
            assert_eq!(of(&body).unwrap(), expected, "{body}");
        };
        check(json!({}), None);
        check(json!({"response_format": {"type": "text"}, "guided_json": null}), None);
        check(
            json!({"response_format": {"type": "json_object"}}),
            Some(StructuredOutput::JsonObject),
        );
        for outer in [json!({"name": "n", "schema": schema, "strict": true}), schema.clone()] {
            let body = json!({"response_format": {"type": "json_schema", "json_schema": outer}});
            check(body, Some(json.clone()));
        }
        check(json!({"guided_json": schema.to_string()}), Some(json.clone()));
        check(json!({"structured_outputs": {"json": schema}}), Some(json));
        check(
            json!({"structured_outputs": {"json": schema, "disable_any_whitespace": true}}),
            Some(StructuredOutput::Json { schema: schema.clone(), compact: true, closed: true }),
        );
        check(
            json!({"structured_outputs": {"json": schema, "disable_additional_properties": false}}),
            Some(StructuredOutput::Json { schema, compact: false, closed: false }),
        );
        check(json!({"guided_regex": "a+"}), Some(StructuredOutput::Regex("a+".to_owned())));
        check(
            json!({"structured_outputs": {"choice": ["a"]}}),
            Some(StructuredOutput::Choice(vec!["a".to_owned()])),
        );
        let tag = json!({"structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f"]});
        let mut format = tag.clone();
        format["type"] = "structural_tag".into();
        let by_format = of(&json!({"response_format": format})).unwrap();
        assert!(matches!(by_format, Some(StructuredOutput::StructuralTag { .. })));
        check(json!({"structured_outputs": {"structural_tag": tag}}), by_format);
    }

    #[test]
    fn wrong_forms_are_named() {
        let check = |body: Value, part: &str| {
            let error = of(&body).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(json!({"response_format": {}}), "response_format.type must be text, json_object");
        check(json!({"response_format": "json"}), "response_format must be an object");
        check(json!({"response_format": {"type": "json_schema"}}), "json_schema must be {\"name\"");
        check(json!({"structured_outputs": {}}), "needs one of json, regex");
        check(json!({"structured_outputs": {"json": {}, "regex": "a"}}), "got json and regex");
        check(json!({"structured_outputs": {"json_object": false}}), "json_object must be true");
        check(json!({"structured_outputs": {"choice": []}}), "at least one string");
        check(json!({"guided_json": "{"}), "guided_json must be a JSON schema");
        check(json!({"guided_json": {}, "guided_regex": "a"}), "exclude each other");
        check(json!({"structured_outputs": {"structural_tag": {}}}), "structural_tag: ");
    }
}
