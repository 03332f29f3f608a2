"""Language models from programs: run, called by handles, and from other deployments."""

import pytest
from servers import OwnServer

from tyndall import serve
from tyndall.llm import build_openai_app
from tyndall.serve.exceptions import RayServeException

MODEL = {
    "model_loading_config": {"model_id": "haiku", "model_source": "demo"},
    "engine_kwargs": {"max_model_len": 512},
    "deployment_config": {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1}},
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "temperature": 0}
WAIT_S = 60


@pytest.fixture
def model(deploy):
    """A client, a handle and the name of an application of one model."""
    client, handle = deploy(build_openai_app({"llm_configs": [MODEL]}))
    return client, handle, handle.app_name


def test_a_model_is_run_and_answers(model):
    client, handle, name = model
    assert serve.status().applications[name].status == "RUNNING"
    answer = client.post("/v1/chat/completions", json={"model": "haiku", **CHAT}).raise_for_status().json()
    said = handle.chat.remote(CHAT).result(timeout_s=WAIT_S)
    assert said["choices"][0]["message"]["content"] == answer["choices"][0]["message"]["content"]
    completion = handle.completions.remote({"prompt": "Hi", "max_tokens": 2}).result(timeout_s=WAIT_S)
    assert completion["usage"]["completion_tokens"] == 2
    assert handle.tokenize.remote({"prompt": "Hi"}).result(timeout_s=WAIT_S)["count"] > 0


def test_tokens_come_as_they_are_made(model):
    _, handle, name = model
    whole = handle.chat.remote(CHAT).result(timeout_s=WAIT_S)["choices"][0]["message"]["content"]
    chunks = list(serve.get_app_handle(name).options(stream=True).chat.remote({**CHAT, "stream": True}))
    assert len(chunks) > 2
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole
    (alone,) = handle.options(stream=True).chat.remote(CHAT)
    assert alone["choices"][0]["message"]["content"] == whole
    begun = handle.options(stream=True).chat.remote({**CHAT, "max_tokens": 400, "ignore_eos": True, "stream": True})
    next(begun)
    begun.cancel()
    assert begun.cancelled()


def test_other_deployments_call_a_model(model, deploy):
    _, handle, name = model

    @serve.deployment
    class Caller:
        def __init__(self, model_app):
            self.model = serve.get_app_handle(model_app)

        async def ask(self, request):
            return (await self.model.chat.remote(request))["choices"][0]["message"]["content"]

        async def stream(self, request):
            async for chunk in self.model.options(stream=True).chat.remote({**request, "stream": True}):
                yield chunk["choices"][0]["delta"].get("content") or ""

    _, caller = deploy(Caller.bind(name))
    said = caller.ask.remote(CHAT).result(timeout_s=WAIT_S)
    assert said == handle.chat.remote(CHAT).result(timeout_s=WAIT_S)["choices"][0]["message"]["content"]
    assert "".join(caller.options(stream=True).stream.remote(CHAT)) == said


def test_a_replica_finds_models_where_the_admin_api_asks_for_a_token(monkeypatch):
    own = OwnServer(TYNDALL_ADMIN_TOKEN="secret")
    monkeypatch.setenv("TYNDALL_ADDRESS", own.address)
    monkeypatch.setenv("TYNDALL_ADMIN_TOKEN", "secret")

    @serve.deployment
    class Caller:
        async def ask(self, request: dict) -> str:
            import os

            assert not os.environ.get("TYNDALL_ADMIN_TOKEN"), "it is not for the code"
            return (await serve.get_app_handle("models").chat.remote(request))["choices"][0]["message"]["content"]

    try:
        model = serve.run(build_openai_app({"llm_configs": [MODEL]}), name="models", route_prefix="/models")
        caller = serve.run(Caller.bind(), name="caller", route_prefix="/caller")
        said = caller.ask.remote(CHAT).result(timeout_s=WAIT_S)
        assert said == model.chat.remote(CHAT).result(timeout_s=WAIT_S)["choices"][0]["message"]["content"]
    finally:
        own.end()


@pytest.mark.parametrize(
    ("call", "kind", "cause"),
    [
        (lambda handle: handle.chat.remote({}), RayServeException, "the model answered 400"),
        (lambda handle: handle.nothing.remote({}), RayServeException, "Available methods: \\['chat'"),
        (lambda handle: handle.remote({}), RayServeException, "'__call__' that does not exist"),
        (lambda handle: handle.chat.remote("Hi"), TypeError, "takes one request"),
        (lambda handle: handle.chat.remote({**CHAT, "stream": True}), TypeError, "handle.options\\(stream=True\\)"),
    ],
)
def test_what_a_model_cannot_do_is_told(model, call, kind, cause):
    with pytest.raises(kind, match=cause):
        call(model[1]).result(timeout_s=WAIT_S)


def test_models_that_cannot_be_run_are_told(server):
    nowhere = {"model_loading_config": {"model_id": "x", "model_source": "/nowhere/at/all"}}
    with pytest.raises(RuntimeError, match="there is no directory /nowhere/at/all"):
        serve.run(build_openai_app({"llm_configs": [nowhere]}), name="nowhere", route_prefix="/nowhere")
    serve.delete("nowhere")
    unknown = {**MODEL, "engine_kwargs": {"nonsense": 1}}
    with pytest.raises(RayServeException, match="engine_kwargs.nonsense"):
        serve.run(build_openai_app({"llm_configs": [unknown]}), name="unknown", route_prefix="/unknown")
