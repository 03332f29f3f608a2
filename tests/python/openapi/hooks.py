"""Answers are kept short, and what is refused though its schema allows it must be one of these rules."""

import atexit
import json
import os
import re
import zlib
from pathlib import Path

import schemathesis

# As of BEYOND in crates/core/openai/src/openapi/tests.rs, and what only a model can tell.
RULES = [
    "exclude each other|excludes echo|cannot both be true|cannot be told in a stream",
    "is only allowed with stream: true|needs logprobs: true|must be 1 when temperature is 0",
    "must not be larger than|times n must not be more than|must be less than max_tokens",
    "tool_choice (needs tools|names|asks for a call)|must have different names",
    "suffix needs text prompts|max_tokens must be an integer of at least 1, got 0",
    "logit_bias keys must be token ids|cache_salt must have 1 to 128 bytes|input must not be empty",
    "system messages without text are nothing|continue_final_message is set, but the final message",
    "must be a JSON schema, an object, got \"|must be an object, or its JSON text, got \"",
    "structural_tag: |response_format: |must hold one text or as many as",
    r"generation_kwargs\..* must be .*got \"",
    '"param":"structured_outputs"|"message":"at ',
    "does not support the '(embed|score|classify)' task",
    "maximum context length|must hold token ids below|the prompt has no tokens",
    "has no chat template|dimensions must be [0-9]+|cannot be read: [0-9]+ tokens|tokens are too few",
    "is outside the (model's )?vocabulary|no token is possible",
]
# Of the bodies that fit, how many were refused and how many answered.
COUNTS: dict[str, list[int]] = {}
atexit.register(lambda: Path(os.environ["OPENAPI_COUNTS"]).write_text(json.dumps(COUNTS)))

SHORT = 3
FEWER_TOKENS = 2000
MOST = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
STRUCTURES = ["response_format", "structured_outputs", "output_format", "output_config", "text"]
STRUCTURES += ["guided_json", "guided_regex", "guided_choice", "guided_grammar"]

PAIRS = ["queries", "documents", "items", "text_1", "text_2", "data_1", "data_2"]


def is_positive(case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes good bodies short work, and spares most of them what the rules between fields would refuse."""
    body = case.body
    if not (is_positive(case) and isinstance(body, dict)):
        return
    # Some are left as they are, for the rules.
    if zlib.crc32(repr(sorted(body)).encode()) % 8:
        spare(body)
    if name := MOST.get(case.path):
        body[name] = min(body[name], SHORT) if isinstance(body.get(name), int) else SHORT


def spare(body):
    """Changes what several fields say together."""
    for name in ("best_of", "suffix", "min_tokens", "previous_response_id", "dimensions"):
        body.pop(name, None)
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("top_logprobs"):
        body["logprobs"] = True
    if body.get("stream"):
        body.pop("prompt_logprobs", None)
    if (body.get("temperature") or 1) < 1e-5:
        body["n"] = 1
    if body.get("max_tokens") == 0:
        body["echo"] = True
    if body.get("truncate_prompt_tokens"):
        body["truncate_prompt_tokens"] = -1
    for name in ("prompt", "prompts", "input", "query", *PAIRS):
        if body.get(name) in ("", [""], []):
            body[name] = ["a"] if name == "documents" else "a"
    for name, value in (body.get("generation_kwargs") or {}).items():
        if isinstance(value, str) and name != "stop":
            body["generation_kwargs"][name] = "1"
    for name in [name for name in STRUCTURES if body.get(name) is not None][1:]:
        del body[name]
    for name in ("allowed_token_ids", "stop_token_ids", "logprob_token_ids", "tokens"):
        if body.get(name):
            body[name] = [token % FEWER_TOKENS for token in body[name]]
    if body.get("allowed_token_ids"):
        for name in STRUCTURES:
            body.pop(name, None)
    tools = body.get("tools")
    if not tools or isinstance(body.get("tool_choice"), dict):
        body.pop("tool_choice", None)
    if (body.get("thinking") or {}).get("type") == "enabled":
        del body["thinking"]
    if (body.get("output_format") or {}).get("schema") is False:
        del body["output_format"]


@schemathesis.check
def what_is_refused_is_beyond_a_schema(ctx, response, case):
    """A body that fits its schema is answered, or a rule says why not."""
    if not is_positive(case) or case.method != "POST":
        return
    counts = COUNTS.setdefault(case.path, [0, 0])
    counts[response.status_code == 200] += 1
    if response.status_code != 400:
        return
    text = response.text
    if not any(re.search(rule, text.replace('\\"', '"')) for rule in RULES):
        raise AssertionError(f"refused, and the document does not say why: {text}")
