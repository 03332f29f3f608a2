//! Requests for models, checked as far as that needs no model: bad ones wake none.

use crate::target::Route;
use bytes::Bytes;
use tyndall_openai::{
    ApiError, ChatRequest, parse_chat, parse_classify, parse_completion, parse_count_tokens,
    parse_detokenize, parse_embeddings, parse_messages, parse_rerank, parse_responses, parse_score,
    parse_tokenize,
};
use tyndall_parsers::call_structure;
use tyndall_types::StructuredOutput;

/// Longer bodies are read beside the runtime's threads, so that they hold up nobody.
const LONG_BODY_BYTES: usize = 32 << 10;

/// What a valid body asks for.
#[derive(Debug, Default)]
struct Wish {
    model: Option<String>,
    /// What the answer must be.
    structured: Option<StructuredOutput>,
}

impl Wish {
    /// For a model, and no more.
    fn of(model: Option<String>) -> Self {
        Self { model, structured: None }
    }
}

/// Reads and checks the body of a request for a model; returns the model that it names. The replica
/// reads it again.
///
/// # Errors
/// What the client got wrong.
pub(crate) async fn checked(route: Route<'_>, body: &Bytes) -> Result<Option<String>, ApiError> {
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
    Ok(wish.model)
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
            Ok(Wish { model: request.model, structured: request.extensions.structured })
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
    Wish { model: chat.model, structured: calls.or(chat.extensions.structured) }
}
