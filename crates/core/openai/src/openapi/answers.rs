//! What is answered. Objects are closed: a field that an answer has and its schema does not fails a
//! test.

use super::schema::{
    Properties, answer, any_of, bool, count, counted, list, null, object, one_of, or_null,
    reference, string, token_id, told,
};
use serde_json::{Value, json};
use tyndall_types::FinishReason;

fn number() -> Value {
    json!({"type": "number"})
}

/// The schemas, each with its name.
pub(super) fn all() -> Properties {
    let mut all = chat();
    all.extend(responses());
    all.extend(anthropic());
    all.extend(pooling());
    all.extend(others());
    all
}

fn usage() -> Value {
    answer(
        vec![
            ("prompt_tokens", counted()),
            ("total_tokens", counted()),
            ("completion_tokens", counted()),
            ("prompt_tokens_details", answer(vec![("cached_tokens", counted())], &[])),
            ("completion_tokens_details", answer(vec![("reasoning_tokens", counted())], &[])),
        ],
        &["prompt_tokens_details", "completion_tokens_details"],
    )
}

fn token_logprob() -> Value {
    let bytes = || list(count(0, 255));
    let top = vec![("token", string()), ("logprob", number()), ("bytes", bytes())];
    answer(
        vec![
            ("token", string()),
            ("logprob", or_null(number())),
            ("bytes", bytes()),
            ("top_logprobs", list(answer(top, &[]))),
        ],
        &[],
    )
}

fn finish_reason() -> Value {
    let reasons = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::Repetition,
        FinishReason::Abort,
        FinishReason::Error,
    ];
    let mut words = reasons.map(FinishReason::as_str).to_vec();
    words.push("tool_calls");
    or_null(one_of(&words))
}

/// What matched.
fn stop_reason() -> Value {
    any_of([token_id(), string(), null()])
}

/// `vLLM`'s: token ids to what is known of them, and nothing for the first token.
fn prompt_logprobs() -> Value {
    let known = vec![
        ("logprob", number()),
        ("rank", or_null(counted())),
        ("decoded_token", or_null(string())),
    ];
    let token =
        json!({"type": ["object", "null"], "additionalProperties": object(known, &["logprob"])});
    list(token)
}

fn chat() -> Properties {
    let function = answer(vec![("name", string()), ("arguments", string())], &[]);
    let call = answer(
        vec![("id", string()), ("type", one_of(&["function"])), ("function", function)],
        &[],
    );
    let message = answer(
        vec![
            ("role", one_of(&["assistant"])),
            ("content", or_null(string())),
            ("refusal", null()),
            ("annotations", null()),
            ("audio", null()),
            ("function_call", null()),
            ("reasoning", or_null(string())),
            ("reasoning_content", or_null(string())),
            ("tool_calls", list(call)),
        ],
        &["tool_calls"],
    );
    let logprobs = answer(vec![("content", list(reference("TokenLogprob")))], &[]);
    let choice = answer(
        vec![
            ("index", counted()),
            ("message", message),
            ("logprobs", or_null(logprobs)),
            ("finish_reason", finish_reason()),
            ("stop_reason", stop_reason()),
            ("token_ids", list(token_id())),
        ],
        &["token_ids"],
    );
    let chat = answer(
        vec![
            ("id", string()),
            ("object", one_of(&["chat.completion"])),
            ("created", counted()),
            ("model", string()),
            ("choices", list(choice)),
            ("service_tier", null()),
            ("system_fingerprint", null()),
            ("usage", reference("Usage")),
            ("prompt_logprobs", prompt_logprobs()),
            ("prompt_token_ids", list(token_id())),
        ],
        &["prompt_logprobs", "prompt_token_ids"],
    );
    vec![
        ("Usage", usage()),
        ("TokenLogprob", token_logprob()),
        ("ChatResponse", chat),
        ("CompletionResponse", completion()),
    ]
}

fn completion() -> Value {
    let top = json!({"type": ["object", "null"], "additionalProperties": {"type": "number"}});
    let logprobs = answer(
        vec![
            ("text_offset", list(counted())),
            ("tokens", list(string())),
            ("token_logprobs", list(or_null(number()))),
            ("top_logprobs", list(top)),
        ],
        &[],
    );
    let choice = answer(
        vec![
            ("index", counted()),
            ("text", string()),
            ("logprobs", or_null(logprobs)),
            ("finish_reason", finish_reason()),
            ("stop_reason", stop_reason()),
            ("token_ids", list(token_id())),
            ("prompt_logprobs", prompt_logprobs()),
            ("prompt_token_ids", list(token_id())),
        ],
        &["token_ids", "prompt_logprobs", "prompt_token_ids"],
    );
    answer(
        vec![
            ("id", string()),
            ("object", one_of(&["text_completion"])),
            ("created", counted()),
            ("model", string()),
            ("choices", list(choice)),
            ("usage", reference("Usage")),
            ("system_fingerprint", null()),
        ],
        &[],
    )
}

fn output_item() -> Value {
    let status = || one_of(&["in_progress", "completed", "incomplete"]);
    let part = vec![("type", one_of(&["reasoning_text"])), ("text", string())];
    let reasoning = answer(
        vec![
            ("id", string()),
            ("type", one_of(&["reasoning"])),
            ("summary", list(json!({}))),
            ("content", list(answer(part, &[]))),
            ("status", status()),
            ("encrypted_content", string()),
        ],
        &["encrypted_content"],
    );
    let part = vec![
        ("type", one_of(&["output_text"])),
        ("text", string()),
        ("annotations", list(json!({}))),
        ("logprobs", list(reference("TokenLogprob"))),
    ];
    let message = answer(
        vec![
            ("id", string()),
            ("type", one_of(&["message"])),
            ("status", status()),
            ("role", one_of(&["assistant"])),
            ("content", list(answer(part, &[]))),
        ],
        &[],
    );
    let call = |kind, argument| {
        answer(
            vec![
                ("id", string()),
                ("type", one_of(&[kind])),
                ("status", status()),
                ("call_id", string()),
                ("name", string()),
                (argument, string()),
                ("namespace", string()),
            ],
            &["namespace"],
        )
    };
    let calls = [call("function_call", "arguments"), call("custom_tool_call", "input")];
    any_of([reasoning, message].into_iter().chain(calls))
}

fn responses_usage() -> Value {
    let cached = vec![("cached_tokens", counted()), ("cache_write_tokens", counted())];
    answer(
        vec![
            ("input_tokens", counted()),
            ("input_tokens_details", answer(cached, &[])),
            ("output_tokens", counted()),
            ("output_tokens_details", answer(vec![("reasoning_tokens", counted())], &[])),
            ("total_tokens", counted()),
        ],
        &[],
    )
}

fn responses() -> Properties {
    let any = || json!({});
    let error = answer(vec![("code", string()), ("message", string())], &[]);
    let details = answer(vec![("reason", string())], &[]);
    let reasoning = answer(vec![("effort", any()), ("summary", any())], &[]);
    let response = answer(
        vec![
            ("id", string()),
            ("object", one_of(&["response"])),
            ("created_at", counted()),
            ("status", one_of(&["completed", "incomplete", "failed", "in_progress"])),
            ("background", json!({"enum": [false]})),
            ("error", or_null(error)),
            ("incomplete_details", or_null(details)),
            ("model", string()),
            ("output", list(output_item())),
            ("usage", or_null(responses_usage())),
            ("instructions", or_null(string())),
            ("max_output_tokens", or_null(counted())),
            ("max_tool_calls", or_null(counted())),
            ("parallel_tool_calls", bool()),
            ("previous_response_id", or_null(string())),
            ("prompt_cache_key", any()),
            ("reasoning", reasoning),
            ("safety_identifier", any()),
            ("service_tier", one_of(&["default"])),
            ("store", bool()),
            ("temperature", or_null(number())),
            ("text", json!({"type": "object"})),
            ("tool_choice", json!({"type": ["string", "object"]})),
            ("tools", list(json!({"type": "object"}))),
            ("top_logprobs", counted()),
            ("top_p", or_null(number())),
            ("truncation", string()),
            ("user", any()),
            ("metadata", json!({"type": "object"})),
        ],
        &[],
    );
    let id = || any_of([string(), null()]);
    let items = answer(
        vec![
            ("object", one_of(&["list"])),
            ("data", list(json!({"type": "object"}))),
            ("first_id", id()),
            ("last_id", id()),
            ("has_more", bool()),
        ],
        &[],
    );
    let deleted = answer(
        vec![
            ("id", string()),
            ("object", one_of(&["response"])),
            ("deleted", json!({"enum": [true]})),
        ],
        &[],
    );
    vec![("Response", response), ("InputItems", items), ("DeletedResponse", deleted)]
}

fn anthropic() -> Properties {
    let block = |kind, mut more: Properties| {
        let mut properties = vec![("type", one_of(&[kind]))];
        properties.append(&mut more);
        answer(properties, &[])
    };
    let call = vec![("id", string()), ("name", string()), ("input", json!({"type": "object"}))];
    let content = any_of([
        block("thinking", vec![("thinking", string()), ("signature", string())]),
        block("text", vec![("text", string())]),
        block("tool_use", call),
    ]);
    let usage = answer(
        vec![
            ("input_tokens", counted()),
            ("cache_creation_input_tokens", counted()),
            ("cache_read_input_tokens", counted()),
            ("output_tokens", counted()),
        ],
        &[],
    );
    let reasons = ["end_turn", "max_tokens", "stop_sequence", "tool_use"];
    let message = answer(
        vec![
            ("id", string()),
            ("type", one_of(&["message"])),
            ("role", one_of(&["assistant"])),
            ("model", string()),
            ("content", list(content)),
            ("stop_reason", or_null(one_of(&reasons))),
            ("stop_sequence", or_null(string())),
            ("usage", usage),
        ],
        &[],
    );
    let counted = answer(vec![("input_tokens", counted())], &[]);
    vec![("MessagesResponse", message), ("CountTokensResponse", counted)]
}

fn pooling() -> Properties {
    let of = |data: Properties| {
        answer(
            vec![
                ("id", string()),
                ("object", one_of(&["list"])),
                ("created", counted()),
                ("model", string()),
                ("data", list(answer(data, &[]))),
                ("usage", reference("Usage")),
            ],
            &[],
        )
    };
    let base64 = told(string(), "Base64 of little-endian 32-bit floats.");
    let embeddings = of(vec![
        ("index", counted()),
        ("object", one_of(&["embedding"])),
        ("embedding", any_of([list(number()), base64])),
    ]);
    let score = of(vec![("index", counted()), ("object", one_of(&["score"])), ("score", number())]);
    let classes = of(vec![
        ("index", counted()),
        ("label", or_null(string())),
        ("probs", list(number())),
        ("num_classes", counted()),
    ]);
    let result = answer(
        vec![
            ("index", counted()),
            ("document", answer(vec![("text", string())], &[])),
            ("relevance_score", number()),
        ],
        &["document"],
    );
    let rerank = answer(
        vec![
            ("id", string()),
            ("model", string()),
            ("usage", reference("Usage")),
            ("results", list(result)),
        ],
        &[],
    );
    vec![
        ("EmbeddingsResponse", embeddings),
        ("ScoreResponse", score),
        ("RerankResponse", rerank),
        ("ClassifyResponse", classes),
    ]
}

fn others() -> Properties {
    let tokens = answer(
        vec![
            ("count", counted()),
            ("max_model_len", counted()),
            ("tokens", list(token_id())),
            ("token_strs", or_null(list(string()))),
        ],
        &[],
    );
    let generated = answer(
        vec![
            ("model", string()),
            ("prompts", list(string())),
            ("completions", list(string())),
            ("generation_kwargs", json!({"type": "object"})),
        ],
        &[],
    );
    let card = answer(
        vec![
            ("id", string()),
            ("object", one_of(&["model"])),
            ("created", counted()),
            ("owned_by", string()),
            ("root", string()),
            ("parent", or_null(string())),
            ("max_model_len", or_null(counted())),
            ("permission", list(json!({}))),
        ],
        &[],
    );
    let models = vec![("object", one_of(&["list"])), ("data", list(reference("Model")))];
    let status = vec![("status", one_of(&["ok", "starting"])), ("model", or_null(string()))];
    vec![
        ("TokenizeResponse", tokens),
        ("DetokenizeResponse", answer(vec![("prompt", string())], &[])),
        ("GenerateResponse", generated),
        ("Model", card),
        ("ModelList", answer(models, &[])),
        ("Healthz", answer(status, &[])),
        ("Version", answer(vec![("version", string())], &[])),
    ]
}

/// Errors in the words of each API.
pub(super) fn errors() -> Properties {
    let error = answer(
        vec![
            ("message", string()),
            ("type", string()),
            ("param", or_null(string())),
            ("code", json!({"type": "integer"})),
        ],
        &[],
    );
    let kinds = [
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "overloaded_error",
        "api_error",
    ];
    let inner = answer(vec![("type", one_of(&kinds)), ("message", string())], &[]);
    let anthropic = answer(vec![("type", one_of(&["error"])), ("error", inner)], &[]);
    let plain = answer(vec![("error", string())], &[]);
    vec![
        ("Error", answer(vec![("error", error)], &[])),
        ("AnthropicError", anthropic),
        ("GenerateError", plain),
    ]
}
