//! `POST /score` and `POST /v1/score`.

use super::{PoolingHead, PoolingOptions, texts, usage};
use crate::completion::model;
use crate::fields::{Fields, Numbers, object};
use crate::{ApiError, Usage};
use serde::Serialize;

/// The names under which queries and documents come.
pub(crate) const PAIRS: [(&str, &str); 4] =
    [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")];

/// A valid `/score` request.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// One, or as many as documents.
    pub queries: Vec<String>,
    /// At least one.
    pub documents: Vec<String>,
    /// What the routes share.
    pub options: PoolingOptions,
}

impl ScoreRequest {
    /// A query and a document for each score, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let one = self.queries.len() == 1;
        let documents = self.documents.iter().enumerate();
        documents.map(move |(i, document)| {
            let query = if one { &self.queries[0] } else { &self.queries[i] };
            (query.as_str(), document.as_str())
        })
    }
}

/// Reads and checks a `/score` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_score(body: &[u8]) -> Result<ScoreRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let found = PAIRS.iter().find_map(|(first, second)| {
        Some((*first, fields.get(first)?, *second, fields.get(second)?))
    });
    let Some((first, queries, second, documents)) = found else {
        let pairs: Vec<String> = PAIRS.iter().map(|(a, b)| format!("{a} and {b}")).collect();
        return Err(ApiError::malformed(
            "queries",
            format!("the texts to compare are missing; send {}", pairs.join(", or ")),
        ));
    };
    let (queries, documents) = (texts(first, queries)?, texts(second, documents)?);
    if queries.len() != 1 && queries.len() != documents.len() {
        return Err(ApiError::invalid(
            first,
            format!(
                "{first} must hold one text or as many as {second}, got {} and {}",
                queries.len(),
                documents.len()
            ),
        ));
    }
    let options = PoolingOptions::read(&fields)?;
    Ok(ScoreRequest { model: model(&fields)?, queries, documents, options })
}

/// The answer of `/score`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreResponse {
    /// `score-…`.
    pub id: String,
    /// `list`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// By index.
    pub data: Vec<Score>,
    /// Tokens.
    pub usage: Usage,
}

/// How well a document fits its query.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// Of this pair.
    pub index: usize,
    /// `score`.
    pub object: &'static str,
    /// More is better.
    pub score: f32,
}

/// The answer, of a score for each pair.
#[must_use]
pub fn score_response(head: PoolingHead, scores: &[f32], prompt_tokens: u32) -> ScoreResponse {
    let score = |(index, &score)| Score { index, object: "score", score };
    ScoreResponse {
        id: head.id,
        object: "list",
        created: head.created,
        model: head.model,
        data: scores.iter().enumerate().map(score).collect(),
        usage: usage(prompt_tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn texts_pair_up() {
        let check = |body: Value, expected: &[(&str, &str)]| {
            let request = parse_score(body.to_string().as_bytes()).unwrap();
            assert_eq!(request.pairs().collect::<Vec<_>>(), expected, "{body}");
        };
        check(json!({"text_1": "q", "text_2": "a"}), &[("q", "a")]);
        check(
            json!({"queries": "q", "documents": ["a", {"text": "b"}]}),
            &[("q", "a"), ("q", "b")],
        );
        check(json!({"queries": ["q", "r"], "items": ["a", "b"]}), &[("q", "a"), ("r", "b")]);
        check(json!({"data_1": ["q"], "data_2": "a"}), &[("q", "a")]);
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |body: Value, part: &str| {
            let error = parse_score(body.to_string().as_bytes()).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(json!({"queries": "q"}), "send queries and documents, or queries and items, or");
        check(
            json!({"queries": ["q", "r"], "documents": ["a", "b", "c"]}),
            "queries must hold one text or as many as documents, got 2 and 3",
        );
        check(json!({"text_1": [], "text_2": "a"}), "text_1 must not be empty");
        check(json!({"text_1": "q", "text_2": [3]}), "text_2[0] must be a string or {\"text\": …}");
        check(json!({"text_1": "q", "text_2": {"content": []}}), "text_2 must be a string");
    }

    #[test]
    fn scores_are_listed() {
        let head = PoolingHead { id: "score-1".to_owned(), created: 1, model: "m".to_owned() };
        assert_eq!(
            serde_json::to_string(&score_response(head, &[0.5], 3)).unwrap(),
            r#"{"id":"score-1","object":"list","created":1,"model":"m","data":[{"index":0,"object":"score","score":0.5}],"usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0}}"#
        );
    }
}
