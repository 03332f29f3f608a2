//! `POST /v1/completions`.

use crate::answering::Answering;
use crate::app::{Asked, Failure, now_s, whole};
use crate::events;
use crate::infill::infill;
use crate::message::{Details, Echo, MessageReader};
use crate::ready::{Ready, SubmitOptions};
use crate::structure::Structure;
use crate::text_stream::TextOptions;
use http::Response;
use std::sync::Arc;
use tyndall_openai::{
    ApiError, CompletionHead, CompletionRequest, CompletionWriter, Prompt, completion_response,
    parse_completion,
};
use tyndall_transport::Body;
use tyndall_types::SamplingParams;

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let request = ready.beside(body.len(), move |_| parse_completion(&body)).await??;
    // What compiles a structure may be made first.
    let is_quick = request.extensions.structured.is_none();
    let num_bytes = if is_quick { asked.body.len() } else { usize::MAX };
    let prepared = ready.beside(num_bytes, |ready| Prepared::new(ready, request)).await??;
    let Prepared { prompts, params, options, details, echoes, stream } = prepared;
    let job = ready.submit(&prompts, &params, &options, &asked.id)?;
    let readers: Vec<MessageReader> = (0..job.num_sequences())
        .map(|index| {
            let prompt = index / params.n as usize;
            MessageReader::new(None, details.clone())
                .with_echo(echoes.get(prompt).cloned())
                .with_prompt(&prompts[prompt])
        })
        .collect();
    let head = CompletionHead {
        id: format!("cmpl-{}", asked.id),
        created: now_s(),
        model: ready.model_id.clone(),
        logprobs: details.logprobs,
        token_ids: details.token_ids,
    };
    let mut answering = Answering::new(job, readers, false);
    if let Some(stream) = stream {
        let writer = CompletionWriter::new(head, stream, answering.job.num_sequences());
        return events::answer(answering, writer, asked).await;
    }
    let messages = answering.collect().await?;
    let completions = messages.into_iter().zip(answering.prompts()).collect();
    let response = completion_response(head, completions, answering.usage());
    Ok(whole(&response, &answering.job, &asked))
}

/// A request in tokens.
struct Prepared {
    prompts: Vec<Vec<u32>>,
    params: SamplingParams,
    options: SubmitOptions,
    details: Details,
    /// By prompt; none where nothing is echoed.
    echoes: Vec<Echo>,
    stream: Option<tyndall_openai::StreamOptions>,
}

impl Prepared {
    fn new(ready: &Ready, request: CompletionRequest) -> Result<Self, ApiError> {
        let extensions = request.extensions;
        let num_logprobs = request.overrides.logprobs;
        let is_all_echo = request.echo && request.overrides.max_tokens == Some(0);
        let mut params = request.overrides.resolve(&ready.defaults)?;
        if is_all_echo {
            // An engine generates at least one token; it is not told.
            params.max_tokens = Some(1);
        }
        let mut prompts = Vec::with_capacity(request.prompts.len());
        let mut echoes = Vec::new();
        for prompt in request.prompts {
            let (mut ids, text) = match (prompt, &request.suffix) {
                (Prompt::Text(text), Some(suffix)) => (infill(ready, &text, suffix)?, text),
                (Prompt::Text(text), None) => {
                    (ready.encode(&text, request.add_special_tokens)?, text)
                }
                (Prompt::Tokens(ids), _) => {
                    let text = ready.tokenizer.decode(&ids, params.skip_special_tokens);
                    (ids, text)
                }
            };
            if let Some(truncation) = extensions.truncation {
                truncation.cut(&mut ids, ready.card.max_model_len);
            }
            if request.echo {
                echoes.push(Echo { text, tokens: ids.clone(), is_all: is_all_echo });
            }
            prompts.push(ids);
        }
        let echoed = num_logprobs.filter(|_| request.echo);
        let details = Details {
            logprobs: num_logprobs.is_some(),
            token_ids: extensions.token_ids,
            prompt_logprobs: extensions.prompt_logprobs.is_some(),
            ..Details::of_text(&ready.tokenizer)
        }
        .named_by_id(extensions.tokens_as_ids);
        let structure = extensions.structured.as_ref();
        let structure =
            structure.map(|structured| Structure::new(ready, structured)).transpose()?;
        let text = TextOptions { lists_tokens: details.lists_tokens(), ..TextOptions::default() };
        let options = SubmitOptions {
            text,
            prompt_logprobs: extensions.prompt_logprobs.max(echoed),
            cache_salt: extensions.cache_salt.unwrap_or_default().into_bytes(),
            structure,
        };
        let stream = request.stream.then_some(request.stream_options);
        Ok(Self { prompts, params, options, details, echoes, stream })
    }
}
