"""Interfaces of Gradio as deployments, with a stand-in for Gradio that mounts what the builder gives."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tyndall import serve
from tyndall.serve.gradio_integrations import GradioIngress, GradioServer

STAND_IN = """
def mount_gradio_app(app, blocks, path):
    app.mount(path, blocks)
    return app
"""


@pytest.fixture
def actor(tmp_path):
    """What replicas are started with that have the stand-in."""
    (tmp_path / "gradio.py").write_text(STAND_IN)
    return {"runtime_env": {"working_dir": str(tmp_path)}}


def interface(answer):
    async def page(request):
        return PlainTextResponse(await answer(request.query_params["text"]))

    return Starlette(routes=[Route("/", page), Route("/run/predict", page)])


def build():
    async def shout(text):
        return text.upper()

    return interface(shout)


def test_an_interface_is_built_in_the_replica_and_answers(deploy, actor):
    client, _ = deploy(GradioServer.options(name="Shouts", ray_actor_options=actor).bind(build))
    for path in ("/", "/run/predict"):
        assert client.get(path, params={"text": "hello"}).text == "HELLO"


@serve.deployment
class Add:
    async def __call__(self, text, what):
        return text + what


@serve.deployment
class Asks(GradioIngress):
    def __init__(self, add):
        self._add = add
        super().__init__(lambda: interface(self.ask))

    async def ask(self, text):
        return await self._add.remote(text, "!")


def test_the_functions_of_an_interface_call_other_deployments(deploy, actor):
    client, _ = deploy(Asks.options(ray_actor_options=actor).bind(Add.bind()))
    assert client.get("/", params={"text": "hello"}).text == "hello!"


def test_without_gradio_the_status_says_so(deploy, actor, tmp_path):
    # As Python says it of a module that is not installed.
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError(\"No module named 'gradio'\", name='gradio')")
    app = GradioServer.options(name="Without", ray_actor_options=actor, max_constructor_retry_count=1).bind(build)
    with pytest.raises(RuntimeError, match="there is no module gradio"):
        deploy(app, name="without")
    assert "install it where replicas run" in str(serve.status().applications["without"])
