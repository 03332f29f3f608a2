"""Embeddings, scores and ranks of a real model, by unmodified clients, against sentence-transformers' numbers."""

import json
import math
from pathlib import Path

import httpx
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

GOLDEN = json.loads((Path(__file__).parent / "minilm.json").read_text())
TEXTS, VECTORS = GOLDEN["texts"], GOLDEN["vectors"]
# The last one is cut by the reference, and refused where nobody asked for that.
SHORT = TEXTS[:-1]
CUT = {"truncate_prompt_tokens": -1}


@pytest.fixture
def client(minilm):
    return openai.OpenAI(base_url=f"{minilm.url}/v1", api_key="unused", max_retries=0)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"])
def test_vectors_are_those_of_sentence_transformers(client, encoding):
    answer = client.embeddings.create(model="minilm", input=TEXTS, encoding_format=encoding, extra_body=CUT)
    assert [one.index for one in answer.data] == list(range(len(TEXTS)))
    if encoding == "base64":
        assert all(isinstance(one.embedding, str) for one in answer.data)
        return
    for text, one, expected in zip(TEXTS, answer.data, VECTORS, strict=True):
        assert cosine(one.embedding, expected) > 0.99999, text
        assert max(abs(a - b) for a, b in zip(one.embedding, expected, strict=True)) < 1e-4, text
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)


def test_one_text_and_token_ids(client, minilm):
    one = client.embeddings.create(model="minilm", input=TEXTS[0])
    asked = {"model": "minilm", "prompt": TEXTS[0]}
    tokens = httpx.post(f"{minilm.url}/tokenize", json=asked).raise_for_status().json()["tokens"]
    by_tokens = client.embeddings.create(model="minilm", input=[tokens])
    assert one.data[0].embedding == by_tokens.data[0].embedding
    assert one.usage.prompt_tokens == len(tokens)


def test_langchain_embeds(minilm):
    embeddings = OpenAIEmbeddings(
        model="minilm", base_url=f"{minilm.url}/v1", api_key="unused", check_embedding_ctx_length=False, max_retries=0
    )
    for found, expected in zip(embeddings.embed_documents(SHORT), VECTORS, strict=False):
        assert cosine(found, expected) > 0.99999
    assert cosine(embeddings.embed_query(TEXTS[1]), VECTORS[1]) > 0.99999


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_are_cosines(minilm, path):
    body = {"model": "minilm", "text_1": TEXTS[0], "text_2": SHORT[1:]}
    scores = httpx.post(f"{minilm.url}{path}", json=body).raise_for_status().json()
    assert scores["id"].startswith("score-")
    for one, expected in zip(scores["data"], VECTORS[1:], strict=False):
        assert abs(one["score"] - cosine(VECTORS[0], expected)) < 1e-4


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_ranked(minilm, path):
    body = {"model": "minilm", "query": TEXTS[0], "documents": SHORT[1:], "top_n": 3}
    results = httpx.post(f"{minilm.url}{path}", json=body).raise_for_status().json()["results"]
    order = sorted(range(len(SHORT) - 1), key=lambda i: -cosine(VECTORS[0], VECTORS[1 + i]))
    assert [result["index"] for result in results] == order[:3]
    assert results[0]["document"]["text"] == TEXTS[1]


def test_what_it_cannot_do_is_said(client, minilm):
    def refused(ask, *parts):
        with pytest.raises(openai.BadRequestError) as refusal:
            ask()
        assert all(part in refusal.value.message for part in parts), refusal.value.message

    refused(lambda: client.embeddings.create(model="minilm", input=TEXTS[-1]), "at most 256 tokens", "has 522")
    refused(lambda: client.embeddings.create(model="minilm", input="a", dimensions=5), "dimensions must be 384")
    refused(
        lambda: client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "a"}]),
        "does not support the 'generate' task",
        "/v1/embeddings",
    )
    assert httpx.post(f"{minilm.url}/classify", json={"input": "a"}).status_code == 400
    assert [model.id for model in client.models.list()] == ["minilm"]


def test_a_generator_says_that_it_embeds_nothing(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="does not support the 'embed' task"):
        client.embeddings.create(model="demo", input="a")
