//! Whole answers fit their schemas.

use super::DOCUMENT;
use super::validate::fits;
use crate::{
    ApiError, CallIds, ChatHead, CompletionHead, CountTokensResponse, DetokenizeResponse,
    EmbeddingEncoding, GenerateResponse, Message, MessageEnd, MessagesHead, ModelCardView,
    ModelList, PoolingHead, PromptDetails, ResponsesHead, StoredResponse, TokenLogprob,
    TokenizeResponse, ToolCall, TopLogprob, Usage, chat_response, classify_response,
    completion_response, embeddings_response, messages_response, parse_rerank, parse_responses,
    rerank_response, responses_response, score_response,
};
use crate::{CompletionTokensDetails, ItemOrder};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tyndall_types::{FinishReason, StopReason};

fn check<T: Serialize>(name: &str, answer: &T) {
    let answer = serde_json::to_value(answer).unwrap();
    let schema = &DOCUMENT["components"]["schemas"][name];
    assert!(fits(&DOCUMENT, schema, &answer), "{name}: {answer}");
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn ends() -> Vec<MessageEnd> {
    let end = |reason, stop| MessageEnd { reason, stop };
    vec![
        end(FinishReason::Stop, None),
        end(FinishReason::Stop, Some(StopReason::Token(3))),
        end(FinishReason::Stop, Some(StopReason::Text(text("x")))),
        end(FinishReason::Length, None),
        end(FinishReason::Repetition, None),
        end(FinishReason::Abort, None),
        end(FinishReason::Error, None),
    ]
}

fn logprob(logprob: Option<f32>) -> TokenLogprob {
    let top = TopLogprob { token: text("b"), logprob: -1.0, bytes: vec![98] };
    TokenLogprob { token: text("a"), logprob, bytes: vec![97], top_logprobs: vec![top] }
}

/// Messages with all and with nothing, with every end.
fn messages() -> Vec<Message> {
    let call = |name| ToolCall { name: text(name), arguments: text("{\"input\":\"a\"}") };
    let full = |end| Message {
        reasoning: Some(text("hm")),
        content: Some(text("a")),
        tool_calls: vec![call("f"), call("patch"), call("db__q")],
        logprobs: vec![logprob(None), logprob(Some(-0.5))],
        token_ids: vec![1],
        end,
    };
    let empty = |end| Message { end, ..Message::of([]) };
    ends().into_iter().map(full).chain(ends().into_iter().map(empty)).collect()
}

fn usages() -> [Usage; 3] {
    let usage = Usage::new(3, 4, 2);
    let details = Some(CompletionTokensDetails { reasoning_tokens: 1 });
    [usage, usage.so_far(), Usage { completion_tokens_details: details, ..usage }]
}

fn prompt() -> PromptDetails {
    let known: Map<String, Value> =
        json!({"5": {"logprob": -1.0, "rank": 1, "decoded_token": "a"}})
            .as_object()
            .unwrap()
            .clone();
    PromptDetails { logprobs: Some(vec![None, Some(known)]), token_ids: Some(vec![1, 5]) }
}

#[test]
fn of_chats_and_completions() {
    for (usage, all) in usages().into_iter().flat_map(|usage| [(usage, true), (usage, false)]) {
        let head = ChatHead {
            id: text("chatcmpl-1"),
            created: 1,
            model: text("m"),
            logprobs: all,
            token_ids: all,
            reasoning: all,
            named_call: !all,
            call_ids: CallIds::Long,
        };
        let told = if all { prompt() } else { PromptDetails::default() };
        check("ChatResponse", &chat_response(head, messages(), told.clone(), usage));
        let (id, model) = (text("cmpl-1"), text("m"));
        let head = CompletionHead { id, created: 1, model, logprobs: all, token_ids: all };
        let completions = messages().into_iter().map(|message| (message, told.clone())).collect();
        check("CompletionResponse", &completion_response(head, completions, usage));
    }
}

#[test]
fn of_responses_and_messages() {
    let body = json!({
        "input": "hi", "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "instructions": "S", "max_output_tokens": 9, "temperature": 0.5, "top_p": 1, "user": 3,
        "tool_choice": {"type": "function", "name": "f"}, "max_tool_calls": 2,
        "text": {"format": {"type": "json_object"}}, "metadata": {"a": "b"}, "top_logprobs": 2,
        "tools": [
            {"type": "function", "name": "f"}, {"type": "custom", "name": "patch"},
            {"type": "namespace", "name": "db", "tools": [{"type": "function", "name": "q"}]},
        ],
    });
    let mut free = body.clone();
    free.as_object_mut().unwrap().remove("text");
    for body in [json!({"input": "hi"}), free] {
        let shape = parse_responses(body.to_string().as_bytes()).unwrap().shape;
        let call_ids = CallIds::Long;
        let head =
            ResponsesHead { id: text("resp_1"), created: 1, model: text("m"), call_ids, shape };
        for message in messages() {
            let response = responses_response(&head, message, &usages()[0]);
            check("Response", &response);
            let stored = StoredResponse::new(body.as_object().unwrap(), response).unwrap();
            for (limit, after) in [(9, None), (0, Some("x"))] {
                check("InputItems", &stored.list_input(ItemOrder::Descending, after, limit));
            }
        }
    }
    for message in messages() {
        let (id, model) = (text("msg_1"), text("m"));
        let head = MessagesHead { id, model, reasoning: true, call_ids: CallIds::Long };
        check("MessagesResponse", &messages_response(&head, message, &usages()[0]));
    }
    check("CountTokensResponse", &CountTokensResponse { input_tokens: 3 });
}

#[test]
fn of_models_that_give_numbers() {
    let head = || PoolingHead { id: text("x-1"), created: 1, model: text("m") };
    for encoding in [EmbeddingEncoding::Float, EmbeddingEncoding::Base64] {
        let embeddings = embeddings_response(head(), vec![vec![1.0, -0.5]], encoding, 3);
        check("EmbeddingsResponse", &embeddings);
    }
    check("ScoreResponse", &score_response(head(), &[0.5, 1.5], 3));
    for return_documents in [true, false] {
        let body = json!({"query": "q", "documents": ["a"], "return_documents": return_documents});
        let request = parse_rerank(body.to_string().as_bytes()).unwrap();
        check("RerankResponse", &rerank_response(head(), request, &[0.5], 3));
    }
    let probs = vec![vec![0.25, 0.75], vec![0.0, 0.0, 1.0]];
    let labels = [text("no"), text("yes")];
    check("ClassifyResponse", &classify_response(head(), probs, &labels, 3));
}

#[test]
fn of_the_other_routes() {
    check("TokenizeResponse", &TokenizeResponse::new(vec![5], None, 8));
    check("TokenizeResponse", &TokenizeResponse::new(vec![5], Some(vec![text("a")]), 8));
    check("DetokenizeResponse", &DetokenizeResponse { prompt: text("a") });
    let generation_kwargs = json!({"max_new_tokens": 1}).as_object().unwrap().clone();
    check(
        "GenerateResponse",
        &GenerateResponse {
            model: text("m"),
            prompts: vec![text("a")],
            completions: vec![text("b")],
            generation_kwargs,
        },
    );
    let cards = [None, Some(9)].map(|len| ModelCardView::base("m", 1, len));
    check("Model", &cards[0]);
    check("ModelList", &ModelList { object: "list", data: cards.to_vec() });
    for error in [
        ApiError::malformed("", "x"),
        ApiError::unauthorized(),
        ApiError::forbidden_model("k", "m"),
        ApiError::unknown_model("x", &["m"]),
        ApiError::request_timeout("x"),
        ApiError::too_large("x"),
        ApiError::rate_limited("x"),
        ApiError::internal("x"),
        ApiError::replica_lost("x"),
        ApiError::unavailable("x"),
        ApiError::timeout("x"),
    ] {
        check("Error", &error.openai_body());
        check("AnthropicError", &error.anthropic_body());
        check("GenerateError", &error.generate_body());
    }
}
