//! `POST /v1/embeddings` and `POST /classify`.

use super::{EncoderReady, answered};
use crate::app::{Asked, Failure};
use crate::chat;
use crate::ready::beside;
use http::Response;
use std::sync::Arc;
use tyndall_engine::EncoderText;
use tyndall_model::{EncoderKind, normalize};
use tyndall_openai::{
    ApiError, EmbeddingInput, EmbeddingsRequest, Prompt, classify_response, embeddings_response,
    parse_classify, parse_embeddings,
};
use tyndall_transport::Body;

pub(crate) async fn embeddings(
    ready: &Arc<EncoderReady>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &EncoderReady| -> Result<_, ApiError> {
        let request = parse_embeddings(&body)?;
        let vectors = VectorForm::of(ready, &request)?;
        let encoding = request.encoding;
        Ok((ready.embedding_texts(request)?, vectors, encoding))
    };
    let (texts, vectors, encoding) = beside(ready, asked.body.len(), work).await??;
    let mut numbers = ready.read(texts).await?;
    let mut rows = std::mem::take(&mut numbers.rows);
    rows.iter_mut().for_each(|row| vectors.shape(row));
    let head = ready.head("embd", &asked);
    let response = embeddings_response(head, rows, encoding, numbers.num_tokens);
    Ok(answered(&response, &numbers, &asked))
}

impl EncoderReady {
    fn embedding_texts(&self, request: EmbeddingsRequest) -> Result<Vec<EncoderText>, ApiError> {
        let options = request.options;
        match request.input {
            EmbeddingInput::Conversation(mut chat) => {
                let options = tyndall_openai::PoolingOptions {
                    add_special_tokens: chat.add_special_tokens,
                    ..options
                };
                let text = chat::rendered(&self.tokenizer, &mut chat)?;
                Ok(vec![self.text("messages", (&text, None), options)?])
            }
            EmbeddingInput::Prompts(prompts) => {
                let before = self.default_prompt();
                let prompts = prompts.into_iter().enumerate().map(|(index, prompt)| {
                    let prompt = match prompt {
                        Prompt::Text(text) if !before.is_empty() => {
                            Prompt::Text(format!("{before}{text}"))
                        }
                        prompt => prompt,
                    };
                    self.prompt(&format!("input[{index}]"), &prompt, options)
                });
                prompts.collect()
            }
        }
    }
}

/// What the vectors of a request look like.
struct VectorForm {
    length: Option<u32>,
    normalizes: bool,
}

impl VectorForm {
    fn of(ready: &EncoderReady, request: &EmbeddingsRequest) -> Result<Self, ApiError> {
        let EncoderKind::Embed(embedding) = &ready.spec.kind else {
            return Err(ApiError::internal("a model without embeddings was asked for one"));
        };
        if let Some(length) = request.dimensions
            && let Err(possible) = embedding.matryoshka.check(length, embedding.dimension)
        {
            let message = format!("dimensions must be {possible}, got {length}");
            return Err(ApiError::invalid("dimensions", message));
        }
        let normalizes = request.options.use_activation.unwrap_or(embedding.normalizes);
        Ok(Self { length: request.dimensions, normalizes })
    }

    fn shape(&self, vector: &mut Vec<f32>) {
        if let Some(length) = self.length {
            vector.truncate(length as usize);
        }
        if self.normalizes {
            normalize(vector);
        }
    }
}

pub(crate) async fn classify(
    ready: &Arc<EncoderReady>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &EncoderReady| -> Result<_, ApiError> {
        let request = parse_classify(&body)?;
        let prompts = request.prompts.iter().enumerate();
        let text =
            |(index, prompt)| ready.prompt(&format!("input[{index}]"), prompt, request.options);
        let texts = prompts.map(text).collect::<Result<Vec<_>, _>>()?;
        Ok((texts, request.options.use_activation.unwrap_or(true)))
    };
    let (texts, activates) = beside(ready, asked.body.len(), work).await??;
    let EncoderKind::Classify(classifier) = &ready.spec.kind else {
        return Err(ApiError::internal("a model without classes was asked for one").into());
    };
    let mut numbers = ready.read(texts).await?;
    let mut rows = std::mem::take(&mut numbers.rows);
    if activates {
        rows.iter_mut().for_each(|row| classifier.classes.apply(row));
    }
    let head = ready.head("classify", &asked);
    let response = classify_response(head, rows, &classifier.labels, numbers.num_tokens);
    Ok(answered(&response, &numbers, &asked))
}
