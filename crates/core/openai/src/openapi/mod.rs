//! The OpenAPI document of the routes of models, made of what the parsers read with: their ranges,
//! words and bounds.
//!
//! It cannot go stale unnoticed. The tests send what its schemas allow and what they forbid through
//! the parsers, and both must agree, but for rules that no schema can say; every field that a parser
//! asks for must be in it, and the other way round; whole answers must fit their schemas, which are
//! closed. The proxy's tests compare its paths and methods with those that are served.

mod answers;
mod anthropic;
mod chat;
mod pooling;
mod responses;
mod routes;
mod sampling;
mod schema;
#[cfg(test)]
mod tests;

use routes::{Dialect, Operation, Work};
use schema::{Properties, reference, string, told};
use serde_json::{Map, Value, json};

/// The OpenAPI 3.1 document of the models below `prefix`. With keys it says how they are sent.
#[must_use]
pub fn openapi(prefix: &str, keys: bool) -> Value {
    let is_root = prefix.is_empty() || prefix == "/";
    let mut paths = Map::new();
    for operation in routes::all().iter().filter(|operation| is_root || !operation.is_of_process())
    {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation, keys);
    }
    let schemas: Map<String, Value> =
        schemas().into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tyndall",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Clients of OpenAI's, Anthropic's and vLLM's APIs work as they are. \
                            Fields of a request that are not named are ignored, null is the same \
                            as nothing. Whole numbers may be written with a fraction of zero.",
        },
        "servers": [{"url": if is_root { "/" } else { prefix }}],
        "paths": paths,
        "components": {"schemas": schemas},
    });
    if keys {
        document["components"]["securitySchemes"] = json!({
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        });
        document["security"] = json!([{"bearer": []}, {"x-api-key": []}]);
    }
    document
}

/// Every schema that has a name.
fn schemas() -> Properties {
    let mut schemas = vec![
        ("TextPart", chat::text_part()),
        ("ChatMessage", chat::chat_message()),
        ("ChatTool", chat::chat_tool()),
        ("ChatRequest", chat::chat_request()),
        ("CompletionRequest", chat::completion_request()),
        ("TokenizeRequest", chat::tokenize_request()),
        ("DetokenizeRequest", chat::detokenize_request()),
        ("GenerateRequest", chat::generate_request()),
        ("InputItem", responses::input_item()),
        ("ResponsesTool", responses::tool()),
        ("ResponsesRequest", responses::responses_request()),
        ("AnthropicTextBlock", anthropic::text_block()),
        ("AnthropicMessage", anthropic::message()),
        ("AnthropicTool", anthropic::tool()),
        ("MessagesRequest", anthropic::messages_request()),
        ("CountTokensRequest", anthropic::count_tokens_request()),
        ("EmbeddingsRequest", pooling::embeddings_request()),
        ("ScoreRequest", pooling::score_request()),
        ("RerankRequest", pooling::rerank_request()),
        ("ClassifyRequest", pooling::classify_request()),
    ];
    schemas.extend(answers::all());
    schemas.extend(answers::errors());
    schemas
}

fn described(operation: &Operation, keys: bool) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag()],
    });
    if let Some(parameters) = operation.parameters() {
        described["parameters"] = parameters;
    }
    if let Some(body) = operation.body {
        let content = json!({"application/json": {"schema": reference(body)}});
        described["requestBody"] = json!({"required": true, "content": content});
    }
    if keys && operation.is_open() {
        described["security"] = json!([]);
    }
    let mut responses = Map::new();
    for (status, description, content) in operation.successes() {
        let mut response = response(description, content);
        if let Some(links) = operation.links() {
            response["links"] = links;
        }
        responses.insert(status.to_string(), response);
    }
    for status in operation.failures(keys) {
        let error = operation.dialect.error();
        let mut response = response(reason(status), Some(json_content(reference(error))));
        if let Some((name, header)) = header_of(status) {
            response["headers"][name] = header;
        }
        responses.insert(status.to_string(), response);
    }
    described["responses"] = responses.into();
    described
}

fn json_content(schema: Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

fn response(description: &str, content: Option<Value>) -> Value {
    let id = told(string(), "The client's x-request-id, or a new one.");
    let mut response = json!({
        "description": description,
        "headers": {"x-request-id": {"required": true, "schema": id}},
    });
    if let Some(content) = content {
        response["content"] = content;
    }
    response
}

fn header_of(status: u16) -> Option<(&'static str, Value)> {
    match status {
        401 => Some(("WWW-Authenticate", json!({"required": true, "schema": string()}))),
        429 | 503 => {
            let seconds = json!({"type": "integer", "minimum": 1});
            let header = json!({"schema": seconds, "description": "Seconds until it may succeed."});
            Some(("Retry-After", header))
        }
        _ => None,
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "The request is not accepted; the message names field, value and what is.",
        401 => "A key is missing or not known.",
        403 => "The key may not use the model.",
        404 => "No such model or answer.",
        408 => "The body did not arrive in time.",
        413 => "The body is larger than 32 MiB.",
        429 => "Too many requests; the same one may succeed later.",
        500 => "A fault of the server.",
        502 => "Replicas were lost while they worked on it.",
        503 => "Nothing can take it now; the same request may succeed later.",
        _ => "No answer in time.",
    }
}

impl Dialect {
    /// The schema of errors.
    fn error(self) -> &'static str {
        match self {
            Self::OpenAi => "Error",
            Self::Anthropic => "AnthropicError",
            Self::Generate => "GenerateError",
        }
    }
}

impl Operation {
    /// The statuses of its errors.
    fn failures(&self, keys: bool) -> Vec<u16> {
        let mut failures = match self.work {
            Work::Model { .. } => vec![400, 404, 408, 413, 429, 500, 502, 503, 504],
            Work::Lookup { may_be_absent: true, takes_query: true } => vec![400, 404, 503],
            Work::Lookup { may_be_absent: true, .. } => vec![404, 503],
            Work::Lookup { .. } => vec![503],
            Work::Page { .. } => return Vec::new(),
        };
        if keys {
            let has_model = self.body.is_some() || self.path == "/v1/models/{id}";
            failures.extend([401].into_iter().chain(has_model.then_some(403)));
        }
        failures.sort_unstable();
        failures
    }
}
