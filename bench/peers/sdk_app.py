"""The applications of sdk.py, the same code for Tyndall and Ray Serve; `SDK` names the package that serves them."""

import os

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import StreamingResponse

if os.environ.get("SDK") == "ray":
    from ray import serve
else:
    from tyndall import serve

CHUNKS = 1000


@serve.deployment(max_ongoing_requests=256)
class Noop:
    async def __call__(self, request: Request) -> str:
        return "ok"


class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []


api = FastAPI()


@serve.deployment(max_ongoing_requests=256)
@serve.ingress(api)
class Api:
    @api.post("/items/{number}")
    async def item(self, number: int, item: Item) -> dict:
        return {"number": number, "name": item.name, "tags": len(item.tags)}


bare = FastAPI()


@bare.post("/items/{number}")
async def bare_item(number: int, item: Item) -> dict:
    """What granian serves without a proxy before it."""
    return {"number": number, "name": item.name, "tags": len(item.tags)}


@serve.deployment(max_ongoing_requests=256)
class Last:
    async def __call__(self, x: int) -> int:
        return x + 1


@serve.deployment(max_ongoing_requests=256)
class Next:
    def __init__(self, following):
        self.following = following

    async def __call__(self, x: int) -> int:
        return await self.following.remote(x) + 1


@serve.deployment(max_ongoing_requests=256)
class First:
    def __init__(self, following):
        self.following = following

    async def __call__(self, request: Request) -> str:
        return str(await self.following.remote(1))


@serve.deployment(max_ongoing_requests=256)
class Streams:
    async def __call__(self, request: Request) -> StreamingResponse:
        async def chunks():
            for number in range(CHUNKS):
                yield f"{number:06}\n"

        return StreamingResponse(chunks(), media_type="text/plain")


@serve.deployment(max_ongoing_requests=256)
class Batched:
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def double(self, xs: list[int]) -> list[int]:
        return [2 * x for x in xs]

    async def __call__(self, request: Request) -> str:
        return str(await self.double(21))


noop = Noop.bind()
fastapi = Api.bind()
chain = First.bind(Next.bind(Last.bind()))
streams = Streams.bind()
batched = Batched.bind()
