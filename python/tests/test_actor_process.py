"""Deployment actors: how their process runs calls, and how processes that call reach it."""

import asyncio
import contextlib
import pickle
import threading

import pytest

from tyndall import serve
from tyndall.serve import _actor, _actors, _http_server, _local_actors, _options
from tyndall.serve._actors import ActorHandle, ActorName, Frames, frame
from tyndall.serve.config import DeploymentActorConfig
from tyndall.serve.context import DeploymentID
from tyndall.serve.exceptions import (
    BackPressureError,
    DeploymentActorUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)

OF = DeploymentID("D", "app")


class Notes:
    """What it is made of, and in which order it was called."""

    def __init__(self, *args, **kwargs):
        self.made_of = (args, kwargs)
        self.calls = []
        self.gate = threading.Event()

    def note(self, what):
        self.calls.append(what)
        return list(self.calls)

    def wait(self):
        assert self.gate.wait(30)
        return self.note("waited")

    def lock(self):
        return threading.Lock()

    def leave(self):
        raise SystemExit(3)


def told(actor, **config):
    @serve.deployment(name="D", deployment_actors=[config] if config else None)
    def answer():
        return 1

    words = {"application": "app", "deployment": "D", "code_version": "1", "args": {}, "actor": actor}
    return lambda _: answer.bind(), words


@contextlib.contextmanager
def running(tmp_path, target, max_pending_calls=_actors.MAX_PENDING_CALLS):
    """A handle of an actor of this class, which runs in a thread of this process; and what ends it."""
    path = tmp_path / "actor.sock"
    load, words = told({"name": "a", "actor_class": "x:C"}, name="a", actor_class=target)
    words["actor"]["actor_class"] = f"{target.__module__}:{target.__qualname__}"
    loop = asyncio.new_event_loop()
    began = threading.Event()
    made = {}

    async def serve_it():
        made["actor"] = actor = await _actor.Actor.made(load, words)
        upgrades = {_actors.PATH: lambda: connections.append(_actor._Connection(actor)) or connections[-1]}
        connections = made["connections"] = []
        made["server"] = await _http_server.start(path, None, upgrades)
        began.set()

    def run():
        loop.create_task(serve_it())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert began.wait(30)

    def end():
        def close():
            made["server"].close()
            for connection in made["connections"]:
                connection._transport.abort()

        loop.call_soon_threadsafe(close)

    try:
        yield ActorHandle(ActorName(OF, "a", str(path), max_pending_calls)), made["actor"], end
    finally:
        end()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


def test_frames_are_found_however_they_come():
    sent = [(1, 7, b"first"), (2, 1 << 40, b""), (3, 0, bytes(1000))]
    data = b"".join(frame(*one) for one in sent)
    for size in (1, 3, 17, len(data)):
        found = []
        frames = Frames(lambda *one, found=found: found.append(one))
        for at in range(0, len(data), size):
            frames.feed(data[at : at + size])
        assert found == sent


def test_the_name_of_a_socket_says_whose_it_is(tmp_path):
    one = _actors.socket(tmp_path, OF, "1", "a")
    assert one == _actors.socket(tmp_path, OF, "1", "a") and len(one.name) < 50
    others = [(DeploymentID("E", "app"), "1", "a"), (DeploymentID("D", "b"), "1", "a"), (OF, "2", "a"), (OF, "1", "b")]
    assert len({one, *(_actors.socket(tmp_path, *other) for other in others)}) == 5


def test_calls_run_one_at_a_time_and_in_order(tmp_path):
    with running(tmp_path, Notes) as (handle, actor, _):
        waits = handle.wait.remote()
        notes = [handle.note.remote(n) for n in range(20)]
        cancelled = handle.note.remote("never")
        cancelled.cancel()
        actor._target.gate.set()
        assert waits.result(timeout_s=30) == ["waited"]
        assert notes[-1].result(timeout_s=30) == ["waited", *range(20)]
        assert handle.note.remote("last").result(timeout_s=30)[20:] == [19, "last"]


def test_too_many_calls_are_refused(tmp_path):
    with running(tmp_path, Notes, max_pending_calls=3) as (handle, actor, _):
        begun = [handle.wait.remote() for _ in range(3)]
        with pytest.raises(BackPressureError):
            handle.note.remote(1).result(timeout_s=30)
        actor._target.gate.set()
        for one in begun:
            one.result(timeout_s=30)
        assert handle.note.remote(1).result(timeout_s=30)[-1] == 1


def test_what_was_under_way_fails_when_the_actor_ends(tmp_path):
    with running(tmp_path, Notes) as (handle, actor, end):
        assert handle.note.remote(1).result(timeout_s=30) == [1]
        waits = handle.wait.remote()
        handle_sees = handle.note.remote(2)
        end()
        for one in (waits, handle_sees):
            with pytest.raises(DeploymentActorUnavailableError, match="ended while it was called") as raised:
                one.result(timeout_s=30)
        assert isinstance(raised.value, ReplicaUnavailableError) and raised.value.actor_name == "a"
        actor._target.gate.set()
        (tmp_path / "actor.sock").unlink(missing_ok=True)
        with pytest.raises(DeploymentActorUnavailableError, match="is not there now\ncall again"):
            handle.note.remote(3).result(timeout_s=30)
    copied = pickle.loads(pickle.dumps(raised.value))
    assert (str(copied), copied.actor_name) == (str(raised.value), "a")
    # The next one is found by the same handle.
    with running(tmp_path, Notes) as (_, _, _):
        assert handle.note.remote(4).result(timeout_s=30) == [4]


def test_what_cannot_be_called_or_told_is_said(tmp_path):
    with running(tmp_path, Notes) as (handle, _, _):
        with pytest.raises(AttributeError, match="the actor has no method 'other'\nit has leave, lock, note, wait"):
            handle.other.remote().result(timeout_s=30)
        with pytest.raises(TypeError, match="cannot go to another process"):
            handle.lock.remote().result(timeout_s=30)
        with pytest.raises(TypeError, match="cannot go to another process"):
            handle.note.remote(threading.Lock()).result(timeout_s=30)
        with pytest.raises(RayServeException, match="SystemExit: 3"):
            handle.leave.remote().result(timeout_s=30)
        with pytest.raises(TypeError, match=r"call it with \.note\.remote\(\)"):
            handle.note(1)
        with pytest.raises(ValueError, match="calls of actors have no num_returns"):
            handle.note.options(num_returns=2)
        assert handle.note.options(name="x").remote(1).result(timeout_s=30) == [1]


def test_an_answer_can_be_waited_for_in_a_loop(tmp_path):
    with running(tmp_path, Notes) as (handle, _, _):

        async def ask():
            return [handle.note.remote(1).result(timeout_s=30), await handle.note.remote(2)]

        assert asyncio.run(ask()) == [[1], [1, 2]]


def test_a_handle_is_a_name():
    handle = ActorHandle(ActorName(OF, "a", "/run/a.sock", 5))
    copied = pickle.loads(pickle.dumps(handle))
    assert copied == handle and hash(copied) == hash(handle) and handle.f is handle.f
    assert repr(handle) == "ActorHandle(deployment='D', actor='a')"
    with pytest.raises(AttributeError):
        handle.__len__  # noqa: B018


def made_of(actor, **config):
    load, words = told(actor, **config)
    found = _actor.configured(load, words)
    return found.get_actor_class(), found.init_args, found.init_kwargs


def test_the_code_says_what_an_actor_is_made_from_unless_the_configuration_says_otherwise():
    class Local:
        pass

    lock = threading.Lock
    much = list(range(2000))
    own = {"name": "a", "actor_class": Local, "init_args": (1, lock, much), "init_kwargs": {"b": (2,), "c": float("nan")}}
    described = _options.described_actor(DeploymentActorConfig(**own))
    assert described == {
        "name": "a",
        "actor_class": f"{__name__}:{Local.__qualname__}",
        "init_args": [1, "<builtins.builtin_function_or_method>", "<builtins.list>"],
        "init_kwargs": {"b": [2], "c": "<builtins.float>"},
    }
    found, args, kwargs = made_of(described, **own)
    assert (found, args, kwargs["b"]) == (Local, (1, lock, much), (2,))
    # What a file writes is another one, though it has the same name.
    other = {"name": "a", "actor_class": f"{__name__}:Notes", "init_args": [3]}
    assert made_of(other, **own) == (Notes, (3,), {})
    assert made_of({"name": "b", "actor_class": f"{__name__}.Notes"}) == (Notes, (), {})


def test_an_actor_knows_whose_it_is(monkeypatch):
    for name, value in (("NAME", "D"), ("APP_NAME", "app"), ("ACTOR_NAME", "a"), ("CODE_VERSION", "v")):
        monkeypatch.setenv(f"RAY_SERVE_INTERNAL_DEPLOYMENT_{name}", value)
    context = serve.get_deployment_actor_context()
    assert (context.deployment_id, context.actor_name, context.code_version) == (OF, "a", "v")
    assert (context.app_name, context.deployment) == ("app", "D")


class Talker:
    def __init__(self, first):
        if first is None:
            raise ValueError("no first")
        self.said = [first]

    async def say(self, what):
        self.said.append(what)
        return self.said


def test_local_testing_mode_has_them_in_this_process():
    def app(first):
        @serve.deployment(deployment_actors=[{"name": "a", "actor_class": Talker, "init_kwargs": {"first": first}}])
        class D:
            def __init__(self):
                self.actor = serve.get_deployment_actor("a")

            async def __call__(self, what):
                return await self.actor.say.remote(what)

            async def other(self):
                return serve.get_deployment_actor("b")

            def given(self):
                return self.actor

        return D.bind()

    handle = serve.run(app(1), name="local", _local_testing_mode=True)
    assert handle.remote(2).result() == [1, 2]
    with pytest.raises(ValueError, match="no actor 'b'"):
        handle.other.remote().result()
    actor = handle.given.remote().result()
    answer = actor.say.remote(3).result()
    assert answer == [1, 2, 3] and answer is not actor.say.remote(4).result(), "it is a copy"
    serve.delete("local")
    with pytest.raises(DeploymentActorUnavailableError, match="does not run in this process"):
        actor.say.remote(5).result()
    with pytest.raises(ValueError, match="no first"):
        serve.run(app(None), name="local", _local_testing_mode=True)
    assert not _local_actors._running
