//! `POST /classify`.

use super::{PoolingHead, PoolingOptions, usage};
use crate::completion::{model, prompts};
use crate::fields::{Fields, Numbers, object};
use crate::{ApiError, Prompt, Usage};
use serde::Serialize;

/// A valid `/classify` request.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifyRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// What the routes share.
    pub options: PoolingOptions,
}

/// Reads and checks a `/classify` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_classify(body: &[u8]) -> Result<ClassifyRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    Ok(ClassifyRequest {
        model: model(&fields)?,
        prompts: prompts(&fields, "input")?,
        options: PoolingOptions::read(&fields)?,
    })
}

/// The answer of `/classify`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassifyResponse {
    /// `classify-…`.
    pub id: String,
    /// `list`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// By index.
    pub data: Vec<Classification>,
    /// Tokens.
    pub usage: Usage,
}

/// What a text is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classification {
    /// Of this input.
    pub index: usize,
    /// The most likely class; null where the model has no name for it.
    pub label: Option<String>,
    /// Of every class.
    pub probs: Vec<f32>,
    /// How many there are.
    pub num_classes: usize,
}

/// The answer, of the probabilities of every class for each input; `labels` are the model's names
/// of its classes.
#[must_use]
pub fn classify_response(
    head: PoolingHead,
    probs: Vec<Vec<f32>>,
    labels: &[String],
    prompt_tokens: u32,
) -> ClassifyResponse {
    let classification = |(index, probs): (usize, Vec<f32>)| {
        // The first of the largest: `max_by` would give the last.
        let best = probs.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
        Classification {
            index,
            label: best.and_then(|(class, _)| labels.get(class)).cloned(),
            num_classes: probs.len(),
            probs,
        }
    };
    ClassifyResponse {
        id: head.id,
        object: "list",
        created: head.created,
        model: head.model,
        data: probs.into_iter().enumerate().map(classification).collect(),
        usage: usage(prompt_tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_class_names_the_text() {
        let body = br#"{"input": ["a", "b", "c"], "use_activation": true}"#;
        let request = parse_classify(body).unwrap();
        assert_eq!((request.prompts.len(), request.options.use_activation), (3, Some(true)));
        assert!(parse_classify(b"{}").unwrap_err().message.contains("input is missing"));
        let head = PoolingHead { id: "classify-1".to_owned(), created: 1, model: "m".to_owned() };
        let labels = ["no".to_owned(), "yes".to_owned()];
        let probs = vec![vec![0.25, 0.75], vec![0.5, 0.5], vec![0.0, 0.0, 1.0]];
        let response = classify_response(head, probs, &labels, 3);
        let labels: Vec<_> = response.data.iter().map(|found| found.label.as_deref()).collect();
        assert_eq!(labels, [Some("yes"), Some("no"), None]);
        assert_eq!(
            serde_json::to_string(&response.data[0]).unwrap(),
            r#"{"index":0,"label":"yes","probs":[0.25,0.75],"num_classes":2}"#
        );
    }
}
