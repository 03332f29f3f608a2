//! Conversations: from a request to the messages that answer it, and `POST /v1/chat/completions`.

use crate::answering::Answering;
use crate::app::{Asked, Failure, now_s, whole};
use crate::events;
use crate::message::{Details, Echo, MessageReader};
use crate::ready::{Ready, SubmitOptions};
use crate::structure::{Structure, Thinking};
use crate::text_stream::TextOptions;
use http::Response;
use serde_json::Value;
use std::sync::Arc;
use tyndall_openai::{ApiError, ChatHead, ChatRequest, ChatWriter, chat_response, parse_chat};
use tyndall_parsers::{MessageParser, ReasoningFormat, call_structure};
use tyndall_text::{ChatInput, TemplateError, Tokenizer};
use tyndall_transport::Body;
use tyndall_types::{SamplingParams, ToolChoice};

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let request = ready.beside(body.len(), move |_| parse_chat(&body)).await??;
    let head = ChatHead {
        id: format!("chatcmpl-{}", asked.id),
        created: now_s(),
        model: ready.model_id.clone(),
        logprobs: request.overrides.logprobs.is_some(),
        token_ids: request.extensions.token_ids,
        reasoning: request.include_reasoning,
        named_call: matches!(request.tool_choice, ToolChoice::Named(_)),
        call_ids: ready.family.call_ids(),
    };
    let stream = request.stream.then_some(request.stream_options);
    let mut answering = begin(ready, request, &asked).await?;
    if let Some(stream) = stream {
        let writer = ChatWriter::new(head, stream, answering.job.num_sequences());
        return events::answer(answering, writer, asked).await;
    }
    let messages = answering.collect().await?;
    let prompt = answering.prompts().into_iter().next().unwrap_or_default();
    let response = chat_response(head, messages, prompt, answering.usage());
    Ok(whole(&response, &answering.job, &asked))
}

/// Begins to answer a conversation, whichever API it came by.
///
/// # Errors
/// What the client got wrong, and what the engine cannot take now.
pub(crate) async fn begin(
    ready: &Arc<Ready>,
    request: ChatRequest,
    asked: &Asked,
) -> Result<Answering, Failure> {
    let calls_are_bound =
        matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    let is_bound = calls_are_bound
        || request.extensions.structured.is_some()
        || request.thinking_token_budget.is_some();
    // What compiles a structure may be made first.
    let num_bytes = if is_bound { usize::MAX } else { asked.body.len() };
    let prepared = ready.beside(num_bytes, |ready| Prepared::new(ready, request)).await??;
    let Prepared { prompt, params, options, details, echo, parsers } = prepared;
    let prompts = [prompt];
    let job = ready.submit(&prompts, &params, &options, &asked.id)?;
    let readers = parsers.into_iter().map(|parser| {
        MessageReader::new(Some(parser), details.clone())
            .with_echo(echo.clone())
            .with_prompt(&prompts[0])
    });
    let readers = readers.collect();
    Ok(Answering::new(job, readers, ready.family.reasoning.is_some()))
}

/// The prompt of a conversation, in tokens, and whether it ends inside of thoughts.
///
/// # Errors
/// What the template refuses.
pub(crate) fn prompt(
    ready: &Ready,
    request: &mut ChatRequest,
) -> Result<(Vec<u32>, bool), ApiError> {
    let text = rendered(&ready.tokenizer, request)?;
    let mut ids = ready.encode(&text, request.add_special_tokens)?;
    if let Some(truncation) = request.extensions.truncation {
        truncation.cut(&mut ids, ready.card.max_model_len);
    }
    let opens = |format: ReasoningFormat| format.prompt_opens(&text);
    Ok((ids, ready.family.reasoning.is_some_and(opens)))
}

/// A conversation as the template writes it.
///
/// # Errors
/// What the template refuses.
pub(crate) fn rendered(
    tokenizer: &Tokenizer,
    request: &mut ChatRequest,
) -> Result<String, ApiError> {
    let input = ChatInput {
        messages: std::mem::take(&mut request.messages),
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        tools: request.template_tools.take(),
        kwargs: request.template_kwargs.clone(),
    };
    tokenizer.render_chat(&input).map_err(|error| template_error(&error))
}

/// A request in tokens.
struct Prepared {
    prompt: Vec<u32>,
    params: SamplingParams,
    options: SubmitOptions,
    details: Details,
    echo: Option<Echo>,
    /// One for each answer.
    parsers: Vec<MessageParser>,
}

impl Prepared {
    fn new(ready: &Ready, mut request: ChatRequest) -> Result<Self, ApiError> {
        let params = std::mem::take(&mut request.overrides).resolve(&ready.defaults)?;
        let echo = request
            .echo
            .then(|| last_text(&request.messages))
            .map(|text| Echo { text, ..Echo::default() });
        let (prompt, prompt_opens) = prompt(ready, &mut request)?;
        let extensions = &request.extensions;
        let details = Details {
            logprobs: params.logprobs.is_some(),
            token_ids: extensions.token_ids,
            prompt_logprobs: extensions.prompt_logprobs.is_some(),
            ..Details::of_text(&ready.tokenizer)
        }
        .named_by_id(extensions.tokens_as_ids);
        let calls =
            call_structure(&request.tools, &request.tool_choice, request.parallel_tool_calls);
        let thinking = Thinking {
            format: ready.family.reasoning,
            is_on: ready.family.thinks(&request.template_kwargs),
            prompt_opens,
            budget: request.thinking_token_budget,
        };
        let output = calls.as_ref().or(extensions.structured.as_ref());
        let structure = Structure::after_thoughts(ready, output, thinking)?;
        let text =
            TextOptions { shown: ready.family.shown.clone(), lists_tokens: details.lists_tokens() };
        let options = SubmitOptions {
            text,
            prompt_logprobs: extensions.prompt_logprobs,
            cache_salt: extensions.cache_salt.clone().unwrap_or_default().into_bytes(),
            structure,
        };
        let parser = |_| ready.family.parser(&request, prompt_opens);
        let parsers = (0..params.n).map(parser).collect();
        Ok(Self { prompt, params, options, details, echo, parsers })
    }
}

/// The text of the message that the answer continues.
fn last_text(messages: &[Value]) -> String {
    let text = |part: &Value| {
        part.as_str().or_else(|| part.get("text")?.as_str()).unwrap_or_default().to_owned()
    };
    match messages.last().and_then(|message| message.get("content")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(text).collect(),
        _ => String::new(),
    }
}

fn template_error(error: &TemplateError) -> ApiError {
    if error.is_client_error() {
        ApiError::invalid("messages", error.to_string())
    } else {
        ApiError::internal(error.to_string())
    }
}
