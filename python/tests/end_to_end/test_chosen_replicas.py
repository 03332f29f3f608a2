"""Replicas that are chosen for a call, and calls of all replicas, between processes."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tyndall import serve
from tyndall.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from tyndall.serve.handle import DeploymentHandle

WAIT_S = 60


@serve.deployment(num_replicas=2, max_ongoing_requests=1)
class Worker:
    def who(self) -> tuple[str, int]:
        return serve.get_replica_context().replica_id.unique_id, os.getpid()

    async def until(self, gate: str) -> str:
        """Says that it has begun, and waits for the file."""
        replica_id, _ = self.who()
        Path(f"{gate}.{replica_id}").touch()
        while not Path(gate).exists():
            await asyncio.sleep(0.01)
        return replica_id

    async def fail(self, at: str) -> int:
        if serve.get_replica_context().replica_id.unique_id == at:
            raise KeyError(at)
        return 1

    async def count(self, to: int):
        for i in range(to):
            yield i, os.getpid()


def until(condition, message: str):
    """What the condition gives, once it holds."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, message
        time.sleep(0.01)
    return found


def everyone(handle: DeploymentHandle, count: int) -> dict[str, int]:
    """The processes of all replicas, by their ids."""

    def all_of_them():
        try:
            found = dict(handle.broadcast("who").results())
        except (DeploymentUnavailableError, ReplicaUnavailableError):
            # None is there yet, or one that was killed is there still.
            return None
        return found if len(found) == count else None

    return until(all_of_them, f"there are not {count} replicas")


def reserved(url: str, deployment: str) -> int:
    """Places that the replicas of a deployment keep."""
    page = httpx.get(f"{url}/metrics").text.splitlines()
    series = [line for line in page if line.startswith("ray_serve_reserved_slots_active{")]
    return sum(int(line.split()[-1]) for line in series if f'deployment="{deployment}"' in line)


def test_a_chosen_replica_keeps_a_place_for_the_call(deploy, server):
    _, handle = deploy(Worker.options(name="Chosen").bind())
    pids = everyone(handle, 2)

    async def main():
        who = handle.who
        async with who.choose_replica() as chosen:
            # The other one has what comes meanwhile.
            others = {(await who.remote())[0] for _ in range(5)}
            assert others == pids.keys() - {chosen.replica_id}
            async with who.choose_replica() as second:
                assert {chosen.replica_id, second.replica_id} == pids.keys()
                assert await asyncio.to_thread(reserved, server[1], "Chosen") == 2
                waiting = who.remote()
                assert await handle.dispatch(chosen) == (chosen.replica_id, pids[chosen.replica_id])
                # It has got the place that came free.
                assert (await waiting)[0] == chosen.replica_id
        async with handle.options(stream=True).count.choose_replica() as chosen:
            items = [item async for item in handle.dispatch(chosen, 3)]
            assert items == [(i, pids[chosen.replica_id]) for i in range(3)]

    asyncio.run(main())
    assert handle.who.remote().result()[0] in pids
    until(lambda: reserved(server[1], "Chosen") == 0, "a place is still kept")


def test_a_chosen_replica_that_is_killed_is_an_error_and_nobody_elses_call(deploy):
    _, handle = deploy(Worker.bind())
    pids = everyone(handle, 2)

    async def main():
        async with handle.who.choose_replica() as chosen:
            os.kill(pids[chosen.replica_id], signal.SIGKILL)
            with pytest.raises(ReplicaUnavailableError, match="which was chosen, is no longer available") as lost:
                await handle.dispatch(chosen)
        assert lost.value.replica_id == chosen.replica_id
        async with handle.who.choose_replica() as other:
            assert other.replica_id != chosen.replica_id
            assert (await handle.dispatch(other))[0] == other.replica_id
        return chosen.replica_id

    lost = asyncio.run(main())
    # Another comes in its place, and has all of its places.
    assert lost not in everyone(handle, 2)
    assert asyncio.run(both(handle)) == everyone(handle, 2).keys()


@serve.deployment
class Version:
    def __init__(self, number: int) -> None:
        self.number = number

    async def __call__(self) -> str:
        return serve.get_replica_context().replica_id.unique_id


def test_a_chosen_replica_that_drains_still_takes_the_call(deploy):
    _, handle = deploy(Version.bind(1), name="versions")

    async def main():
        async with handle.choose_replica() as chosen:
            deploying = asyncio.create_task(asyncio.to_thread(deploy, Version.bind(2), name="versions"))
            # The new one takes all that comes; the old one waits for what it has promised.
            while (await handle.remote()) == chosen.replica_id:
                await asyncio.sleep(0.01)
            assert await handle.dispatch(chosen) == chosen.replica_id
            await deploying

    asyncio.run(main())


async def both(handle: DeploymentHandle) -> set[str]:
    async with handle.who.choose_replica() as one, handle.who.choose_replica() as other:
        return {(await handle.dispatch(chosen))[0] for chosen in (one, other)}


def test_no_place_is_lost_however_choosing_ends(deploy, server):
    _, handle = deploy(Worker.options(name="Lossless", max_ongoing_requests=3).bind())
    everyone(handle, 2)
    chance = random.Random(7)

    async def one():
        async with handle.who.choose_replica() as chosen:
            match chance.randrange(4):
                case 0:
                    return
                case 1:
                    raise KeyError(chosen.replica_id)
                case 2:
                    handle.dispatch(chosen).cancel()
                case _:
                    assert (await handle.dispatch(chosen))[0] == chosen.replica_id

    async def main():
        tasks = [asyncio.create_task(one()) for _ in range(200)]
        while not all(task.done() for task in tasks):
            chance.choice(tasks).cancel()
            await asyncio.sleep(0.001 * chance.random())
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        expected = (type(None), KeyError, asyncio.CancelledError)
        assert all(isinstance(outcome, expected) for outcome in outcomes), outcomes
        # All six places are there.
        async with contextlib.AsyncExitStack() as stack:
            chosen = [await stack.enter_async_context(handle.who.choose_replica()) for _ in range(6)]
        assert sorted(Counter(one.replica_id for one in chosen).values()) == [3, 3]

    asyncio.run(main())
    until(lambda: reserved(server[1], "Lossless") == 0, "a place is still kept")


@serve.deployment
class Holder:
    def __init__(self, worker: DeploymentHandle) -> None:
        self.worker = worker

    async def pid(self) -> int:
        return os.getpid()

    async def hold(self, told: str) -> None:
        async with self.worker.who.choose_replica() as chosen:
            Path(told).write_text(chosen.replica_id)
            await asyncio.Event().wait()

    async def dispatched(self) -> tuple[str, str, list[int]]:
        async with self.worker.who.choose_replica() as chosen:
            replica_id, _ = await self.worker.dispatch(chosen)
        async with self.worker.options(stream=True).count.choose_replica() as streaming:
            items = [i async for i, _ in self.worker.dispatch(streaming, 3)]
        return chosen.replica_id, replica_id, items

    async def told(self) -> list[str]:
        answers = await self.worker.broadcast("who").results_async(timeout_s=WAIT_S)
        return sorted(replica_id for replica_id, _ in answers)


def test_places_go_with_whoever_holds_them(deploy, tmp_path):
    app = Holder.bind(Worker.options(num_replicas=1).bind())
    _, handle = deploy(app, name="holding")
    worker = serve.get_deployment_handle("Worker", "holding")
    pid = handle.pid.remote().result()

    def held(told: Path):
        response = handle.hold.remote(str(told))
        until(told.exists, "no replica was chosen")
        return response, worker.who.remote()

    # A request that is cancelled.
    response, waiting = held(tmp_path / "cancelled")
    response.cancel()
    assert waiting.result(timeout_s=WAIT_S)
    # A process that is killed.
    response, waiting = held(tmp_path / "killed")
    os.kill(pid, signal.SIGKILL)
    assert waiting.result(timeout_s=WAIT_S)
    with pytest.raises(ReplicaUnavailableError):
        response.result()


def test_a_replica_chooses_and_tells_all(deploy):
    _, handle = deploy(Holder.bind(Worker.bind()), name="choosing")
    replicas = everyone(serve.get_deployment_handle("Worker", "choosing"), 2)
    chosen, answered, items = handle.dispatched.remote().result()
    assert chosen == answered and chosen in replicas
    assert items == [0, 1, 2]
    until(lambda: handle.told.remote().result() == sorted(replicas), "not all replicas are told")


def test_a_broadcast_waits_for_those_that_are_full_and_has_an_answer_of_each(deploy, tmp_path):
    _, handle = deploy(Worker.bind())
    replicas = everyone(handle, 2)
    gate = tmp_path / "gate"
    busy = handle.until.remote(str(gate))
    (begun,) = until(lambda: list(tmp_path.glob("gate.*")), "the call has not begun")
    answers = handle.broadcast("who")
    gate.touch()
    assert dict(answers.results()) == replicas
    assert begun.name == f"gate.{busy.result()}"

    failing = handle.broadcast("fail", busy.result())
    with pytest.raises(KeyError):
        failing.results()
    outcomes = failing.results(return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyError", "int"]
    assert asyncio.run(handle.broadcast("fail", "nobody").results_async()) == [1, 1]


def test_a_replica_that_is_killed_at_a_broadcast_is_an_error_in_its_place(deploy, tmp_path):
    _, handle = deploy(Worker.bind())
    pids = everyone(handle, 2)
    gate = tmp_path / "gate"
    answers = handle.broadcast("until", str(gate))
    until(lambda: len(list(tmp_path.glob("gate.*"))) == 2, "not all calls have begun")
    killed, stays = pids
    os.kill(pids[killed], signal.SIGKILL)
    with pytest.raises(ReplicaUnavailableError):
        answers.results()
    gate.touch()
    outcomes = answers.results(return_exceptions=True)
    assert stays in outcomes
    assert [type(outcome) for outcome in outcomes if outcome != stays] == [ReplicaUnavailableError]


def test_choosing_wakes_a_replica_and_a_broadcast_wakes_none(deploy):
    scaled = Worker.options(num_replicas=None, autoscaling_config={"min_replicas": 0, "max_replicas": 1})
    _, handle = deploy(scaled.bind())
    with pytest.raises(DeploymentUnavailableError, match="no replica of it is running"):
        handle.broadcast("who").results()

    async def main():
        async with handle.who.choose_replica() as chosen:
            return chosen.replica_id, await handle.dispatch(chosen)

    replica_id, answer = asyncio.run(main())
    assert answer[0] == replica_id
    assert handle.broadcast("who").results() == [answer]
