//! Requests for models, checked as far as that needs no model: bad ones wake none.

use crate::target::Route;
use bytes::Bytes;
use serde_json::Value;
use tyndall_openai::{
    ApiError, ChatRequest, Prompt, parse_chat, parse_classify, parse_completion,
    parse_count_tokens, parse_detokenize, parse_embeddings, parse_messages, parse_rerank,
    parse_responses, parse_score, parse_tokenize,
};
use tyndall_parsers::call_structure;
use tyndall_router::Prefix;
use tyndall_types::StructuredOutput;

/// Longer bodies are read beside the runtime's threads, so that they hold up nobody.
const LONG_BODY_BYTES: usize = 32 << 10;

/// What a valid body asks for.
#[derive(Debug)]
struct Wish {
    asked: Checked,
    /// What the answer must be.
    structured: Option<StructuredOutput>,
}

impl Wish {
    /// For a model, and no more.
    fn of(model: Option<String>) -> Self {
        Self { asked: Checked { model, text: Text::None }, structured: None }
    }
}

/// A valid request, as far as it matters which replica gets it.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The model that it names.
    pub(crate) model: Option<String>,
    pub(crate) text: Text,
}

/// What a model is asked with.
#[derive(Debug)]
pub(crate) enum Text {
    None,
    Messages(Vec<Value>),
    Prompt(String),
}

impl Text {
    /// Of the first of several.
    fn of(prompts: Vec<Prompt>) -> Self {
        match prompts.into_iter().next() {
            Some(Prompt::Text(text)) => Self::Prompt(text),
            Some(Prompt::Tokens(_)) | None => Self::None,
        }
    }

    /// As routers compare it.
    pub(crate) fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::None => None,
            Self::Messages(messages) => Some(Prefix::of(ChatRequest::texts(messages))),
            Self::Prompt(prompt) => Some(Prefix::of([prompt.as_str()])),
        }
    }
}

/// Reads and checks the body of a request for a model. The replica reads it again.
///
/// # Errors
/// What the client got wrong.
pub(crate) async fn checked(route: Route<'_>, body: &Bytes) -> Result<Checked, ApiError> {
    let parse = parser(route);
    let wish = match body.len() < LONG_BODY_BYTES {
        true => parse(body)?,
        false => {
            let body = body.clone();
            beside(move || parse(&body)).await??
        }
    };
    if let Some(structured) = wish.structured {
        let check = move || tyndall_structured_output::check(&structured);
        beside(check).await?.map_err(|error| ApiError::structure(&error))?;
    }
    Ok(wish.asked)
}

async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|_| ApiError::internal("reading the request panicked; please report it"))
}

fn parser(route: Route<'_>) -> fn(&[u8]) -> Result<Wish, ApiError> {
    match route {
        Route::Completions => |body| {
            let request = parse_completion(body)?;
            let asked = Checked { model: request.model, text: Text::of(request.prompts) };
            Ok(Wish { asked, structured: request.extensions.structured })
        },
        Route::Messages => |body| parse_messages(body).map(of_chat),
        Route::CountTokens => |body| parse_count_tokens(body).map(of_chat),
        Route::Responses => |body| parse_responses(body).map(|request| of_chat(request.chat)),
        Route::Embeddings => |body| Ok(Wish::of(parse_embeddings(body)?.model)),
        Route::Score => |body| Ok(Wish::of(parse_score(body)?.model)),
        Route::Rerank => |body| Ok(Wish::of(parse_rerank(body)?.model)),
        Route::Classify => |body| Ok(Wish::of(parse_classify(body)?.model)),
        Route::Tokenize => |body| Ok(Wish::of(parse_tokenize(body)?.model)),
        Route::Detokenize => |body| Ok(Wish::of(parse_detokenize(body)?.model)),
        _ => |body| parse_chat(body).map(of_chat),
    }
}

fn of_chat(chat: ChatRequest) -> Wish {
    let calls = call_structure(&chat.tools, &chat.tool_choice, chat.parallel_tool_calls);
    let asked = Checked { model: chat.model, text: Text::Messages(chat.messages) };
    Wish { asked, structured: calls.or(chat.extensions.structured) }
}
