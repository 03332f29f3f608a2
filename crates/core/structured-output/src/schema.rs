//! A client's JSON schema → one whose every keyword the compiler enforces.
//!
//! llguidance takes most of JSON Schema, ignores some of it silently and reads some of it in its
//! own way. So a schema is walked and written anew, of parts that are known to be enforced as
//! draft 2020-12 has them:
//!
//! - A keyword that cannot be enforced is an error with its pointer. Keywords that no vocabulary
//!   has say nothing, as the standard wants it, unless they differ from one only in case.
//! - Each `$ref`'s target stands below `$defs` under a number; patterns and formats are expressions
//!   of our own; `oneOf` is `anyOf` once its alternatives cannot hold together.
//! - Where not all of the allowed texts can be written down, fewer are possible, never more:
//!   properties come in the schema's order, and those that it does not name last; strings hold
//!   characters as they are and escape only where JSON demands it; control characters without a
//!   short escape do not occur; whole numbers have no fraction and no exponent, nor have numbers
//!   with bounds; bounds beyond 2^53 are taken as that; formats are enforced.

mod array;
mod exclusive;
mod finite;
mod formats;
mod keyword;
mod number;
mod object;
mod reference;
mod string;

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use crate::error::StructuredOutputError;
use crate::limits;
use keyword::Kind;
use reference::References;
pub(crate) use reference::below;

type Result<T> = std::result::Result<T, StructuredOutputError>;

/// How JSON is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    /// No white space.
    pub(crate) compact: bool,
    /// Objects have no properties but those that the schema names, where it says nothing of others.
    /// A schema that is put together from several stays open: each part would shut out the others'.
    pub(crate) closed: bool,
}

/// A run of blanks within a line, or one line break with the next line's indentation. A model can
/// write JSON in every usual layout, and cannot go on with white space for ever.
const WHITE_SPACE: &str = r"[\x20\x09]{1,8}|\x0D?\x0A[\x20\x09]{0,64}";
/// All escapes of a string that have one letter. With `\u` there would be two ways to write a
/// property's name, and a second way around what its schema says.
const ESCAPES: &str = r#"nrbtf\""#;

/// The schema that is compiled in place of the client's.
pub(crate) fn lower(schema: &Value, layout: Layout) -> Result<Value> {
    if nesting(schema, limits::NESTING + limits::TAG_NESTING).is_none() {
        let cause = format!("the schema has more than {} levels", limits::NESTING);
        return Err(error("", cause, "use $ref for its inner parts"));
    }
    let mut lowering = Lowering {
        references: References::new(schema),
        closed: layout.closed && !is_composed(schema),
        numbers: HashMap::new(),
        queue: VecDeque::new(),
        schemas: 0,
        levels: 0,
        deepest: 0,
        bounds: number::Bounds::default(),
    };
    lowering.target(String::new(), schema);
    let mut definitions = Map::new();
    while let Some((pointer, schema)) = lowering.queue.pop_front() {
        lowering.deepest = 0;
        let lowered = lowering.schema(schema, &pointer, 0)?;
        lowering.levels += lowering.deepest;
        if lowering.levels > limits::REFERENCE_LEVELS {
            let cause = "the schema's parts are too many levels deep together";
            return Err(error(&pointer, cause, "use a smaller schema"));
        }
        definitions.insert(definitions.len().to_string(), lowered);
    }
    lowering.bounds.check()?;
    finite::check(&definitions)?;
    let options = json!({
        "whitespace_flexible": !layout.compact,
        "whitespace_pattern": (!layout.compact).then_some(WHITE_SPACE),
        "json_allowed_escapes": ESCAPES,
    });
    Ok(json!({ "$ref": "#/$defs/0", "$defs": definitions, "x-guidance": options }))
}

/// Whether several schemas must hold for one value anywhere in it. It may find some in what only
/// looks like a schema, such as an example.
fn is_composed(schema: &Value) -> bool {
    match schema {
        Value::Array(items) => items.iter().any(is_composed),
        Value::Object(map) => {
            let has_several =
                map.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
            let combines =
                ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|key| map.contains_key(*key));
            let names =
                ["properties", "patternProperties"].iter().any(|key| map.contains_key(*key));
            has_several || (combines && names) || map.values().any(is_composed)
        }
        _ => false,
    }
}

/// Levels of objects and arrays, if there are at most `limit`.
pub(crate) fn nesting(value: &Value, limit: usize) -> Option<usize> {
    let values: Vec<&Value> = match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return Some(0),
    };
    let inner = limit.checked_sub(1)?;
    let mut deepest = 0;
    for value in values {
        deepest = deepest.max(nesting(value, inner)?);
    }
    Some(deepest + 1)
}

fn error(at: &str, cause: impl Into<String>, cure: impl Into<String>) -> StructuredOutputError {
    StructuredOutputError::keyword(at, cause, cure)
}

struct Lowering<'a> {
    references: References<'a>,
    closed: bool,
    /// Pointer of a `$ref`'s target → its number.
    numbers: HashMap<String, usize>,
    /// Targets that are not yet lowered, in the order of their numbers.
    queue: VecDeque<(String, &'a Value)>,
    schemas: usize,
    /// Levels of all targets so far, and the deepest of the current one.
    levels: usize,
    deepest: usize,
    bounds: number::Bounds,
}

/// One schema on its way.
struct Node<'a> {
    source: &'a Map<String, Value>,
    at: String,
    level: usize,
    kinds: Vec<Kind>,
    /// Keywords that hold beside each other.
    plain: Map<String, Value>,
    /// Schemas that must hold too.
    also: Vec<Value>,
    /// The first of `also` came before the properties, whose order it has then.
    also_first: bool,
}

impl<'a> Node<'a> {
    fn pointer(&self, key: &str) -> String {
        below(&self.at, key)
    }

    fn may_be(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.source.get(key)
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.plain.insert(key.to_owned(), value.into());
    }
}

impl<'a> Lowering<'a> {
    /// A reference to the schema at `pointer`, which is lowered once.
    fn target(&mut self, pointer: String, schema: &'a Value) -> Value {
        let next = self.numbers.len();
        let number = *self.numbers.entry(pointer.clone()).or_insert(next);
        if number == next {
            self.queue.push_back((pointer, schema));
        }
        json!({ "$ref": format!("#/$defs/{number}") })
    }

    fn schema(&mut self, schema: &'a Value, at: &str, level: usize) -> Result<Value> {
        self.schemas += 1;
        self.deepest = self.deepest.max(level + 1);
        if self.schemas > limits::SCHEMAS {
            let cause = format!("there are more than {} schemas in this one", limits::SCHEMAS);
            return Err(error(at, cause, "use a smaller schema"));
        }
        let source = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err(error(at, "this is no schema", "use an object, true or false")),
        };
        let kinds = keyword::kinds(source.get("type"), at)?;
        let mut node = Node {
            source,
            at: at.to_owned(),
            level,
            kinds,
            plain: Map::new(),
            also: Vec::new(),
            also_first: false,
        };
        for (key, value) in source {
            self.keyword(&mut node, key, value)?;
        }
        Ok(finished(node))
    }

    fn keyword(&mut self, node: &mut Node<'a>, key: &str, value: &'a Value) -> Result<()> {
        match key {
            "type" => {
                if let Some(types) = node.value("type") {
                    node.set("type", types.clone());
                }
                Ok(())
            }
            "const" | "enum" => string::literals(node, key, value),
            "allOf" | "anyOf" | "oneOf" | "$ref" => self.applicator(node, key, value),
            "multipleOf" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                number::keyword(&mut self.bounds, node, key, value)
            }
            "minLength" | "maxLength" => string::length(node, key, value),
            "pattern" | "format" | "contentEncoding" => {
                string::expression(&mut self.bounds, node, key, value)
            }
            "items" | "prefixItems" | "additionalItems" | "unevaluatedItems" | "minItems"
            | "maxItems" | "uniqueItems" => self.array(node, key, value),
            "properties"
            | "patternProperties"
            | "additionalProperties"
            | "required"
            | "minProperties"
            | "maxProperties"
            | "propertyNames"
            | "unevaluatedProperties"
            | "dependentRequired"
            | "dependentSchemas"
            | "dependencies" => self.object(node, key, value),
            "$schema" => keyword::dialect(value, &node.pointer(key)),
            _ => keyword::refuse(node, key, value),
        }
    }

    fn applicator(&mut self, node: &mut Node<'a>, key: &str, value: &'a Value) -> Result<()> {
        let at = node.pointer(key);
        if node.also.is_empty() && !node.plain.contains_key("properties") {
            node.also_first = true;
        }
        if key == "$ref" {
            let Some(reference) = value.as_str() else {
                return Err(error(&at, "this is no string", "name a schema as in #/$defs/name"));
            };
            let (pointer, target) = self.references.resolve(reference, &at)?;
            let target = self.target(pointer, target);
            node.also.push(target);
            return Ok(());
        }
        let Some(parts) = value.as_array().filter(|parts| !parts.is_empty()) else {
            return Err(error(&at, "this is no list of schemas", "give at least one"));
        };
        if key == "oneOf" {
            exclusive::check(&self.references, parts, &at)?;
        }
        let mut lowered = Vec::with_capacity(parts.len());
        for (i, part) in parts.iter().enumerate() {
            lowered.push(self.schema(part, &format!("{at}/{i}"), node.level + 1)?);
        }
        match key {
            "allOf" => node.also.extend(lowered),
            _ => node.also.push(json!({ "anyOf": lowered })),
        }
        Ok(())
    }

    /// Schemas of a map, each below its own name.
    fn schemas(
        &mut self,
        node: &Node<'a>,
        key: &str,
        value: &'a Value,
    ) -> Result<Map<String, Value>> {
        let at = node.pointer(key);
        let Some(map) = value.as_object() else {
            return Err(error(&at, "this is no map of schemas", "use an object"));
        };
        let mut lowered = Map::new();
        for (name, schema) in map {
            lowered.insert(name.clone(), self.schema(schema, &below(&at, name), node.level + 1)?);
        }
        Ok(lowered)
    }
}

fn finished(node: Node) -> Value {
    let Node { mut plain, mut also, also_first, .. } = node;
    // Fewer intersections are fewer things to go wrong.
    if plain.is_empty()
        && also.len() == 1
        && let Some(only) = also.pop()
    {
        return only;
    }
    if also.is_empty() {
        return Value::Object(plain);
    }
    if !also_first {
        plain.insert("allOf".to_owned(), also.into());
        return Value::Object(plain);
    }
    let mut whole = Map::new();
    whole.insert("allOf".to_owned(), also.into());
    whole.extend(plain);
    Value::Object(whole)
}

/// A count such as `minItems`.
fn count(at: &str, value: &Value) -> Result<u64> {
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..=1e15).contains(number);
    // A draft allows 2.0 for 2.
    let number = value.as_u64().or_else(|| value.as_f64().filter(whole).map(|n| n as u64));
    number.ok_or_else(|| error(at, "this is no count", "use a whole number from 0"))
}

/// A lower count, which must be kept as it is.
fn lower_count(at: &str, value: &Value) -> Result<u64> {
    let number = count(at, value)?;
    if number > limits::COUNT {
        let cause = format!("{number} is above the largest count, {}", limits::COUNT);
        return Err(error(at, cause, "use a smaller one"));
    }
    Ok(number)
}

/// An upper count, which may be taken lower.
fn upper_count(at: &str, value: &Value) -> Result<u64> {
    Ok(count(at, value)?.min(limits::COUNT))
}
