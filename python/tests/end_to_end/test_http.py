"""HTTP to deployments in processes of their own."""

import asyncio
import dataclasses
import io
import time

import httpx
import numpy
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.responses import JSONResponse, StreamingResponse

from tyndall import serve
from tyndall.serve.exceptions import BackPressureError, DeploymentUnavailableError


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Shown(BaseModel):
    name: str


KINDS = {
    "text": ("häuser", "text/plain; charset=utf-8", "häuser".encode()),
    "bytes": (b"\x00\xff", "text/plain", b"\x00\xff"),
    "none": (None, "text/plain", b""),
    "dict": ({"a": [1, 2.5, None, True]}, "application/json", b'{"a":[1,2.5,null,true]}'),
    "list": ([1, "ü"], "application/json", b'[1,"\\u00fc"]'),
    "number": (7, "application/json", b"7"),
    "array": (numpy.arange(6).reshape(2, 3), "application/json", b"[[0,1,2],[3,4,5]]"),
    "scalar": ({"x": numpy.float32(0.5)}, "application/json", b'{"x":0.5}'),
    "dataclass": (Point(1, 2), "application/json", b'{"x":1,"y":2}'),
    "pydantic": ({"s": Shown(name="n")}, "application/json", b'{"s":{"name":"n"}}'),
    "set": ({"s": {3}}, "application/json", b'{"s":[3]}'),
}


@serve.deployment
class Returns:
    async def __call__(self, request: Request):
        kind = request.query_params["kind"]
        if kind == "response":
            return JSONResponse({"teapot": True}, 418, {"x-own": "1"})
        if kind == "stream":
            return StreamingResponse((f"{i}\n" for i in range(200)), media_type="text/csv")
        if kind == "echo":
            return {"method": request.method, "body": (await request.body()).decode(), "path": request.url.path}
        return KINDS[kind][0]


def test_what_is_returned_becomes_the_answer(deploy):
    client, _ = deploy(Returns.bind())
    for kind, (_, content_type, body) in KINDS.items():
        answer = client.get("/", params={"kind": kind})
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, content_type, body), kind
    answer = client.get("/", params={"kind": "response"})
    assert (answer.status_code, answer.headers["x-own"], answer.json()) == (418, "1", {"teapot": True})
    with client.stream("GET", "/", params={"kind": "stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/csv")
        assert list(answer.iter_lines()) == [str(i) for i in range(200)]


def test_requests_come_as_they_were_sent(deploy):
    client, _ = deploy(Returns.bind())
    large = "x" * 3_000_000
    answer = client.post("/a%20b", params={"kind": "echo"}, content=large)
    path = client.base_url.path.rstrip("/")
    assert answer.json() == {"method": "POST", "body": large, "path": f"{path}/a b"}
    chunks = (part.encode() for part in ["one ", "two ", "three"])
    assert client.put("/", params={"kind": "echo"}, content=chunks).json()["body"] == "one two three"
    assert client.head("/", params={"kind": "text"}).content == b""


@serve.deployment
class Raises:
    async def __call__(self, request: Request):
        kind = request.query_params["kind"]
        if kind == "full":
            raise BackPressureError(3, 2, 429, 1.5)
        if kind == "unavailable":
            raise DeploymentUnavailableError("D", "it failed", 2.5)
        if kind == "late":
            raise TimeoutError("too late")
        if kind == "unsayable":
            return object()
        if kind in ("midway", "at once"):

            async def parts():
                yield "first"
                if kind == "midway":
                    await asyncio.sleep(0.01)
                raise ValueError("midway")

            return StreamingResponse(parts())
        raise ValueError("a secret")


def test_errors_have_their_statuses_and_keep_secrets(deploy):
    client, _ = deploy(Raises.bind())
    for kind, status in [("value", 500), ("unsayable", 500), ("full", 429), ("unavailable", 503), ("late", 408)]:
        answer = client.get("/", params={"kind": kind})
        assert answer.status_code == status, answer.text
        assert "secret" not in answer.text
    assert client.get("/", params={"kind": "value"}).text == "Internal Server Error"
    assert client.get("/", params={"kind": "full"}).headers["retry-after"] == "2"
    assert client.get("/", params={"kind": "unavailable"}).headers["retry-after"] == "3"
    for kind in ("midway", "at once"):
        with pytest.raises(httpx.RemoteProtocolError), client.stream("GET", "/", params={"kind": kind}) as answer:
            answer.read()


@serve.deployment
def function(request: Request) -> str:
    return f"hello {request.query_params['name']}"


@serve.deployment
class Silent:
    def __call__(self) -> str:
        return "no request"


def test_functions_and_methods_without_a_request(deploy):
    client, handle = deploy(function.bind())
    assert client.get("/", params={"name": "you"}).text == "hello you"
    client, handle = deploy(Silent.bind())
    assert client.post("/").text == "no request"
    assert handle.remote().result() == "no request"


api = FastAPI(title="Shop")
api.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
seen: list[str] = []


class Item(BaseModel):
    name: str
    price: float


def common(q: str = "none") -> str:
    return q


@api.get("/free")
def free() -> str:
    return "function"


@serve.deployment
@serve.ingress(api)
class Shop:
    def __init__(self, greeting: str):
        self.greeting = greeting
        self.done: list[str] = []

    @api.get("/")
    def root(self, request: Request) -> dict[str, str]:
        return {"greeting": self.greeting, "url": str(request.url_for("item", number=3).path)}

    @api.post("/items/{number}")
    async def item(self, number: int, item: Item, q: str = Depends(common)) -> dict:
        return {"number": number, "name": item.name, "q": q}

    @api.get("/missing")
    def missing(self):
        raise HTTPException(404, "nothing here")

    @api.post("/upload")
    async def upload(self, file: UploadFile) -> dict:
        return {"name": file.filename, "size": len(await file.read())}

    @api.post("/later")
    def later(self, tasks: BackgroundTasks) -> str:
        tasks.add_task(self.done.append, "later")
        return "ok"

    @api.get("/done")
    def get_done(self) -> list[str]:
        return self.done

    @api.get("/unavailable")
    def unavailable(self):
        raise DeploymentUnavailableError("D", retry_after_s=7)

    def plain(self, x: int) -> int:
        return x + 1


def test_fastapi_applications_are_driven_whole(deploy):
    client, handle = deploy(Shop.bind("hello"))
    prefix = client.base_url.path.rstrip("/")
    assert client.get("/").json() == {"greeting": "hello", "url": f"{prefix}/items/3"}
    answer = client.post("/items/3", json={"name": "a", "price": 1}, params={"q": "x"})
    assert answer.json() == {"number": 3, "name": "a", "q": "x"}
    assert client.post("/items/x", json={"name": "a"}).status_code == 422
    assert client.get("/missing").json() == {"detail": "nothing here"}
    assert client.get("/free").json() == "function"
    upload = client.post("/upload", files={"file": ("a.txt", io.BytesIO(b"y" * 2_500_000))})
    assert upload.json() == {"name": "a.txt", "size": 2_500_000}
    assert client.post("/later").json() == "ok"
    assert client.get("/done").json() == ["later"]
    answer = client.get("/unavailable")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert client.get("/openapi.json").json()["info"]["title"] == "Shop"
    assert "swagger" in client.get("/docs").text.lower()
    assert client.request("DELETE", "/free").status_code == 405
    cors = {"origin": "https://a.example", "access-control-request-method": "GET"}
    answer = client.options("/free", headers=cors)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert handle.plain.remote(1).result() == 2


class Lived:
    pass


def make_app():
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def lifespan(app):
        yield {"born": "yes"}

    app = FastAPI(lifespan=lifespan)

    @app.get("/born")
    def born(request: Request) -> str:
        return request.state.born

    return app


def test_a_builder_and_its_lifespan(deploy):
    app = serve.deployment(serve.ingress(make_app)(Lived))
    client, _ = deploy(app.bind())
    assert client.get("/born").json() == "yes"


@serve.deployment
class Watched:
    def __init__(self):
        self.events: list[str] = []

    async def __call__(self, request: Request):
        if "wait" not in request.query_params:
            return self.events
        self.events.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise


def test_a_client_that_goes_away_cancels(deploy):
    client, _ = deploy(Watched.bind())
    with pytest.raises(httpx.ReadTimeout):
        client.get("/", params={"wait": 1}, timeout=1)
    for _ in range(100):
        events = client.get("/").json()
        if events == ["begun", "cancelled"]:
            break
    assert events == ["begun", "cancelled"]


@serve.deployment
class Patient:
    """Gives up receiving again and again, in each way that asyncio has."""

    async def __call__(self, request: Request):
        body, more = b"", True
        while more:
            task = asyncio.create_task(request.receive())
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
            try:
                message = await task
            except asyncio.CancelledError:
                try:
                    message = await asyncio.wait_for(request.receive(), 0.001)
                except asyncio.TimeoutError:
                    continue
            assert message["type"] == "http.request"
            body, more = body + message["body"], message["more_body"]
        return body


def test_code_that_gives_up_receiving_loses_no_part_of_the_body(deploy):
    client, _ = deploy(Patient.bind())

    def parts():
        for i in range(300):
            time.sleep(0.001)
            yield f"{i},".encode()

    assert client.post("/", content=parts()).text == "".join(f"{i}," for i in range(300))


api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Listening:
    """Starlette listens for the end of a client that gets a stream, and here so does what makes the stream."""

    @api.get("/")
    async def items(self, request: Request) -> StreamingResponse:
        async def made():
            number = 0
            while number < 3 and not await request.is_disconnected():
                yield f"{number},"
                number += 1

        return StreamingResponse(made())


def test_a_stream_may_ask_for_the_end_of_its_client(deploy):
    client, _ = deploy(Listening.bind())
    assert client.get("/").text == "0,1,2,"
