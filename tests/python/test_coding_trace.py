"""Twenty turns of a coding assistant: each one computes what is new in it, and little else.

The conversation grows with each turn, tools answer with hundreds of tokens, and the system prompt
begins with a line that differs from request to request. The usage of each answer says how many
tokens of its prompt came from the cache.
"""

import hashlib
import json
from dataclasses import dataclass

import anthropic
import openai
import pytest
from checkpoints import demo_with_a_long_context
from serving import serving

TURNS = 20
SYSTEM = "You help with a program. " + " ".join(
    f"Rule {i}: read a file before you change it, and say which line you changed." for i in range(40)
)
PARAMETERS = {
    "read_file": {"path": {"enum": ["src/a.rs", "src/b.rs"]}, "line": {"type": "integer", "enum": [1, 100]}},
    "run_command": {"command": {"enum": ["cargo test", "cargo build"]}},
    "edit_file": {"path": {"enum": ["src/a.rs", "src/b.rs"]}, "text": {"type": "string", "maxLength": 24}},
}


@dataclass
class Turn:
    """What the usage of one answer says about its prompt, in tokens."""

    prompt: int
    cached: int


def billing(turn: int) -> str:
    """The line that no two requests share."""
    digest = hashlib.sha256(str(turn).encode()).hexdigest()[:5]
    return f"x-anthropic-billing-header: cc_version=2.1.{turn}; cc_entrypoint=cli; cch={digest};"


def output(turn: int) -> str:
    """What a tool says: some hundreds of tokens, never the same twice."""
    return "\n".join(f"{turn}.{line}: let value_{line} = read({turn * line});" for line in range(20))


def schema(name: str) -> dict:
    fields = PARAMETERS[name]
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def anthropic_trace(url: str):
    """Streams over /v1/messages; a tool is called in three turns of four."""
    client = anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0)
    tools = [{"name": n, "description": f"Does {n}.", "input_schema": schema(n)} for n in PARAMETERS]
    messages = [{"role": "user", "content": [{"type": "text", "text": "Make the tests pass."}]}]
    for turn in range(TURNS):
        choice = {"type": "auto"} if turn % 4 == 3 else {"type": "any", "disable_parallel_tool_use": True}
        with client.messages.stream(
            model="long",
            max_tokens=100,
            system=[
                {"type": "text", "text": billing(turn)},
                {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}},
            ],
            tools=tools,
            tool_choice=choice,
            messages=messages,
            extra_body={"temperature": 0},
        ) as stream:
            answer = stream.get_final_message()
        usage = answer.usage
        yield Turn(usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": output(turn)}]}
            for block in answer.content
            if block.type == "tool_use"
        ]
        content = answer.content or [{"type": "text", "text": "."}]
        messages = [
            *messages,
            {"role": "assistant", "content": content},
            {"role": "user", "content": results or [{"type": "text", "text": output(turn)}]},
        ]


def openai_trace(url: str):
    """The same over /v1/chat/completions."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    tools = [
        {"type": "function", "function": {"name": n, "description": f"Does {n}.", "parameters": schema(n)}}
        for n in PARAMETERS
    ]
    messages = [{"role": "user", "content": "Make the tests pass."}]
    for turn in range(TURNS):
        answer = client.chat.completions.create(
            model="long",
            max_tokens=100,
            temperature=0,
            tools=tools,
            tool_choice="auto" if turn % 4 == 3 else "required",
            parallel_tool_calls=False,
            messages=[{"role": "system", "content": f"{billing(turn)}\n{SYSTEM}"}, *messages],
        )
        usage = answer.usage
        yield Turn(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens)
        message = answer.choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": output(turn)}
            for call in message.tool_calls or []
        ]
        messages = [*messages, message, *(results or [{"role": "user", "content": output(turn)}])]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "long"
    model = str(demo_with_a_long_context(folder, 32_768))
    home = tmp_path_factory.mktemp("home")
    with serving(home, model, "--min-replicas", "1", "--tool-call-parser", "hermes") as server:
        yield server.url


@pytest.mark.parametrize("trace", [anthropic_trace, openai_trace])
def test_a_turn_computes_what_is_new_in_it(url, trace):
    turns = list(trace(url))
    assert len(turns) == TURNS
    table = json.dumps([(turn.prompt, turn.cached) for turn in turns])
    for before, now in zip(turns, turns[1:], strict=False):
        new = now.prompt - before.prompt
        assert 200 < new < 1500, table
        again = now.prompt - now.cached - new
        assert again < 0.05 * now.prompt, table
