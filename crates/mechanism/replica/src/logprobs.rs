//! Log-probabilities in the words of both routes.

use serde_json::{Map, Value};
use tyndall_engine::TokenLogprobs;
use tyndall_openai::{
    ChatLogprobs, ChatTokenLogprob, ChatTopLogprob, CompletionLogprobs, floor_logprob,
};
use tyndall_text::Tokenizer;

/// In the form of `/v1/chat/completions`.
pub(crate) fn chat(tokenizer: &Tokenizer, tokens: &[(u32, TokenLogprobs)]) -> ChatLogprobs {
    let bytes = |id| tokenizer.token_bytes(id).unwrap_or_default();
    let content = tokens.iter().map(|(id, found)| ChatTokenLogprob {
        token: tokenizer.token_text(*id),
        logprob: floor_logprob(found.logprob),
        bytes: bytes(*id),
        top_logprobs: found
            .top
            .iter()
            .map(|(id, logprob)| ChatTopLogprob {
                token: tokenizer.token_text(*id),
                logprob: floor_logprob(*logprob),
                bytes: bytes(*id),
            })
            .collect(),
    });
    ChatLogprobs { content: content.collect() }
}

/// In the form of `/v1/completions`. `offset` is where the first token begins, in characters, and
/// moves on to where the next one will.
pub(crate) fn completion(
    tokenizer: &Tokenizer,
    tokens: &[(u32, TokenLogprobs)],
    offset: &mut u32,
) -> CompletionLogprobs {
    let mut logprobs = CompletionLogprobs::default();
    for (id, found) in tokens {
        let text = tokenizer.token_text(*id);
        logprobs.text_offset.push(*offset);
        *offset += u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let mut top: Map<String, Value> = Map::new();
        for (id, logprob) in found.top.iter().chain([&(*id, found.logprob)]) {
            top.insert(tokenizer.token_text(*id), floor_logprob(*logprob).into());
        }
        logprobs.tokens.push(text);
        logprobs.token_logprobs.push(floor_logprob(found.logprob));
        logprobs.top_logprobs.push(top);
    }
    logprobs
}
