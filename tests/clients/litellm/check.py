"""litellm: as a client of OpenAI, of a hosted vLLM and of Anthropic, and with its translation between them."""

import asyncio
import json

import litellm
from checks import MODEL, run, url
from schemas import HAIKU, OPENAI_TOOLS, TOOLS, check_call

MESSAGES = [{"role": "user", "content": HAIKU}]
BASE = dict(messages=MESSAGES, temperature=0, api_key="unused", max_retries=0)
# The three providers that speak to a server like ours, and where each wants the address to end.
OPENAI = dict(model=f"openai/{MODEL}", api_base=f"{url()}/v1")
VLLM = dict(model=f"hosted_vllm/{MODEL}", api_base=f"{url()}/v1")
ANTHROPIC = dict(model=f"anthropic/{MODEL}", api_base=url())
PROVIDERS = [OPENAI, VLLM, ANTHROPIC]
# It looks for the price of each message of Anthropic's, and logs an error where there is none.
COSTS = ["input_cost_per_token", "output_cost_per_token"]
COSTS += ["cache_creation_input_token_cost", "cache_read_input_token_cost"]
FREE = {"litellm_provider": "anthropic", "mode": "chat"} | dict.fromkeys(COSTS, 0)
litellm.register_model({ANTHROPIC["model"]: FREE})
litellm.suppress_debug_info = True
ANTHROPIC_TOOLS = [
    {"name": name, "description": model.__doc__, "input_schema": model.model_json_schema()}
    for name, model in TOOLS.items()
]


def ask(provider: dict, **change):
    return litellm.completion(**BASE | provider | dict(max_tokens=200) | change)


def chat():
    """chat"""
    answers = [ask(provider) for provider in PROVIDERS]
    texts = {answer.choices[0].message.content for answer in answers}
    assert len(texts) == 1 and "" not in texts, texts
    for answer in answers:
        assert answer.choices[0].finish_reason == "stop"
        usage = answer.usage
        assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert len({answer.usage.completion_tokens for answer in answers}) == 1


def stream():
    """stream"""
    for provider in PROVIDERS:
        whole = ask(provider)
        chunks = list(ask(provider, stream=True, stream_options={"include_usage": True}))
        assert len(chunks) > 4, "the text comes as it is made"
        built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
        assert built.choices[0].message.content == whole.choices[0].message.content
        assert built.choices[0].finish_reason == "stop"
        assert built.usage.completion_tokens == whole.usage.completion_tokens
        assert built.usage.prompt_tokens == whole.usage.prompt_tokens


def tools():
    """tools, whole and streamed, and their results"""
    for provider in PROVIDERS:
        request = dict(tools=OPENAI_TOOLS, tool_choice="required", parallel_tool_calls=False)
        choice = ask(provider, **request).choices[0]
        message = choice.message
        (call,) = message.tool_calls
        chunks = list(ask(provider, stream=True, **request))
        (streamed,) = litellm.stream_chunk_builder(chunks, messages=MESSAGES).choices[0].message.tool_calls
        assert streamed.function.name == call.function.name
        if choice.finish_reason == "length":
            # Its provider for vLLM takes `additionalProperties` out of a schema, and this model then goes on.
            assert provider is VLLM and streamed.function.arguments == call.function.arguments
        else:
            check_call(call.function.name, call.function.arguments)
            assert json.loads(streamed.function.arguments) == json.loads(call.function.arguments)
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
        answer = ask(provider, messages=[*MESSAGES, message.model_dump(), result], tools=OPENAI_TOOLS)
        assert answer.choices[0].finish_reason in ("stop", "length")


def completions():
    """text completions"""
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}",
        prompt="Write a haiku",
        api_base=f"{url()}/v1",
        api_key="unused",
        temperature=0,
        max_tokens=8,
    )
    assert answer.choices[0].text and answer.usage.completion_tokens <= 8


def anthropic_messages():
    """Anthropic's messages through its own translation to chat and to responses, and untranslated"""
    asyncio.run(each_provider_of_messages())


async def each_provider_of_messages() -> None:
    expected = ask(OPENAI).choices[0].message.content
    for provider in PROVIDERS:
        request = dict(messages=MESSAGES, max_tokens=200, temperature=0, api_key="unused") | provider
        whole = await litellm.anthropic.messages.acreate(**request)
        (block,) = whole["content"]
        assert block["text"] == expected, whole
        assert whole["stop_reason"] == "end_turn"
        events = await anthropic_events(request)
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        assert "".join(delta["text"] for delta in deltas) == expected
        assert events[0]["type"] == "message_start" and events[-1]["type"] == "message_stop"
        if provider is VLLM:
            continue  # schemas without `additionalProperties`, as above
        forced = request | dict(tools=ANTHROPIC_TOOLS, tool_choice={"type": "tool", "name": "ask"})
        answer = await litellm.anthropic.messages.acreate(**forced)
        (call,) = [block for block in answer["content"] if block["type"] == "tool_use"]
        assert call["name"] == "ask"
        check_call("ask", call["input"])


async def anthropic_events(request: dict) -> list[dict]:
    """The events of a stream of Anthropic's, which reach us as dictionaries or as bytes of the protocol."""
    raw = b""
    events = []
    async for part in await litellm.anthropic.messages.acreate(**request, stream=True):
        if isinstance(part, dict):
            events.append(part)
        else:
            raw += part
    lines = [line for line in raw.decode().splitlines() if line.startswith("data: ")]
    return events + [json.loads(line.removeprefix("data: ")) for line in lines]


def errors():
    """errors by their class"""
    for provider in PROVIDERS:
        for change, expected in [
            (dict(model=f"{provider['model']}-not"), litellm.NotFoundError),
            (dict(messages=[{"role": "user", "content": "word " * 4000}]), litellm.BadRequestError),
        ]:
            try:
                ask(provider, **change)
            except expected:
                continue
            raise AssertionError(f"{provider['model']} {change}: no {expected.__name__}")


run(chat, stream, tools, completions, anthropic_messages, errors)
