"""Tools and structured outputs through the openai client."""

import json
import re

import openai
import pytest
from openai.lib.streaming.chat import ContentDeltaEvent, FunctionToolCallArgumentsDeltaEvent
from schemas import OPENAI_TOOLS, Town, Weather, check_call

QUESTION = [{"role": "user", "content": "How is the weather in Paris?"}]
NAMED = {"type": "function", "function": {"name": "ask"}}


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def asked(**change):
    base = dict(model="demo", messages=QUESTION, temperature=0, tools=OPENAI_TOOLS)
    return base | change


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_model_that_calls_no_tool_answers_in_text(client, choice):
    plain = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
    whole = client.chat.completions.create(**asked(tool_choice=choice))
    message = whole.choices[0].message
    assert message.tool_calls is None
    assert message.content == plain.choices[0].message.content
    chunks = client.chat.completions.create(**asked(tool_choice=choice), stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == message.content


@pytest.mark.parametrize(("choice", "names"), [("required", {"get_weather", "ask"}), (NAMED, {"ask"})])
def test_calls_that_are_asked_for_fit_their_schema_whole_and_streamed(client, choice, names):
    request = asked(tool_choice=choice, parallel_tool_calls=False)
    choice = client.chat.completions.create(**request).choices[0]
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id and call.function.name in names
    check_call(call.function.name, call.function.arguments)

    name, arguments, ids = "", "", set()
    chunks = list(client.chat.completions.create(**request, stream=True))
    for delta in (chunk.choices[0].delta for chunk in chunks):
        for part in delta.tool_calls or []:
            assert part.index == 0
            ids |= {part.id} - {None}
            name += part.function.name or ""
            arguments += part.function.arguments or ""
    assert (name, arguments) == (call.function.name, call.function.arguments)
    assert len(ids) == 1
    assert len(chunks) > 4, "the arguments come as they are made"
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_the_reason_of_a_finished_call(client, choice, reason):
    answer = client.chat.completions.create(**asked(tool_choice=choice, parallel_tool_calls=False))
    assert answer.choices[0].finish_reason == reason


def test_a_result_goes_back_and_the_model_goes_on(client):
    first = client.chat.completions.create(**asked(tool_choice="required", parallel_tool_calls=False))
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny."}
    answer = client.chat.completions.create(**asked(messages=[*QUESTION, message, result]))
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens


def test_the_clients_own_stream_collects_calls(client):
    tool = openai.pydantic_function_tool(Weather)
    events = []
    with client.chat.completions.stream(
        **asked(tools=[tool], tool_choice="required", parallel_tool_calls=False)
    ) as stream:
        events = [event for event in stream if isinstance(event, FunctionToolCallArgumentsDeltaEvent)]
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    assert "".join(event.arguments_delta for event in events) == call.function.arguments


def test_parse_gives_the_model_of_the_schema(client):
    request = dict(model="demo", messages=QUESTION, temperature=0, response_format=Town)
    parsed = client.chat.completions.parse(**request).choices[0].message
    assert isinstance(parsed.parsed, Town)
    with client.chat.completions.stream(**request) as stream:
        text = "".join(event.delta for event in stream if isinstance(event, ContentDeltaEvent))
    assert text == parsed.content


def test_json_object_is_an_object(client):
    answer = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        response_format={"type": "json_object"},
        seed=1,
        max_tokens=800,
    )
    choice = answer.choices[0]
    if choice.finish_reason == "length":
        assert choice.message.content.lstrip().startswith("{")
    else:
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize(
    ("extension", "pattern"),
    [
        ({"guided_choice": ["left", "right"]}, "left|right"),
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"structured_outputs": {"choice": ["left", "right"]}}, "left|right"),
        ({"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}}, "[0-9]{3}-[a-f]{2}"),
        ({"structured_outputs": {"grammar": 'root ::= "a" [bc] "d"'}}, "a[bc]d"),
        ({"guided_json": Town.model_json_schema()}, r'\{.*"name".*"kind".*"on_a_river".*\}'),
    ],
)
def test_extensions_bound_the_text(client, extension, pattern):
    chat = client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, extra_body=extension
    )
    assert re.fullmatch(pattern, chat.choices[0].message.content, re.DOTALL)
    plain = client.completions.create(
        model="demo", prompt="Hello", temperature=0, max_tokens=200, extra_body=extension
    )
    assert re.fullmatch(pattern, plain.choices[0].text, re.DOTALL)


@pytest.mark.parametrize(
    "change",
    [
        {"tools": None, "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}},
        {"extra_body": {"structured_outputs": {"regex": "("}}},
        {"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}},
    ],
)
def test_what_cannot_be_met_is_refused(client, change):
    request = {name: value for name, value in asked(**change).items() if value is not None}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**request)
    assert caught.value.body["message"]


def test_echo_scores_the_prompt(client):
    prompt = "Write a haiku about"
    answer = client.completions.create(
        model="demo", prompt=prompt, temperature=0, max_tokens=4, echo=True, logprobs=1
    )
    plain = client.completions.create(model="demo", prompt=prompt, temperature=0, max_tokens=4, logprobs=1)
    choice = answer.choices[0]
    assert choice.text == prompt + plain.choices[0].text
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert logprobs.text_offset == [
        sum(map(len, logprobs.tokens[:i])) for i in range(len(logprobs.tokens))
    ]
    made = len(plain.choices[0].logprobs.tokens)
    assert len(logprobs.tokens) == answer.usage.prompt_tokens + made
    assert logprobs.token_logprobs[-made:] == pytest.approx(
        plain.choices[0].logprobs.token_logprobs, abs=1e-3
    )


def test_prompts_may_be_token_ids_and_many(client, server):
    text = "Write a haiku"
    ids = openai.OpenAI(base_url=server.url, api_key="unused").post(
        "/tokenize", cast_to=object, body={"model": "demo", "prompt": text}
    )["tokens"]
    request = dict(model="demo", temperature=0, max_tokens=8)
    by_text = client.completions.create(**request, prompt=text).choices[0].text
    by_ids = client.completions.create(**request, prompt=ids).choices[0].text
    many = client.completions.create(**request, prompt=[ids, ids]).choices
    assert [by_text] * 3 == [by_ids, *(choice.text for choice in many)]
    assert [choice.index for choice in many] == [0, 1]
