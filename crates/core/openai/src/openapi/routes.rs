//! The routes.

use super::json_content;
use super::schema::{reference, string, told};
use serde_json::{Value, json};

/// In whose words errors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Anthropic,
    Generate,
}

/// What an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A model.
    Model {
        /// It may answer as an event stream.
        streams: bool,
    },
    /// What the proxy knows.
    Lookup { may_be_absent: bool, takes_query: bool },
    /// Nothing: it tells how the node is.
    Page {
        media_type: Option<&'static str>,
        /// It may answer that it is not ready.
        may_be_503: bool,
        /// It is asked of the process, not of an application.
        of_process: bool,
    },
}

/// A method of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) dialect: Dialect,
    /// The schema of its body.
    pub(super) body: Option<&'static str>,
    /// The schema of its answer; none where that is no JSON.
    answer: Option<&'static str>,
    pub(super) work: Work,
}

const KEPT: Work = Work::Lookup { may_be_absent: true, takes_query: false };

/// A request for a model.
const fn model(
    path: &'static str,
    [id, summary]: [&'static str; 2],
    [body, answer]: [&'static str; 2],
    streams: bool,
) -> Operation {
    Operation {
        method: "post",
        path,
        id,
        summary,
        dialect: Dialect::OpenAi,
        body: Some(body),
        answer: Some(answer),
        work: Work::Model { streams },
    }
}

const fn lookup(
    path: &'static str,
    [id, summary]: [&'static str; 2],
    answer: &'static str,
    work: Work,
) -> Operation {
    let dialect = Dialect::OpenAi;
    Operation { method: "get", path, id, summary, dialect, body: None, answer: Some(answer), work }
}

const fn page(
    path: &'static str,
    [id, summary]: [&'static str; 2],
    answer: Option<&'static str>,
    work: Work,
) -> Operation {
    let dialect = Dialect::OpenAi;
    Operation { method: "get", path, id, summary, dialect, body: None, answer, work }
}

const EMBEDDINGS: [&str; 2] = ["EmbeddingsRequest", "EmbeddingsResponse"];
const SCORE: [&str; 2] = ["ScoreRequest", "ScoreResponse"];
const RERANK: [&str; 2] = ["RerankRequest", "RerankResponse"];
const CLASSIFY: [&str; 2] = ["ClassifyRequest", "ClassifyResponse"];
const RESPONSE: &str = "/v1/responses/{id}";

/// All, in the order in which they are shown.
pub(super) fn all() -> Vec<Operation> {
    let mut all = text();
    all.extend(kept());
    all.extend(numbers());
    all.extend(pages());
    all
}

fn text() -> Vec<Operation> {
    let chat = ["ChatRequest", "ChatResponse"];
    let completion = ["CompletionRequest", "CompletionResponse"];
    let messages = ["MessagesRequest", "MessagesResponse"];
    let count = ["CountTokensRequest", "CountTokensResponse"];
    let anthropic = |operation: Operation| Operation { dialect: Dialect::Anthropic, ..operation };
    let generate = ["GenerateRequest", "GenerateResponse"];
    let generate = model("/generate", ["generate", "Complete prompts."], generate, false);
    vec![
        model("/v1/chat/completions", ["chat", "Answer a conversation."], chat, true),
        model("/v1/completions", ["complete", "Complete prompts."], completion, true),
        anthropic(model("/v1/messages", ["message", "Answer a conversation."], messages, true)),
        anthropic(model(
            "/v1/messages/count_tokens",
            ["count_tokens", "Count the tokens of a conversation."],
            count,
            false,
        )),
        model(
            "/tokenize",
            ["tokenize", "Make tokens of text or of a conversation."],
            ["TokenizeRequest", "TokenizeResponse"],
            false,
        ),
        model(
            "/detokenize",
            ["detokenize", "Make text of tokens."],
            ["DetokenizeRequest", "DetokenizeResponse"],
            false,
        ),
        Operation { dialect: Dialect::Generate, ..generate },
    ]
}

/// `/v1/responses`, and its answers that are kept.
fn kept() -> [Operation; 4] {
    let deleted = ["delete_response", "Forget an answer."];
    let deleted = lookup(RESPONSE, deleted, "DeletedResponse", KEPT);
    [
        model(
            "/v1/responses",
            ["respond", "Answer a conversation, and keep the answer."],
            ["ResponsesRequest", "Response"],
            true,
        ),
        lookup(RESPONSE, ["response", "An answer that is kept."], "Response", KEPT),
        Operation { method: "delete", ..deleted },
        lookup(
            "/v1/responses/{id}/input_items",
            ["input_items", "What an answer that is kept answers."],
            "InputItems",
            Work::Lookup { may_be_absent: true, takes_query: true },
        ),
    ]
}

/// Models that give numbers for text.
fn numbers() -> Vec<Operation> {
    let score = "Compare texts.";
    let rerank = "Sort documents by how well they fit a query.";
    vec![
        model("/v1/embeddings", ["embed", "Make vectors of texts."], EMBEDDINGS, false),
        model("/score", ["score", score], SCORE, false),
        model("/v1/score", ["score_v1", score], SCORE, false),
        model("/rerank", ["rerank", rerank], RERANK, false),
        model("/v1/rerank", ["rerank_v1", rerank], RERANK, false),
        model("/v2/rerank", ["rerank_v2", rerank], RERANK, false),
        model("/classify", ["classify", "Tell what texts are."], CLASSIFY, false),
    ]
}

fn pages() -> Vec<Operation> {
    let json = Some("application/json");
    let plain = Some("text/plain");
    let page_of =
        |media_type, may_be_503, of_process| Work::Page { media_type, may_be_503, of_process };
    vec![
        lookup(
            "/v1/models",
            ["models", "The models."],
            "ModelList",
            Work::Lookup { may_be_absent: false, takes_query: false },
        ),
        lookup("/v1/models/{id}", ["model", "A model."], "Model", KEPT),
        page("/version", ["version", "The version."], Some("Version"), page_of(json, false, false)),
        page("/health", ["health", "Whether it serves."], None, page_of(None, true, false)),
        page(
            "/healthz",
            ["healthz", "Whether it serves, and its first model."],
            Some("Healthz"),
            page_of(json, true, false),
        ),
        page("/livez", ["livez", "Whether the process runs."], None, page_of(plain, false, true)),
        page(
            "/readyz",
            ["readyz", "Whether it knows its routes."],
            None,
            page_of(plain, true, true),
        ),
        page(
            "/metrics",
            ["metrics", "Counters, for Prometheus."],
            None,
            page_of(plain, false, true),
        ),
        page("/openapi.json", ["openapi", "This document."], None, page_of(json, true, false)),
    ]
}

impl Operation {
    pub(super) fn tag(&self) -> &'static str {
        match self.work {
            Work::Model { .. } | Work::Lookup { .. } => "models",
            Work::Page { .. } => "platform",
        }
    }

    /// Whether it wants no key where others do.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.work, Work::Page { .. })
    }

    /// Whether it is only at the root.
    pub(super) fn is_of_process(&self) -> bool {
        matches!(self.work, Work::Page { of_process: true, .. })
    }

    pub(super) fn parameters(&self) -> Option<Value> {
        let mut parameters = Vec::new();
        if self.path.contains("{id}") {
            let schema = json!({"type": "string", "minLength": 1, "pattern": "^[^/]+$"});
            parameters
                .push(json!({"name": "id", "in": "path", "required": true, "schema": schema}));
        }
        if self.work == (Work::Lookup { may_be_absent: true, takes_query: true }) {
            let limit = json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 20});
            let order = json!({"enum": ["asc", "desc"], "default": "desc"});
            let after = told(string(), "The id of the item before the first one.");
            for (name, schema) in [("limit", limit), ("order", order), ("after", after)] {
                parameters.push(json!({"name": name, "in": "query", "schema": schema}));
            }
        }
        (!parameters.is_empty()).then(|| parameters.into())
    }

    /// What is answered where all is well: status, description, content by media type.
    pub(super) fn successes(&self) -> Vec<(u16, &'static str, Option<Value>)> {
        let schema = self.answer.map(reference);
        let mut content = match self.work {
            Work::Page { media_type: None, .. } => None,
            Work::Page { media_type: Some("application/json"), .. } => {
                Some(json_content(schema.unwrap_or_else(|| json!({"type": "object"}))))
            }
            Work::Page { media_type: Some(kind), .. } => {
                Some(json!({kind: {"schema": {"type": "string"}}}))
            }
            Work::Model { .. } | Work::Lookup { .. } => schema.map(json_content),
        };
        if let (Work::Model { streams: true }, Some(content)) = (self.work, &mut content) {
            content["text/event-stream"] = json!({});
        }
        let description = match self.work {
            Work::Model { streams: true } => "The answer, or its events where stream is true.",
            _ => "The answer.",
        };
        let mut successes = vec![(200, description, content.clone())];
        if matches!(self.work, Work::Page { may_be_503: true, .. }) {
            successes.push((503, "Not yet.", content));
        }
        successes
    }

    /// Where an answer that is kept can be asked for again.
    pub(super) fn links(&self) -> Option<Value> {
        let link =
            |id: &str| json!({"operationId": id, "parameters": {"id": "$response.body#/id"}});
        (self.id == "respond").then(|| {
            json!({
                "response": link("response"),
                "input_items": link("input_items"),
                "delete": link("delete_response"),
            })
        })
    }
}
