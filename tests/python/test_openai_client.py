"""The openai client, unmodified, against the demo model."""

import asyncio
import concurrent.futures
import re

import openai
import pytest

HAIKU = "Write a haiku about Ray Serve."


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def test_models_are_listed(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_chat_answers_with_usage(client):
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": HAIKU}], temperature=0
    )
    choice = answer.choices[0]
    assert len(choice.message.content.strip().splitlines()) == 3
    assert choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-")


def test_a_chat_stream_says_the_same(client):
    request = dict(model="demo", messages=[{"role": "user", "content": HAIKU}], temperature=0)
    whole = client.chat.completions.create(**request)
    chunks = list(
        client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_completions_with_n_seed_and_logprobs(client):
    def create(seed):
        return client.completions.create(
            model="demo", prompt=HAIKU, n=3, seed=seed, temperature=1.0, max_tokens=12, logprobs=2
        )

    first, again, other = create(7), create(7), create(8)
    texts = [[choice.text for choice in answer.choices] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    logprobs = first.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert first.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in first.choices)


def test_chat_logprobs(client):
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        max_tokens=4,
        logprobs=True,
        top_logprobs=3,
    )
    content = answer.choices[0].logprobs.content
    assert content and all(len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.token == entry.top_logprobs[0].token for entry in content)


def test_stop_strings_end_the_text(client):
    whole = client.completions.create(model="demo", prompt=HAIKU, temperature=0, max_tokens=64)
    first_line = whole.choices[0].text.strip("\n").splitlines()[0]
    cut = first_line[len(first_line) // 2 :][:4]
    answer = client.completions.create(
        model="demo", prompt=HAIKU, temperature=0, max_tokens=64, stop=[cut]
    )
    text = whole.choices[0].text
    assert answer.choices[0].text == text[: text.index(cut)]
    assert answer.choices[0].finish_reason == "stop"


def test_max_tokens_is_length(client):
    answer = client.completions.create(model="demo", prompt=HAIKU, temperature=0, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_requests_side_by_side_do_not_change_each_other(client):
    def ask(i):
        answer = client.completions.create(
            model="demo", prompt=HAIKU, temperature=1.0, seed=i % 4, max_tokens=24
        )
        return answer.choices[0].text

    alone = [ask(i) for i in range(4)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(32)))
    assert together == alone * 8


def test_many_parallel_streams_say_what_one_says(server, client):
    request = dict(model="demo", messages=[{"role": "user", "content": HAIKU}], temperature=0)
    whole = client.chat.completions.create(**request).choices[0].message.content

    async def ask(many, leaves):
        stream = await many.chat.completions.create(**request, stream=True)
        async with stream:
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                if leaves and text:
                    return None
        return text

    async def ask_all():
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as many:
            return await asyncio.gather(*(ask(many, i % 8 == 7) for i in range(64)))

    texts = asyncio.run(ask_all())
    assert [text for text in texts if text is not None] == [whole] * 56


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "demmo"}, openai.NotFoundError),
        ({"messages": []}, openai.BadRequestError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"max_tokens": 0}, openai.BadRequestError),
        ({"n": 0}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, openai.BadRequestError),
    ],
)
def test_bad_requests_raise_the_clients_own_errors(client, change, error):
    request = dict(model="demo", messages=[{"role": "user", "content": "Hi"}]) | change
    with pytest.raises(error) as caught:
        client.chat.completions.create(**request)
    assert caught.value.body["message"]


def test_a_prompt_that_is_too_long_names_both_numbers(client):
    limit = client.models.retrieve("demo").model_dump()["max_model_len"]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="word " * 20_000)
    numbers = [int(number) for number in re.findall(r"\d+", caught.value.body["message"])]
    assert limit in numbers and any(number > limit for number in numbers), caught.value.body
