//! A structural tag as clients send it → what it asks for.

use serde_json::{Map, Value};
use tyndall_types::{Format, Structure, StructuredOutput, Tag};

use crate::error::StructuredOutputError;
use crate::limits;

type Result<T> = std::result::Result<T, StructuredOutputError>;

/// Reads `{"format": …}` or the older `{"structures": […], "triggers": […]}`; other keys of the
/// object are left to the caller.
///
/// # Errors
/// The pointer of what is missing, of the wrong type, or not supported.
pub fn structural_tag(value: &Value) -> Result<StructuredOutput> {
    if let Some(format) = value.get("format") {
        return Ok(StructuredOutput::Format(read(format, "/format", 0)?));
    }
    let fields = Fields::new(value, "")?;
    let read = |(value, at): (&Value, String)| {
        let fields = Fields::new(value, &at)?;
        fields.only(&["begin", "schema", "end"])?;
        let schema = fields.map.get("schema").cloned().unwrap_or(Value::Bool(true));
        Ok(Structure { begin: fields.text("begin")?, schema, end: fields.text("end")? })
    };
    let structures = fields.items("structures")?.into_iter().map(read).collect::<Result<_>>()?;
    Ok(StructuredOutput::StructuralTag { structures, triggers: fields.texts("triggers")? })
}

fn read(value: &Value, at: &str, level: usize) -> Result<Format> {
    let fields = Fields::new(value, at)?;
    if level >= limits::TAG_NESTING {
        let cause = format!("there are more than {} formats in each other", limits::TAG_NESTING);
        return Err(StructuredOutputError::keyword(at, cause, "use a flatter one"));
    }
    let format = |(value, at): (&Value, String)| read(value, &at, level + 1);
    let tag = |(value, at): (&Value, String)| read_tag(value, &at, level + 1);
    let kind = fields.text("type")?;
    Ok(match kind.as_str() {
        "const_string" => {
            fields.only(&["value"])?;
            Format::ConstString(fields.text("value")?)
        }
        "json_schema" => {
            fields.only(&["json_schema", "style"])?;
            if fields.map.get("style").is_some_and(|style| style != "json") {
                return Err(fields.fault("style", "this style is not supported", "use json"));
            }
            Format::JsonSchema(fields.value("json_schema")?.clone())
        }
        "any_text" => {
            fields.only(&["excludes"])?;
            Format::AnyText { excludes: fields.optional_texts("excludes")? }
        }
        "grammar" => {
            fields.only(&["grammar"])?;
            Format::Grammar(fields.text("grammar")?)
        }
        "regex" => {
            fields.only(&["pattern"])?;
            Format::Regex(fields.text("pattern")?)
        }
        "sequence" | "or" => {
            fields.only(&["elements"])?;
            let elements = fields.items("elements")?.into_iter().map(format);
            let elements = elements.collect::<Result<_>>()?;
            if kind == "or" { Format::Or(elements) } else { Format::Sequence(elements) }
        }
        "tag" => Format::Tag(read_tag(value, at, level)?),
        "triggered_tags" => {
            let known = ["triggers", "tags", "at_least_one", "stop_after_first", "excludes"];
            fields.only(&known)?;
            Format::TriggeredTags {
                triggers: fields.texts("triggers")?,
                tags: fields.items("tags")?.into_iter().map(tag).collect::<Result<_>>()?,
                at_least_one: fields.flag("at_least_one")?,
                stop_after_first: fields.flag("stop_after_first")?,
                excludes: fields.optional_texts("excludes")?,
            }
        }
        "tags_with_separator" => {
            fields.only(&["tags", "separator", "at_least_one", "stop_after_first"])?;
            Format::TagsWithSeparator {
                tags: fields.items("tags")?.into_iter().map(tag).collect::<Result<_>>()?,
                separator: fields.text("separator")?,
                at_least_one: fields.flag("at_least_one")?,
                stop_after_first: fields.flag("stop_after_first")?,
            }
        }
        other => {
            let cause = format!("the format {other:?} is not supported");
            let cure = "use const_string, json_schema, any_text, grammar, regex, sequence, or, \
                        tag, triggered_tags or tags_with_separator";
            return Err(fields.fault("type", cause, cure));
        }
    })
}

fn read_tag(value: &Value, at: &str, level: usize) -> Result<Tag> {
    let fields = Fields::new(value, at)?;
    fields.only(&["begin", "content", "end"])?;
    if fields.map.get("type").is_some_and(|kind| kind != "tag") {
        return Err(fields.fault("type", "a tag is needed here", "use the type tag"));
    }
    let end = match fields.value("end")? {
        Value::String(end) => vec![end.clone()],
        _ => fields.texts("end")?,
    };
    let content = read(fields.value("content")?, &format!("{at}/content"), level + 1)?;
    Ok(Tag { begin: fields.text("begin")?, content: Box::new(content), end })
}

/// The fields of an object in what the client sent.
struct Fields<'v> {
    map: &'v Map<String, Value>,
    at: String,
}

impl<'v> Fields<'v> {
    fn new(value: &'v Value, at: &str) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { map, at: at.to_owned() }),
            _ => Err(StructuredOutputError::keyword(at, "this is no object", "use an object")),
        }
    }

    fn fault(&self, key: &str, cause: impl Into<String>, cure: &str) -> StructuredOutputError {
        StructuredOutputError::keyword(&format!("{}/{key}", self.at), cause, cure)
    }

    /// # Errors
    /// There is a field that would be ignored.
    fn only(&self, known: &[&str]) -> Result<()> {
        match self.map.keys().find(|key| *key != "type" && !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(self.fault(key, "this field is not supported", "remove it")),
        }
    }

    fn value(&self, key: &str) -> Result<&'v Value> {
        self.map.get(key).ok_or_else(|| self.fault(key, "this field is missing", "add it"))
    }

    fn text(&self, key: &str) -> Result<String> {
        let text = self.value(key)?.as_str();
        text.map(str::to_owned).ok_or_else(|| self.fault(key, "this is no string", "use a string"))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.map.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.fault(key, "this is neither true nor false", "use one of them")),
        }
    }

    fn items(&self, key: &str) -> Result<Vec<(&'v Value, String)>> {
        let Some(items) = self.value(key)?.as_array() else {
            return Err(self.fault(key, "this is no list", "use an array"));
        };
        let at = |i: usize| format!("{}/{key}/{i}", self.at);
        Ok(items.iter().enumerate().map(|(i, item)| (item, at(i))).collect())
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let read = |(value, at): (&Value, String)| {
            let fault = || StructuredOutputError::keyword(&at, "this is no string", "use a string");
            value.as_str().map(str::to_owned).ok_or_else(fault)
        };
        self.items(key)?.into_iter().map(read).collect()
    }

    fn optional_texts(&self, key: &str) -> Result<Vec<String>> {
        if self.map.contains_key(key) { self.texts(key) } else { Ok(Vec::new()) }
    }
}
