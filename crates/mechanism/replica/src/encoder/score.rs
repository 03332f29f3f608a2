//! `POST /v1/score` and `POST /v1/rerank`: by a model that scores pairs, or by comparing embeddings.

use super::{EncoderReady, Numbers, answered};
use crate::app::{Asked, Failure};
use crate::ready::beside;
use http::Response;
use std::collections::HashMap;
use std::sync::Arc;
use tyndall_engine::EncoderText;
use tyndall_model::{ClassifierSpec, EmbeddingSpec, EncoderKind, Similarity, normalize};
use tyndall_openai::{
    ApiError, PoolingOptions, parse_rerank, parse_score, rerank_response, score_response,
};
use tyndall_transport::Body;

pub(crate) async fn score(
    ready: &Arc<EncoderReady>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &EncoderReady| -> Result<_, ApiError> {
        let request = parse_score(&body)?;
        Pairs::new(ready, request.pairs(), request.options)
    };
    let pairs = beside(ready, asked.body.len(), work).await??;
    let (scores, numbers) = pairs.scores(ready).await?;
    let response = score_response(ready.head("score", &asked), &scores, numbers.num_tokens);
    Ok(answered(&response, &numbers, &asked))
}

pub(crate) async fn rerank(
    ready: &Arc<EncoderReady>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &EncoderReady| -> Result<_, ApiError> {
        let request = parse_rerank(&body)?;
        let documents = request.documents.iter();
        let pairs = documents.map(|document| (request.query.as_str(), document.as_str()));
        Ok((Pairs::new(ready, pairs, request.options)?, request))
    };
    let (pairs, request) = beside(ready, asked.body.len(), work).await??;
    let (scores, numbers) = pairs.scores(ready).await?;
    let head = ready.head("rerank", &asked);
    let response = rerank_response(head, request, &scores, numbers.num_tokens);
    Ok(answered(&response, &numbers, &asked))
}

/// Pairs of a query and a document as the model reads them.
struct Pairs {
    texts: Vec<EncoderText>,
    /// For each pair the places of its query and its document among the texts; none where a text is
    /// a pair.
    places: Vec<(usize, usize)>,
    activates: Option<bool>,
}

impl Pairs {
    fn new<'a>(
        ready: &EncoderReady,
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
        options: PoolingOptions,
    ) -> Result<Self, ApiError> {
        let mut found =
            Self { texts: Vec::new(), places: Vec::new(), activates: options.use_activation };
        if let EncoderKind::Classify(_) = ready.spec.kind {
            for (index, (query, document)) in pairs.enumerate() {
                let path = format!("documents[{index}]");
                found.texts.push(ready.text(&path, (query, Some(document)), options)?);
            }
            return Ok(found);
        }
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (index, (query, document)) in pairs.enumerate() {
            let mut place = |path: String, text: &'a str| -> Result<usize, ApiError> {
                if let Some(place) = known.get(text) {
                    return Ok(*place);
                }
                found.texts.push(ready.text(&path, (text, None), options)?);
                known.insert(text, found.texts.len() - 1);
                Ok(found.texts.len() - 1)
            };
            let query = place(format!("queries[{index}]"), query)?;
            let document = place(format!("documents[{index}]"), document)?;
            found.places.push((query, document));
        }
        Ok(found)
    }

    /// A score for each pair.
    async fn scores(self, ready: &EncoderReady) -> Result<(Vec<f32>, Numbers), Failure> {
        let Self { texts, places, activates } = self;
        let mut numbers = ready.read(texts).await?;
        let rows = std::mem::take(&mut numbers.rows);
        let scores = match &ready.spec.kind {
            EncoderKind::Classify(classifier) => activated(classifier, rows, activates),
            EncoderKind::Embed(embedding) => compared(embedding, rows, &places),
        };
        Ok((scores, numbers))
    }
}

fn activated(
    classifier: &ClassifierSpec,
    mut rows: Vec<Vec<f32>>,
    activates: Option<bool>,
) -> Vec<f32> {
    if activates.unwrap_or(true) {
        rows.iter_mut().for_each(|row| classifier.score.apply(row));
    }
    rows.into_iter().flatten().collect()
}

/// As vLLM does it by cosines, unless the model's files name another similarity.
fn compared(
    embedding: &EmbeddingSpec,
    mut rows: Vec<Vec<f32>>,
    places: &[(usize, usize)],
) -> Vec<f32> {
    if embedding.normalizes {
        rows.iter_mut().for_each(|row| normalize(row));
    }
    let similarity = embedding.similarity.unwrap_or(Similarity::Cosine);
    places
        .iter()
        .map(|&(query, document)| similarity.between(&rows[query], &rows[document]))
        .collect()
}
