//! `POST /rerank`, `POST /v1/rerank` and `POST /v2/rerank`.

use super::{PoolingHead, PoolingOptions, texts, usage};
use crate::completion::model;
use crate::fields::{Fields, Numbers, object};
use crate::{ApiError, Usage};
use serde::Serialize;

/// A valid `/rerank` request.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// What is looked for.
    pub query: String,
    /// At least one.
    pub documents: Vec<String>,
    /// So many of the best; absent is all.
    pub top_n: Option<usize>,
    /// The answer repeats the documents.
    pub return_documents: bool,
    /// What the routes share.
    pub options: PoolingOptions,
}

/// Reads and checks a `/rerank` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_rerank(body: &[u8]) -> Result<RerankRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let missing = |name: &str, what: &str| {
        ApiError::malformed(name, format!("{name} is missing; send {what}"))
    };
    let query = fields.string("query")?.ok_or_else(|| missing("query", "a string"))?;
    let documents = fields.list("documents")?.map(|list| texts("documents", &list.into()));
    let documents = documents.ok_or_else(|| missing("documents", "a list of texts"))??;
    let top_n = fields.count("top_n", 0, u32::MAX)?.filter(|top_n| *top_n > 0);
    Ok(RerankRequest {
        model: model(&fields)?,
        query: query.to_owned(),
        documents,
        top_n: top_n.map(|top_n| top_n as usize),
        return_documents: fields.bool("return_documents")?.unwrap_or(true),
        options: PoolingOptions::read(&fields)?,
    })
}

/// The answer of `/rerank`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RerankResponse {
    /// `rerank-…`.
    pub id: String,
    /// The public model id.
    pub model: String,
    /// Tokens.
    pub usage: Usage,
    /// Best first.
    pub results: Vec<RerankResult>,
}

/// A document in its rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RerankResult {
    /// Its place in the request.
    pub index: usize,
    /// When wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RerankDocument>,
    /// More is better.
    pub relevance_score: f32,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RerankDocument {
    /// As sent.
    pub text: String,
}

/// The answer, of a score for each document. Documents of the same score stay in their order.
#[must_use]
pub fn rerank_response(
    head: PoolingHead,
    request: RerankRequest,
    scores: &[f32],
    prompt_tokens: u32,
) -> RerankResponse {
    let result = |(index, (text, &relevance_score))| RerankResult {
        index,
        document: request.return_documents.then_some(RerankDocument { text }),
        relevance_score,
    };
    let scored = request.documents.into_iter().zip(scores).enumerate();
    let mut results: Vec<RerankResult> = scored.map(result).collect();
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(request.top_n.unwrap_or(usize::MAX));
    RerankResponse { id: head.id, model: head.model, usage: usage(prompt_tokens), results }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(body: Value) -> Result<RerankRequest, ApiError> {
        parse_rerank(body.to_string().as_bytes())
    }

    #[test]
    fn the_best_come_first() {
        let check = |fields: Value, expected: Value| {
            let mut body = json!({"query": "q", "documents": ["a", {"text": "b"}, "c"]});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let head = PoolingHead { id: "rerank-1".to_owned(), created: 1, model: "m".to_owned() };
            let response = rerank_response(head, parse(body).unwrap(), &[0.25, 0.75, 0.25], 3);
            assert_eq!(serde_json::to_value(response.results).unwrap(), expected);
        };
        let b = json!({"index": 1, "document": {"text": "b"}, "relevance_score": 0.75});
        let a = json!({"index": 0, "document": {"text": "a"}, "relevance_score": 0.25});
        let c = json!({"index": 2, "document": {"text": "c"}, "relevance_score": 0.25});
        check(json!({}), json!([b, a, c]));
        check(json!({"top_n": 0}), json!([b, a, c]));
        check(json!({"top_n": 2}), json!([b, a]));
        check(
            json!({"top_n": 1, "return_documents": false}),
            json!([{"index": 1, "relevance_score": 0.75}]),
        );
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |body: Value, part: &str| {
            let error = parse(body).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(json!({"documents": ["a"]}), "query is missing");
        check(json!({"query": "q"}), "documents is missing; send a list of texts");
        check(json!({"query": "q", "documents": []}), "documents must not be empty");
        check(json!({"query": "q", "documents": "a"}), "documents must be a list");
        check(json!({"query": "q", "documents": ["a"], "top_n": -1}), "top_n must be an integer");
    }
}
