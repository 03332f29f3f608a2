//! A wish → the grammar that llguidance compiles.

use serde_json::json;
use tyndall_types::{Format, StructuredOutput, Tag};

use crate::error::{Place, StructuredOutputError};
use crate::lark::{self, Writer};
use crate::schema::{self, Layout};
use crate::{limits, regex, tags};

type Result<T> = std::result::Result<T, StructuredOutputError>;

/// The grammar of a wish, in Lark's syntax.
pub(crate) fn lark(output: &StructuredOutput) -> Result<String> {
    let text = text_bytes(output);
    if text > limits::TEXT_BYTES {
        let cause = format!("it has {text} bytes, which is more than {}", limits::TEXT_BYTES);
        return Err(StructuredOutputError::whole(cause, "use a shorter one"));
    }
    let mut writer = Writer::default();
    match output {
        StructuredOutput::Json { schema, compact, closed } => {
            if schema::nesting(schema, limits::NESTING).is_none() {
                let cause = format!("the schema has more than {} levels", limits::NESTING);
                return Err(StructuredOutputError::whole(cause, "use $ref for its inner parts"));
            }
            let start = writer.json(schema, Layout { compact: *compact, closed: *closed })?;
            Ok(writer.finish(&start))
        }
        StructuredOutput::JsonObject => {
            let layout = Layout { compact: false, closed: false };
            let start = writer.json(&json!({ "type": "object" }), layout)?;
            Ok(writer.finish(&start))
        }
        StructuredOutput::Regex(pattern) => {
            let pattern = regex::whole(pattern)?;
            let start = writer.terminal(&tags::regex_terminal(&pattern));
            Ok(writer.finish(&start))
        }
        StructuredOutput::Choice(choices) => {
            if choices.is_empty() || choices.len() > limits::CHOICES {
                let cause = format!("there are {} strings to choose from", choices.len());
                let cure = format!("give 1 to {}", limits::CHOICES);
                return Err(StructuredOutputError::whole(cause, cure));
            }
            let start = writer.terminal(&lark::texts(choices));
            Ok(writer.finish(&start))
        }
        StructuredOutput::Grammar(grammar) => tags::client_grammar(grammar),
        StructuredOutput::StructuralTag { structures, triggers } => {
            let tag = |structure: &tyndall_types::Structure| Tag {
                begin: structure.begin.clone(),
                content: Box::new(Format::JsonSchema(structure.schema.clone())),
                end: vec![structure.end.clone()],
            };
            tags::to_lark(&Format::TriggeredTags {
                triggers: triggers.clone(),
                tags: structures.iter().map(tag).collect(),
                at_least_one: false,
                stop_after_first: false,
                excludes: Vec::new(),
            })
            .map_err(in_structures)
        }
        StructuredOutput::Format(format) => tags::to_lark(format).map_err(|e| e.below("/format")),
    }
}

/// The error of a format, in the words of the older form.
fn in_structures(mut error: StructuredOutputError) -> StructuredOutputError {
    if let Place::Pointer(pointer) = &mut error.place {
        *pointer = pointer.replacen("/tags/", "/structures/", 1);
        *pointer = pointer.replacen("/content/json_schema", "/schema", 1);
    }
    error
}

/// How much text a wish has, at most; the value is only compared.
fn text_bytes(output: &StructuredOutput) -> usize {
    match output {
        StructuredOutput::JsonObject => 0,
        StructuredOutput::Regex(text) | StructuredOutput::Grammar(text) => text.len(),
        StructuredOutput::Choice(choices) => choices.iter().map(String::len).sum(),
        other => json!(other).to_string().len(),
    }
}
