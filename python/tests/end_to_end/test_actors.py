"""Actors of deployments: one object for all replicas of a version, in a process of its own."""

import asyncio
import os
import pickle
import signal
import sqlite3
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest
from servers import controller, details, processes, until

from tyndall import serve
from tyndall.serve import _admin
from tyndall.serve.config import DeploymentActorConfig
from tyndall.serve.exceptions import RayTaskError, ReplicaUnavailableError


class Counter:
    """Which is no coroutine's: its methods run one at a time, in one thread."""

    def __init__(self, start=0, of=None):
        self.n = start
        self.of = of
        # Such a connection belongs to the thread that has made it.
        self.db = sqlite3.connect(":memory:")

    def add(self, by=1):
        before = self.n
        # Another thread would come between.
        time.sleep(0)
        self.n = before + by
        self.db.execute("select 1")
        return self.n

    def append(self, to, what):
        to.append(what)
        return to

    def who(self):
        context = serve.get_deployment_actor_context()
        return {
            "pid": os.getpid(),
            "n": self.n,
            "of": self.of,
            "names": [context.app_name, context.deployment, context.actor_name],
            "code_version": context.code_version,
        }

    def fail(self):
        raise LookupError("nothing is here")

    def exit(self):
        os._exit(3)


class Front:
    """Calls its actor in each way that there is."""

    def __init__(self):
        import ray

        self.actor = serve.get_deployment_actor("counter")
        # In the loop, as programs for Ray do it.
        self.first = ray.get(self.actor.who.remote())

    async def add(self, by=1):
        return await self.actor.add.remote(by)

    def add_in_thread(self, by):
        return self.actor.add.remote(by=by).result(timeout_s=30)

    async def who(self):
        context = serve.get_replica_context()
        return {**await self.actor.who.remote(), "replica": context.replica_tag, "version": context.code_version}

    async def call(self, method, *args):
        return await getattr(self.actor, method).remote(*args)

    async def many(self, count):
        return await asyncio.gather(*(self.actor.add.remote() for _ in range(count)))

    async def chained(self):
        return await self.actor.add.remote(self.actor.add.remote(5))

    async def named(self, name):
        return repr(serve.get_deployment_actor(name))

    async def pickled(self):
        return await pickle.loads(pickle.dumps(self.actor)).add.remote(0)

    async def refused(self, method):
        try:
            await getattr(self.actor, method).remote()
        except Exception as error:
            bases = [one.__name__ for one in type(error).__mro__]
            return type(error).__name__, bases, str(error), repr(error.__cause__)


def front(actors=None, cls=Front, **options):
    actors = actors or [DeploymentActorConfig(name="counter", actor_class=Counter, init_kwargs={"start": 10})]
    return serve.deployment(name="Front", **options)(cls).options(deployment_actors=actors).bind()


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_replicas_share_one_object_in_a_process_of_its_own(deploy):
    _, handle = deploy(front(num_replicas=2), name="shared")
    added = [handle.add.remote() for _ in range(40)]
    assert sorted(one.result() for one in added) == list(range(11, 51))
    told = [handle.who.remote().result() for _ in range(40)]
    assert len({one["replica"] for one in told}) == 2
    assert {one["pid"] for one in told} == set(processes("actor", "shared"))
    (shown,) = details("shared")["deployments"]["Front"]["actors"]
    assert (shown["name"], shown["state"], shown["pid"], shown["message"]) == ("counter", "RUNNING", told[0]["pid"], "")
    one = told[0]
    assert (one["n"], one["names"]) == (50, ["shared", "Front", "counter"])
    assert one["code_version"] == one["version"]
    assert handle.add_in_thread.remote(2).result() == 52
    assert handle.many.remote(50).result() == list(range(53, 103)), "calls of one process keep their order"
    assert handle.chained.remote().result() == 214
    assert handle.pickled.remote().result() == 214
    assert "actor='counter'" in handle.named.remote("counter").result()
    with pytest.raises(ValueError, match="no actor 'other'\nname it in deployment_actors; there is counter"):
        handle.named.remote("other").result()
    large = b"x" * (4 << 20)
    assert handle.call.remote("append", [large], 2).result() == [large, 2]


def test_what_a_method_raises_reaches_the_caller(deploy):
    _, handle = deploy(front(), name="raises")
    with pytest.raises(LookupError, match="nothing is here") as raised:
        handle.call.remote("fail").result()
    assert isinstance(raised.value.__cause__, RayTaskError)
    name, _, said, cause = handle.refused.remote("fail").result()
    assert (name, said) == ("LookupError", "nothing is here")
    assert 'raise LookupError("nothing is here")' in cause and "_actor.py" not in cause
    name, _, said, _ = handle.refused.remote("no_such").result()
    assert name == "AttributeError" and "it has add, append, exit, fail, who" in said


class Async:
    """Whose methods run side by side, and in between those that are no coroutines."""

    def __init__(self):
        asyncio.get_running_loop()
        self.waiting = 0
        self.all_here = asyncio.Event()
        self.thread = threading.get_ident()

    async def meet(self, number):
        self.waiting += 1
        if self.waiting == number:
            self.all_here.set()
        await self.all_here.wait()
        return self.waiting

    def add(self, by=1):
        assert threading.get_ident() == self.thread
        return self.waiting

    def who(self):
        return {"pid": os.getpid()}

    async def forever(self):
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting = -1


class Meets(Front):
    async def meet(self, number):
        return await asyncio.gather(*(self.actor.meet.remote(number) for _ in range(number)))

    async def cancel(self):
        response = self.actor.forever.remote()
        assert await self.actor.add.remote() == 100
        response.cancel()
        while await self.actor.add.remote() != -1:
            await asyncio.sleep(0.01)


def test_async_methods_run_side_by_side(deploy):
    actors = [DeploymentActorConfig(name="counter", actor_class=Async)]
    _, handle = deploy(front(actors, Meets), name="side_by_side")
    assert handle.meet.remote(100).result(timeout_s=30) == [100] * 100
    handle.cancel.remote().result(timeout_s=30)


class Threads:
    def __init__(self):
        self.barrier = threading.Barrier(3)

    def meet(self, number):
        return self.barrier.wait(30) < number

    def who(self):
        return {"pid": os.getpid()}


def test_more_may_run_at_a_time_where_that_is_said(deploy):
    actors = [DeploymentActorConfig(name="counter", actor_class=Threads, actor_options={"max_concurrency": 3})]
    _, handle = deploy(front(actors, Meets), name="threads")
    assert handle.meet.remote(3).result(timeout_s=30) == [True] * 3


def test_one_that_is_killed_is_back_and_handles_find_it(deploy):
    _, handle = deploy(front(num_replicas=2), name="killed")
    handle.add.remote().result()
    first = handle.who.remote().result()
    os.kill(first["pid"], signal.SIGKILL)

    def again():
        try:
            return handle.who.remote().result()
        except ReplicaUnavailableError as error:
            assert error.actor_name == "counter"
            return None

    second = until(lambda: (told := again()) and told["pid"] != first["pid"] and told)
    assert second["n"] == 10, "it begins anew"
    until(lambda: details("killed")["deployments"]["Front"]["status"] == "HEALTHY")
    replicas = details("killed")["deployments"]["Front"]["replicas"]
    assert first["replica"] in {replica["replica_id"] for replica in replicas}, "replicas serve on"
    # A call that was under way is told so.
    name, bases, said, _ = handle.refused.remote("exit").result()
    assert name == "DeploymentActorUnavailableError" and "ReplicaUnavailableError" in bases
    assert "ended while it was called" in said


class Broken:
    def __init__(self, why):
        raise RuntimeError(f"no luck: {why}")


def test_a_constructor_that_raises_is_told_with_its_traceback(deploy):
    actors = [DeploymentActorConfig(name="counter", actor_class=Broken, init_args=("it is broken",))]
    with pytest.raises(RuntimeError, match="DEPLOY_FAILED|failed to deploy|no luck"):
        deploy(front(actors, max_constructor_retry_count=1), name="broken")
    told = details("broken")["deployments"]["Front"]
    assert (told["status"], told["status_trigger"]) == ("DEPLOY_FAILED", "DEPLOYMENT_ACTOR_FAILED")
    assert "RuntimeError: no luck: it is broken" in told["message"], told["message"]
    assert 'raise RuntimeError(f"no luck: {why}")' in told["message"]
    assert not told["replicas"]
    status = serve.status().applications["broken"].deployments["Front"]
    assert status.status_trigger == "DEPLOYMENT_ACTOR_FAILED"
    # It is mended by another deploy, and goes without a trace.
    _, handle = deploy(front(), name="broken")
    assert handle.add.remote().result() == 11
    (pid,) = processes("actor", "broken")
    serve.delete("broken")
    until(lambda: not alive(pid))
    assert processes("actor", "broken") == []


class Slow(Front):
    async def hold(self, path):
        Path(path).touch()
        while Path(path).exists():
            await asyncio.sleep(0.01)
        return await self.who()


def test_a_rollout_gives_another_actor_and_ends_the_old_one(deploy, tmp_path):
    _, handle = deploy(front(cls=Slow), name="rollout")
    handle.add.remote().result()
    old = handle.who.remote().result()
    held = handle.hold.remote(str(tmp_path / "held"))
    until(lambda: (tmp_path / "held").exists())
    actors = [DeploymentActorConfig(name="counter", actor_class=Counter, init_args=[100], init_kwargs={"of": {1, 2}})]
    # It is over when the old replica has ended, which is not yet.
    serve._run(front(actors, cls=Slow), name="rollout", route_prefix="/rollout", _blocking=False)
    new = until(lambda: (told := handle.who.remote().result())["pid"] != old["pid"] and told)
    assert (new["n"], new["of"]) == (100, {1, 2}), "what is no JSON comes with the code"
    assert new["code_version"] != old["code_version"]
    assert alive(old["pid"]), "the old replica still works"
    (tmp_path / "held").unlink()
    assert held.result() == old
    until(lambda: not alive(old["pid"]))
    assert processes("actor", "rollout") == [new["pid"]]


def test_a_rollout_whose_actor_fails_is_rolled_back(deploy):
    _, handle = deploy(front(), name="back")
    old = handle.who.remote().result()
    actors = [DeploymentActorConfig(name="counter", actor_class=Broken, init_args=("again",))]
    app = front(actors, max_constructor_retry_count=1)
    serve._run(app, name="back", route_prefix="/back", _blocking=False)
    told = until(lambda: (told := details("back")) and "was rolled back" in told["message"] and told)
    assert "no luck: again" in told["message"]
    until(lambda: details("back")["status"] == "RUNNING")
    assert handle.who.remote().result() == old
    assert processes("actor", "back") == [old["pid"]]


class Idle(Front):
    pass


def test_a_deployment_at_zero_replicas_keeps_its_actors(deploy):
    scaling = {"min_replicas": 0, "max_replicas": 1, "downscale_to_zero_delay_s": 0.0, "downscale_delay_s": 0.0}
    _, handle = deploy(front(cls=Idle, autoscaling_config=scaling), name="zero")
    assert handle.add.remote().result() == 11
    until(lambda: not details("zero")["deployments"]["Front"]["replicas"])
    assert handle.add.remote().result() == 12


def test_actors_outlive_their_controller(deploy):
    _, handle = deploy(front(), name="adopted")
    handle.add.remote(5).result()
    old = handle.who.remote().result()
    pid = controller()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))

    def is_back():
        try:
            return details("adopted")["status"] == "RUNNING"
        except (OSError, KeyError):
            return False

    until(is_back)
    assert handle.who.remote().result() == old
    assert handle.add.remote().result() == 16
    # The new controller watches over it.
    os.kill(old["pid"], signal.SIGKILL)
    until(lambda: (found := processes("actor", "adopted")) and old["pid"] not in found and found)
    until(lambda: details("adopted")["deployments"]["Front"]["status"] == "HEALTHY")
    assert handle.add.remote().result() == 11


def test_a_config_file_names_actors(server, tmp_path):
    code = """
        from ray import serve

        class Actor:
            def __init__(self, *args, **kwargs):
                self.made_of = [args, kwargs]

            def told(self):
                import os
                return [*self.made_of, os.environ["OF_ACTOR"], os.environ["OF_ALL"]]

        @serve.deployment
        class D:
            async def __call__(self, request):
                return await serve.get_deployment_actor("a").told.remote()

        app = D.bind()
    """
    (tmp_path / "with_actor.py").write_text(textwrap.dedent(code))
    actor = {
        "name": "a",
        "actor_class": "with_actor:Actor",
        "init_args": [1],
        "init_kwargs": {"b": [2]},
        "actor_options": {"runtime_env": {"env_vars": {"OF_ACTOR": "x"}}, "num_cpus": 0.5},
    }
    queue = {"name": "queue", "actor_class": "ray.serve.experimental.capacity_queue:CapacityQueue"}
    app = {
        "name": "from_file",
        "route_prefix": "/from_file",
        "import_path": "with_actor:app",
        "runtime_env": {"working_dir": str(tmp_path), "env_vars": {"OF_ALL": "y", "OF_ACTOR": "z"}},
        "deployments": [{"name": "D", "deployment_actors": [actor, queue]}],
    }
    url = f"{_admin.address()}/api/serve/applications/"
    assert httpx.put(url, json={"applications": [app]}).status_code == 200
    try:
        until(lambda: details("from_file")["status"] == "RUNNING", "it does not run")
        assert httpx.get(f"{server[1]}/from_file", timeout=60).json() == [[1], {"b": [2]}, "x", "y"]
        shown = httpx.get(url).json()["applications"]["from_file"]["deployments"]["D"]["deployment_config"]
        assert shown["deployment_actors"] == [actor]
    finally:
        serve.delete("from_file")
    assert processes("actor", "from_file") == []
