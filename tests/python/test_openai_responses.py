"""The Responses API through the openai client."""

import openai
import pytest
from schemas import HAIKU, TOOLS, Town, check_call


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def tools(strict=True):
    return [
        {
            "type": "function",
            "name": name,
            "description": model.__doc__,
            "parameters": model.model_json_schema(),
            "strict": strict,
        }
        for name, model in TOOLS.items()
    ]


def test_an_answer_has_text_and_usage_and_is_that_of_chat(client):
    answer = client.responses.create(model="demo", input=HAIKU, temperature=0)
    chat = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": HAIKU}], temperature=0
    )
    assert answer.status == "completed" and answer.id.startswith("resp_")
    assert answer.output_text == chat.choices[0].message.content
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_a_stream_opens_and_closes_every_part_and_says_the_same(client):
    request = dict(model="demo", input=HAIKU, temperature=0)
    whole = client.responses.create(**request)
    events = list(client.responses.create(**request, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    last = events[-1].response
    assert text == last.output_text == whole.output_text
    assert last.usage.output_tokens == whole.usage.output_tokens


def test_the_clients_own_stream_ends_with_the_response(client):
    with client.responses.stream(model="demo", input=HAIKU, temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text != ""


def test_parse_gives_the_model_of_the_schema(client):
    answer = client.responses.parse(model="demo", input="A town", text_format=Town, temperature=0)
    assert isinstance(answer.output_parsed, Town)


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", set(TOOLS)), ({"type": "function", "name": "ask"}, {"ask"})],
)
def test_calls_that_are_asked_for_fit_their_schema_whole_and_streamed(client, choice, names):
    request = dict(
        model="demo",
        input="How is the weather in Paris?",
        tools=tools(),
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0,
    )
    answer = client.responses.create(**request)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name in names and call.call_id and call.status == "completed"
    check_call(call.name, call.arguments)

    events = list(client.responses.create(**request, stream=True))
    deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert "".join(e.delta for e in deltas) == done.arguments == call.arguments
    assert {e.item_id for e in deltas} == {done.item_id}
    (last,) = [item for item in events[-1].response.output if item.type == "function_call"]
    assert (last.name, last.arguments) == (call.name, call.arguments)

    followed = client.responses.create(
        model="demo",
        previous_response_id=answer.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}],
        tools=tools(),
        temperature=0,
        max_output_tokens=16,
    )
    assert followed.usage.input_tokens > answer.usage.input_tokens


def test_answers_are_kept_until_they_are_deleted(client):
    answer = client.responses.create(model="demo", input="Hello", temperature=0)
    kept = client.responses.retrieve(answer.id)
    assert kept.output_text == answer.output_text and kept.usage == answer.usage
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    passing = client.responses.create(model="demo", input="Hello", temperature=0, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(passing.id)


def test_a_conversation_goes_on_from_an_answer(client):
    first = client.responses.create(model="demo", input="Hello", temperature=0)
    second = client.responses.create(
        model="demo", input=HAIKU, previous_response_id=first.id, temperature=0
    )
    whole = client.responses.create(
        model="demo",
        input=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": HAIKU},
        ],
        temperature=0,
    )
    assert second.previous_response_id == first.id
    assert second.output_text == whole.output_text
    assert second.usage.input_tokens == whole.usage.input_tokens


def test_an_answer_that_was_cut_says_so(client):
    answer = client.responses.create(model="demo", input=HAIKU, temperature=0, max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "demmo"}, openai.NotFoundError),
        ({"previous_response_id": "resp_unknown"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"max_output_tokens": 0}, openai.BadRequestError),
        ({"input": [{"type": "no_such_item"}]}, openai.BadRequestError),
        ({"input": "word " * 20_000}, openai.BadRequestError),
    ],
)
def test_bad_requests_raise_the_clients_own_errors(client, change, error):
    with pytest.raises(error) as caught:
        client.responses.create(**(dict(model="demo", input="Hi") | change))
    assert caught.value.body["message"]
