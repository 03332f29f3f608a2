mod answers;
mod sample;
mod validate;

use super::{openapi, schemas};
use crate::fields::asked;
use crate::{
    ApiError, parse_chat, parse_classify, parse_completion, parse_count_tokens, parse_detokenize,
    parse_embeddings, parse_generate, parse_messages, parse_rerank, parse_responses, parse_score,
    parse_tokenize,
};
use sample::Sampler;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use tyndall_types::protocol::GenerateDefaults;
use validate::{fits, resolved};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| openapi("/", true));

type Parser = fn(&[u8]) -> Result<(), ApiError>;

const DEFAULTS: GenerateDefaults =
    GenerateDefaults { max_new_tokens: 256, temperature: 0.7, top_p: 0.9 };

/// The schema of each request, and what reads it.
const READERS: [(&str, Parser); 12] = [
    ("ChatRequest", |body| parse_chat(body).map(drop)),
    ("CompletionRequest", |body| parse_completion(body).map(drop)),
    ("ResponsesRequest", |body| parse_responses(body).map(drop)),
    ("MessagesRequest", |body| parse_messages(body).map(drop)),
    ("CountTokensRequest", |body| parse_count_tokens(body).map(drop)),
    ("EmbeddingsRequest", |body| parse_embeddings(body).map(drop)),
    ("ScoreRequest", |body| parse_score(body).map(drop)),
    ("RerankRequest", |body| parse_rerank(body).map(drop)),
    ("ClassifyRequest", |body| parse_classify(body).map(drop)),
    ("TokenizeRequest", |body| parse_tokenize(body).map(drop)),
    ("DetokenizeRequest", |body| parse_detokenize(body).map(drop)),
    ("GenerateRequest", |body| parse_generate(body, &DEFAULTS).map(drop)),
];

/// What is refused though its schema allows it: rules between fields, and what is inside of text.
/// The descriptions of the fields say them.
const BEYOND: [&str; 29] = [
    "stream_options is only allowed with stream: true",
    "top_logprobs needs logprobs: true",
    "n must be 1 when temperature is 0",
    "best_of must not be larger than n",
    "min_tokens must not be larger than max_tokens",
    "prompts times n must not be more than",
    "prompt_logprobs cannot be told in a stream",
    "exclude each other",
    "continue_final_message and add_generation_prompt cannot both be true",
    "tool_choice needs tools",
    "tool_choice names",
    "tool_choice asks for a call",
    "suffix excludes echo",
    "suffix needs text prompts",
    "max_tokens must be an integer of at least 1, got 0",
    "min_pattern_size must not be larger than max_pattern_size",
    "must have different names",
    "logit_bias keys must be token ids",
    "cache_salt must have 1 to 128 bytes",
    "must be a JSON schema, an object, got \"",
    "must be an object, or its JSON text, got \"",
    "structural_tag: ",
    "response_format: ",
    "thinking.budget_tokens must be less than max_tokens",
    "input must not be empty",
    "system messages without text are nothing",
    "must hold one text or as many as",
    "generation_kwargs.… must be a… got \"",
    "min_new_tokens must not be larger than max_new_tokens",
];

/// Whether the message has all parts of the rule.
fn is_of(message: &str, rule: &str) -> bool {
    rule.split('…').all(|part| message.contains(part))
}

/// Bodies for each parser.
const ROUNDS: u64 = 8000;

#[test]
fn what_the_document_says_of_requests_is_what_the_parsers_do() {
    let document = &*DOCUMENT;
    let mut met = BTreeSet::new();
    for (name, parse) in READERS {
        let schema = &document["components"]["schemas"][name];
        let (mut accepted, mut refused) = (0, 0);
        asked::take();
        for round in 0..ROUNDS {
            let odd = [0, 0, 30, 90][(round % 4) as usize];
            // Few fields at most times, so that rules between them do not hide all others.
            let fields = [3, 3, 12, 3, 3, 30][(round % 6) as usize];
            let body = Sampler::new(document, round, odd, fields).value(schema);
            let is_said = fits(document, schema, &body);
            match parse(body.to_string().as_bytes()) {
                Ok(()) if is_said => accepted += 1,
                Ok(()) => panic!("{name} accepts what the document forbids: {body}"),
                Err(error) if is_said => {
                    let rule = BEYOND.iter().find(|rule| is_of(&error.message, rule));
                    let rule = rule.unwrap_or_else(|| panic!("{name}: {error}: {body}"));
                    met.insert(*rule);
                }
                Err(error) => {
                    assert_eq!(error.status, 400, "{body}");
                    refused += 1;
                }
            }
        }
        assert!(accepted > ROUNDS / 8 && refused > ROUNDS / 20, "{name}: {accepted}, {refused}");
        same_fields(name, document, schema, &asked::take());
    }
    let unmet: Vec<&&str> = BEYOND.iter().filter(|rule| !met.contains(**rule)).collect();
    assert!(unmet.is_empty(), "rules that no body met: {unmet:?}");
}

/// The document has the fields that the parser asks for, and no others.
fn same_fields(name: &str, document: &Value, schema: &Value, asked: &BTreeSet<String>) {
    let mut said = BTreeSet::new();
    collect(document, schema, "", &mut said);
    let missing: Vec<&String> = asked.difference(&said).collect();
    assert!(missing.is_empty(), "{name} reads what the document does not have: {missing:?}");
    let is_top = |path: &&String| !path.contains('.');
    let unread: Vec<&String> =
        said.iter().filter(is_top).filter(|path| !asked.contains(*path)).collect();
    assert!(unread.is_empty(), "the document of {name} has what nobody reads: {unread:?}");
}

/// The dotted names of fields, those inside of lists left out.
fn collect(document: &Value, schema: &Value, prefix: &str, said: &mut BTreeSet<String>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        collect(document, resolved(document, reference), prefix, said);
    }
    for form in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        collect(document, form, prefix, said);
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let path = format!("{prefix}{name}");
        collect(document, schema, &format!("{path}."), said);
        said.insert(path);
    }
}

#[test]
fn names_lead_somewhere_and_are_unique() {
    let document = openapi("/", false);
    let names: Vec<&str> = schemas().into_iter().map(|(name, _)| name).collect();
    let unique: BTreeSet<&&str> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    let text = document.to_string();
    let mut used = BTreeSet::new();
    for piece in text.split("\"$ref\":\"").skip(1) {
        let reference = piece.split('"').next().unwrap();
        resolved(&document, reference);
        used.insert(reference.rsplit('/').next().unwrap());
    }
    let unused: Vec<&&str> = names.iter().filter(|name| !used.contains(**name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
    let ids: Vec<&str> = text.split("\"operationId\":\"").skip(1).collect();
    let ids: Vec<&str> = ids.iter().map(|piece| piece.split('"').next().unwrap()).collect();
    let operations =
        super::routes::all().iter().filter(|operation| operation.links().is_some()).count();
    let unique: BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(unique.len() + 3 * operations, ids.len(), "links name operations once more");
}

#[test]
fn keys_and_prefixes_are_told() {
    let open = openapi("", false);
    assert_eq!((&open["servers"][0]["url"], open.get("security")), (&json!("/"), None));
    let chat = &open["paths"]["/v1/chat/completions"]["post"]["responses"];
    assert!(chat.get("401").is_none() && chat.get("504").is_some());
    let keyed = openapi("/m", true);
    assert_eq!(keyed["servers"][0]["url"], "/m");
    assert_eq!(keyed["security"], json!([{"bearer": []}, {"x-api-key": []}]));
    let chat = &keyed["paths"]["/v1/chat/completions"]["post"]["responses"];
    assert!(chat.get("401").is_some() && chat.get("403").is_some());
    assert_eq!(keyed["paths"]["/health"]["get"]["security"], json!([]));
    assert!(keyed["paths"].get("/metrics").is_none() && open["paths"].get("/metrics").is_some());
}
