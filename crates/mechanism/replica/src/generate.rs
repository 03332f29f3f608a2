//! `POST /generate`: all prompts in one batch, answered together.

use crate::answering::Answering;
use crate::app::{Asked, Failure, whole};
use crate::message::{Details, MessageReader};
use crate::ready::{Ready, SubmitOptions};
use http::Response;
use std::sync::Arc;
use tyndall_openai::{ApiError, GenerateResponse, parse_generate};
use tyndall_transport::Body;

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let request = parse_generate(&asked.body, &ready.generate)?;
    let texts = request.prompts.clone();
    let encode = move |ready: &Ready| -> Result<Vec<_>, ApiError> {
        texts.iter().map(|text| ready.encode(text, true)).collect()
    };
    let prompts = ready.beside(asked.body.len(), encode).await??;
    let job = ready.submit(&prompts, &request.params, &SubmitOptions::default(), &asked.id)?;
    let details = Details::of_text(&ready.tokenizer);
    let readers = prompts.iter().map(|_| MessageReader::new(None, details.clone()));
    let mut answering = Answering::new(job, readers.collect(), false);
    let texts = answering.collect().await?.into_iter();
    let text = |content: Option<String>| content.unwrap_or_default().trim_start().to_owned();
    let response = GenerateResponse {
        model: ready.model_id.clone(),
        prompts: request.prompts,
        completions: texts.map(|message| text(message.content)).collect(),
        generation_kwargs: request.echo,
    };
    Ok(whole(&response, &answering.job, &asked))
}
