"""The anthropic client, unmodified, against the demo model."""

import anthropic
import openai
import pytest
from schemas import HAIKU, TOOLS, check_call

ANTHROPIC_TOOLS = [
    {"name": name, "description": model.__doc__, "input_schema": model.model_json_schema()}
    for name, model in TOOLS.items()
]
REQUEST = dict(model="demo", max_tokens=200, messages=[{"role": "user", "content": HAIKU}])
# The client's methods have no parameter for the temperature; the API has.
REQUEST["extra_body"] = {"temperature": 0}


@pytest.fixture
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0)


def test_a_message_is_the_answer_of_chat(client, server):
    answer = client.messages.create(**REQUEST)
    chat = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused").chat.completions.create(**REQUEST)
    (block,) = answer.content
    assert (answer.type, answer.role, block.type) == ("message", "assistant", "text")
    assert block.text == chat.choices[0].message.content
    assert answer.stop_reason == "end_turn"
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens
    assert usage.output_tokens == chat.usage.completion_tokens


def test_a_stream_says_the_same(client):
    whole = client.messages.create(**REQUEST)
    with client.messages.stream(**REQUEST) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    events = [event.type for event in client.messages.create(**REQUEST, stream=True) if event.type != "ping"]
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(events[2:-3]) == {"content_block_delta"}


@pytest.mark.parametrize(
    ("choice", "names"), [({"type": "any"}, set(TOOLS)), ({"type": "tool", "name": "ask"}, {"ask"})]
)
def test_calls_that_are_asked_for_fit_their_schema_whole_and_streamed(client, choice, names):
    choice = choice | {"disable_parallel_tool_use": True}
    request = REQUEST | dict(tools=ANTHROPIC_TOOLS, tool_choice=choice)
    answer = client.messages.create(**request)
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use"
    assert call.id and call.name in names
    check_call(call.name, call.input)
    with client.messages.stream(**request) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    (streamed,) = [block for block in final.content if block.type == "tool_use"]
    assert (streamed.name, streamed.input) == (call.name, call.input)
    assert check_call(call.name, "".join(parts)).model_dump() == call.input

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    history = [
        *REQUEST["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    followed = client.messages.create(**(request | dict(messages=history, tool_choice={"type": "none"})))
    assert followed.content[0].type == "text"


@pytest.mark.parametrize("tools", [[], ANTHROPIC_TOOLS])
def test_counted_tokens_are_those_of_the_prompt(client, tools):
    request = dict(model="demo", system="Be brief.", messages=REQUEST["messages"])
    if tools:
        request["tools"] = tools
    counted = client.messages.count_tokens(**request)
    usage = client.messages.create(**request, max_tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_stop_sequences_and_limits_name_themselves(client):
    text = client.messages.create(**REQUEST).content[0].text
    word = text.split()[2]
    answer = client.messages.create(**REQUEST, stop_sequences=[word])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", word)
    assert answer.content[0].text == text[: text.index(word)]
    assert client.messages.create(**(REQUEST | {"max_tokens": 2})).stop_reason == "max_tokens"


def test_models_are_listed_whatever_the_key_is_called(client):
    listed = client.get("/v1/models", cast_to=object)
    assert [model["id"] for model in listed["data"]] == ["demo"]


@pytest.mark.parametrize(
    ("change", "error", "kind"),
    [
        ({"model": "demmo"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_raise_the_clients_own_errors(client, change, error, kind, stream):
    with pytest.raises(error) as caught:
        client.messages.create(**(REQUEST | change), stream=stream)
    body = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == kind and body["error"]["message"]
