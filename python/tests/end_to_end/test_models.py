"""Language models from programs: run, called by handles, and from other deployments."""

import asyncio
import json
import subprocess

import httpx
import pytest
from servers import OwnServer

from tyndall import serve
from tyndall.llm import LLMConfig, LLMServer, build_llm_deployment, build_openai_app
from tyndall.serve import _admin, _server
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


def test_a_replica_of_a_model_is_chosen_and_all_are_asked(model):
    _, handle, _ = model
    said = handle.chat.remote(CHAT).result(timeout_s=WAIT_S)["choices"][0]["message"]["content"]

    async def main():
        async with handle.chat.choose_replica() as chosen:
            answer = await handle.dispatch(chosen, CHAT)
        async with handle.options(method_name="chat", stream=True).choose_replica() as streaming:
            chunks = [chunk async for chunk in handle.dispatch(streaming, {**CHAT, "stream": True})]
        async with handle.chat.choose_replica() as refused:
            with pytest.raises(TypeError, match="takes one request"):
                await handle.dispatch(refused)
        assert chosen.replica_id == streaming.replica_id == refused.replica_id
        return answer["choices"][0]["message"]["content"], chunks

    answer, chunks = asyncio.run(main())
    assert answer == said
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == said
    (counted,) = handle.broadcast("tokenize", {"prompt": "Hi"}).results(timeout_s=WAIT_S)
    assert counted["count"] > 0


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


@serve.deployment
class Assistant:
    def __init__(self, model, model_again=None):
        self.model = model

    async def ask(self, request):
        return (await self.model.chat.remote(request))["choices"][0]["message"]["content"]

    async def by_name(self, request):
        handle = serve.get_deployment_handle("LLMServer:haiku")
        return (await handle.chat.remote(request))["choices"][0]["message"]["content"]

    async def stream(self, request):
        async for chunk in self.model.options(stream=True).chat.remote({**request, "stream": True}):
            yield chunk["choices"][0]["delta"].get("content") or ""

    async def __call__(self, request):
        return {"said": await self.ask(await request.json()), "path": request.url.path}


@pytest.mark.parametrize(
    "bound", [lambda: build_llm_deployment(MODEL), lambda: serve.deployment(LLMServer).bind(LLMConfig(**MODEL))]
)
def test_a_model_is_bound_into_a_deployment(bound, model, deploy):
    _, alone, _ = model
    expected = alone.chat.remote(CHAT).result(timeout_s=WAIT_S)["choices"][0]["message"]["content"]
    client, handle = deploy(Assistant.bind(bound()))
    name = handle.app_name
    assert handle.ask.remote(CHAT).result(timeout_s=WAIT_S) == expected
    assert handle.by_name.remote(CHAT).result(timeout_s=WAIT_S) == expected
    pieces = list(handle.options(stream=True).stream.remote(CHAT))
    assert len(pieces) > 2 and "".join(pieces) == expected
    # What lies below its place is the code's own: the model is not to be had from outside.
    answer = client.post("/v1/chat/completions", json={"model": "haiku", **CHAT}).raise_for_status().json()
    assert answer["said"] == expected and answer["path"].endswith("/v1/chat/completions")

    status = serve.status().applications[name]
    assert status.status == "RUNNING" and set(status.deployments) == {"Assistant", "LLMServer:haiku"}
    from_here = serve.get_deployment_handle("LLMServer:haiku", name)
    assert from_here.tokenize.remote({"prompt": "Hi"}).result(timeout_s=WAIT_S)["count"] > 0
    serve.delete(name)
    assert name not in serve.status().applications


def test_an_application_whose_model_cannot_be_built_stays_as_it_was(deploy):
    _, handle = deploy(Assistant.bind(build_llm_deployment(MODEL)), name="kept")
    expected = handle.ask.remote(CHAT).result(timeout_s=WAIT_S)
    nowhere = {"model_loading_config": {"model_id": "x", "model_source": "/nowhere/at/all"}}
    with pytest.raises(RuntimeError, match="there is no directory /nowhere/at/all"):
        deploy(Assistant.bind(build_llm_deployment(nowhere)), name="kept")
    assert handle.ask.remote(CHAT).result(timeout_s=WAIT_S) == expected
    with pytest.raises(RayServeException, match="engine_kwargs.nonsense"):
        deploy(Assistant.bind(build_llm_deployment({**MODEL, "engine_kwargs": {"nonsense": 1}})), name="kept")
    assert handle.ask.remote(CHAT).result(timeout_s=WAIT_S) == expected
    # Without a model it is one of code alone.
    _, handle = deploy(Assistant.bind(None), name="kept")
    assert set(serve.status().applications["kept"].deployments) == {"Assistant"}


def test_a_config_file_has_code_with_models(server, tmp_path):
    (tmp_path / "assistant.py").write_text(CODE)
    application = {
        "name": "filed_models",
        "route_prefix": "/filed_models",
        "import_path": "assistant:app",
        "runtime_env": {"working_dir": str(tmp_path)},
        "deployments": [{"name": "LLMServer:haiku", "max_ongoing_requests": 3}],
    }
    path = tmp_path / "serve.json"
    path.write_text(json.dumps({"applications": [application]}))
    command = [_server.binary(), "deploy", "--wait", str(path), "--address", _admin.address()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = httpx.get(f"{server[1]}/filed_models/Hi", timeout=WAIT_S).raise_for_status()
    assert answer.json() > 0
    deployments = _admin.details()["applications"]["filed_models"]["deployments"]
    assert deployments["LLMServer:haiku"]["deployment_config"]["max_ongoing_requests"] == 3
    serve.delete("filed_models")


CODE = """
from tyndall import serve
from tyndall.llm import build_llm_deployment

@serve.deployment
class Counts:
    def __init__(self, model):
        self.model = model

    async def __call__(self, request):
        return (await self.model.tokenize.remote({"prompt": request.url.path.rpartition("/")[2]}))["count"]

model = {"model_loading_config": {"model_id": "haiku", "model_source": "demo"}, "engine_kwargs": {"max_model_len": 512}}
app = Counts.bind(build_llm_deployment(model))
"""


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
