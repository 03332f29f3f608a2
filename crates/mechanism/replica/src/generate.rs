//! `POST /generate`: all prompts in one batch, answered together.

use crate::app::{Asked, Failure, whole};
use crate::ready::Ready;
use http::Response;
use std::sync::Arc;
use tyndall_openai::{GenerateResponse, parse_generate};
use tyndall_transport::Body;

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let request = parse_generate(&asked.body, &ready.generate)?;
    let prompts = ready.encode(request.prompts.clone(), true).await?;
    let mut job = ready.submit(prompts, &request.params, &asked.id)?;
    let texts = job.collect().await?;
    let response = GenerateResponse {
        model: ready.model_id.clone(),
        prompts: request.prompts,
        completions: texts.into_iter().map(|whole| whole.text.trim_start().to_owned()).collect(),
        generation_kwargs: request.echo,
    };
    Ok(whole(&response, &job, &asked))
}
