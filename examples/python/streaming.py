"""Answers that go out piece by piece, over HTTP and to callers by a handle.

    tyndall run examples.python.streaming:app
    curl -N -X POST http://localhost:8000/ -d '{"prompt": "a b c"}'
"""

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from tyndall import serve
from tyndall.serve.handle import DeploymentHandle


@serve.deployment
class Tokens:
    """Stands in for a model that gives tokens one by one."""

    async def generate(self, prompt: str) -> AsyncIterator[str]:
        for word in prompt.split():
            yield f"{word} "


@serve.deployment
class StreamingLLM:
    def __init__(self, tokens: DeploymentHandle) -> None:
        self.tokens = tokens.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        prompt = (await request.json())["prompt"]
        return StreamingResponse(self.generate(prompt), media_type="text/plain")

    async def generate(self, prompt: str) -> AsyncIterator[str]:
        # Whoever goes away ends the model's work, too.
        async for token in self.tokens.generate.remote(prompt):
            yield token.upper()


app = StreamingLLM.bind(Tokens.bind())
