"""WebSockets to deployments in processes of their own, by the client of the package `websockets`."""

import asyncio
import json
import os
import signal
import time
from socket import SHUT_RDWR

import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from tyndall import serve

PATIENCE_S = 60

app = FastAPI()


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(app)
class Talks:
    def __init__(self):
        self.ends = []
        self.open = 0

    @app.get("/ends")
    def get_ends(self):
        return {"ends": self.ends, "open": self.open, "pid": os.getpid()}

    @app.websocket("/echo")
    async def echo(self, socket: WebSocket):
        await socket.accept()
        self.open += 1
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            if "text" in message:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
        self.open -= 1
        self.ends.append([message["code"], message["reason"]])

    @app.websocket("/scope/{name}")
    async def scope(self, socket: WebSocket, name: str):
        await socket.accept(subprotocol=socket.scope["subprotocols"][-1], headers=[(b"x-own", b"1")])
        shown = ["type", "scheme", "path", "root_path", "subprotocols"]
        told = {key: socket.scope[key] for key in shown}
        await socket.send_json({**told, "name": name, "query": socket.query_params["q"], "own": self.open})
        await socket.close()

    @app.websocket("/close/{code}")
    async def close(self, socket: WebSocket, code: int):
        await socket.accept()
        await socket.close(code, "so it is")

    @app.websocket("/refuse/{how}")
    async def refuse(self, socket: WebSocket, how: str):
        if how == "close":
            await socket.close()
        elif how == "status":
            raise HTTPException(409, "not now")
        elif how == "fail":
            raise ValueError("a secret")

    @app.websocket("/readers")
    async def readers(self, socket: WebSocket):
        await socket.accept()
        readers = [asyncio.create_task(socket.receive_text()) for _ in range(4)]
        await asyncio.sleep(0)
        readers.pop(1).cancel()
        await socket.send_text("ready")
        await socket.send_json(await asyncio.gather(*readers))
        gone = await asyncio.gather(*(socket._receive() for _ in range(2)))
        self.ends.append([message["type"] for message in gone])

    @app.websocket("/hang")
    async def hang(self, socket: WebSocket):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise

    @app.websocket("/fail")
    async def fail(self, socket: WebSocket):
        await socket.accept()
        raise ValueError("a secret")

    @app.websocket("/patient")
    async def patient(self, socket: WebSocket):
        await socket.accept()
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(socket.receive_text(), 0.02)
        await socket.send_text("go on")
        for _ in range(100):
            try:
                text = await asyncio.wait_for(socket.receive_text(), 0.001)
            except asyncio.TimeoutError:
                text = await socket.receive_text()
            await socket.send_text(text)


@serve.deployment
class Plain:
    def __call__(self) -> str:
        return "over HTTP"


def at(client, path: str) -> str:
    return str(client.base_url).replace("http://", "ws://").rstrip("/") + path


def dial(client, path: str, **options):
    return connect(at(client, path), proxy=None, max_size=None, open_timeout=PATIENCE_S, **options)


def eventually(what: str, ask):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def test_texts_and_bytes_go_both_ways_beside_other_requests(deploy):
    client, _ = deploy(Talks.bind())
    with dial(client, "/echo") as socket:
        for said in ["hi", "", "häuser ☃", b"\x00\xff", b"", "x" * (1 << 20), os.urandom(1 << 20)]:
            socket.send(said)
            assert socket.recv(timeout=PATIENCE_S) == said
        assert client.get("/ends").json()["open"] == 1
        socket.ping().wait(PATIENCE_S)
        socket.send(["in ", "three ", "parts"])
        assert socket.recv(timeout=PATIENCE_S) == "in three parts"
    eventually("the end is known", lambda: client.get("/ends").json()["ends"] == [[1000, ""]])


def test_the_application_sees_the_handshake_and_chooses_a_protocol(deploy):
    client, _ = deploy(Talks.bind())
    prefix = client.base_url.path.rstrip("/")
    with dial(client, "/scope/a%20b?q=1", subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "two"
        assert socket.response.headers["x-own"] == "1"
        told = json.loads(socket.recv(timeout=PATIENCE_S))
    assert told == {
        "type": "websocket",
        "scheme": "ws",
        "path": f"{prefix}/scope/a b",
        "root_path": prefix,
        "subprotocols": ["one", "two"],
        "name": "a b",
        "query": "1",
        "own": 0,
    }


def test_either_side_closes_with_its_code(deploy):
    client, _ = deploy(Talks.bind())
    for code, kind in [(1000, ConnectionClosedOK), (1001, ConnectionClosedOK), (4321, ConnectionClosedError)]:
        with dial(client, f"/close/{code}") as socket, pytest.raises(kind) as closed:
            socket.recv(timeout=PATIENCE_S)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "so it is")
        with dial(client, "/echo") as socket:
            socket.close(code, "mine")
        eventually("the end is known", lambda code=code: client.get("/ends").json()["ends"][-1:] == [[code, "mine"]])
    with dial(client, "/fail") as socket, pytest.raises(ConnectionClosedError) as closed:
        socket.recv(timeout=PATIENCE_S)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "")


def test_handshakes_are_refused_with_a_status(deploy):
    client, _ = deploy(Talks.bind())
    for how, status, body in [
        ("close", 403, b""),
        ("status", 409, b'{"detail":"not now"}'),
        ("fail", 500, b"Internal Server Error"),
        ("silence", 500, b"Internal Server Error"),
    ]:
        with pytest.raises(InvalidStatus) as refused:
            dial(client, f"/refuse/{how}")
        assert (refused.value.response.status_code, refused.value.response.body) == (status, body), how
    with pytest.raises(InvalidStatus) as refused:
        dial(client, "/nowhere")
    assert refused.value.response.status_code == 403, "as Starlette says that there is no such route"


def test_the_time_of_a_request_ends_a_handshake_and_not_what_is_open(deploy):
    client, _ = deploy(Talks.bind())
    limit = {"x-request-timeout-seconds": "0.5"}
    with dial(client, "/echo", additional_headers=limit) as socket:
        with pytest.raises(InvalidStatus) as refused:
            dial(client, "/hang", additional_headers=limit)
        assert refused.value.response.status_code == 408
        eventually("it is cancelled", lambda: client.get("/ends").json()["ends"] == ["cancelled"])
        socket.send("still here")
        assert socket.recv(timeout=PATIENCE_S) == "still here"


def test_a_deployment_without_an_application_refuses(deploy):
    client, _ = deploy(Plain.bind())
    with pytest.raises(InvalidStatus) as refused:
        dial(client, "/")
    assert refused.value.response.status_code == 403
    assert client.get("/").text == "over HTTP"


def test_code_that_gives_up_receiving_loses_nothing(deploy):
    client, _ = deploy(Talks.bind())
    with dial(client, "/patient") as socket:
        assert socket.recv(timeout=PATIENCE_S) == "go on"
        for i in range(100):
            socket.send(str(i))
        assert [socket.recv(timeout=PATIENCE_S) for _ in range(100)] == [str(i) for i in range(100)]


def test_fifty_at_once(deploy):
    client, _ = deploy(Talks.bind())

    async def talk(i: int, socket: ClientConnection) -> None:
        for n in range(20):
            said = f"{i} says {n} " + "x" * 1000 * n
            await socket.send(said)
            assert await socket.recv() == said
        await socket.close()

    async def talk_all() -> None:
        dialing = (connect_async(at(client, "/echo"), proxy=None, open_timeout=PATIENCE_S) for _ in range(50))
        sockets = await asyncio.gather(*dialing)
        while (await asyncio.to_thread(client.get, "/ends")).json()["open"] != 50:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(talk(i, socket) for i, socket in enumerate(sockets)))

    asyncio.run(asyncio.wait_for(talk_all(), PATIENCE_S))
    ends = eventually("all have ended", lambda: not (told := client.get("/ends").json())["open"] and told["ends"])
    assert ends == [[1000, ""]] * 50


def test_a_client_that_vanishes_is_a_disconnect(deploy):
    client, _ = deploy(Talks.bind())
    with dial(client, "/echo") as socket:
        socket.send("hi")
        assert socket.recv(timeout=PATIENCE_S) == "hi"
        socket.socket.shutdown(SHUT_RDWR)
    eventually("the disconnect is told", lambda: client.get("/ends").json()["ends"] == [[1006, ""]])


def test_each_message_is_had_by_one_of_those_who_wait_and_the_end_by_all(deploy):
    client, _ = deploy(Talks.bind())
    with dial(client, "/readers") as socket:
        assert socket.recv(timeout=PATIENCE_S) == "ready"
        for text in "abc":
            socket.send(text)
        assert sorted(json.loads(socket.recv(timeout=PATIENCE_S))) == ["a", "b", "c"]
    ends = [["websocket.disconnect"] * 2]
    eventually("both hear of the end", lambda: client.get("/ends").json()["ends"] == ends)


def test_a_replica_that_is_killed_ends_its_connections_and_the_next_one_takes_more(deploy):
    client, _ = deploy(Talks.bind())
    pid = client.get("/ends").json()["pid"]
    with dial(client, "/echo") as socket:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is None
    with dial(client, "/echo") as socket:
        socket.send("again")
        assert socket.recv(timeout=PATIENCE_S) == "again"
    assert client.get("/ends").json()["pid"] != pid


def test_a_replica_that_ends_tells_its_clients_to_come_again(deploy):
    client, _ = deploy(Talks.options(graceful_shutdown_timeout_s=1).bind(), name="leaving")
    with dial(client, "/echo") as socket:
        socket.send("hi")
        assert socket.recv(timeout=PATIENCE_S) == "hi"
        serve.delete("leaving", _blocking=False)
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd.code == 1012
