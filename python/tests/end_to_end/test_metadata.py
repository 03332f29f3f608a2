"""What a deployment's class says of its replicas, once, to those who choose among them."""

import asyncio
import contextlib
import json
import os
import signal
import uuid

import pytest
from servers import controller, details, until

from tyndall import serve
from tyndall.serve.request_router import RequestRouter


class ByZone(RequestRouter):
    """A request goes to the zone that it names."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        zone = pending_request.kwargs["zone"]
        return [[one for one in candidate_replicas if one.replica_metadata["zone"] == zone]]


class Zoned:
    """Two replicas, each in a zone of its own."""

    def __init__(self):
        self.id = serve.get_replica_context().replica_id.unique_id
        self.calls = 0

    async def record_replica_metadata(self):
        self.calls += 1
        return {"zone": "ab"[serve.get_replica_context().rank.rank], "of": self.id, "key": [1, None]}

    def reconfigure(self, user_config):
        assert self.calls == 1, "it is asked after the constructor, and before this"

    async def who(self, **_):
        return self.id, self.calls


def zoned(**options):
    return serve.deployment(
        name="Zoned",
        num_replicas=2,
        user_config={"a": 1},
        request_router_config={"request_router_class": ByZone},
        **options,
    )(Zoned).bind()


def by_zone(handle):
    """Which replica each zone is: the one that all calls for it go to."""
    answers = {zone: {handle.who.remote(zone=zone).result() for _ in range(8)} for zone in "ab"}
    assert {calls for of_zone in answers.values() for _, calls in of_zone} == {1}, "it is asked once"
    ids = {zone: [id for id, _ in of_zone] for zone, of_zone in answers.items()}
    return ids if len(ids["a"]) == len(ids["b"]) == 1 and ids["a"] != ids["b"] else None


def test_a_router_goes_by_what_replicas_are(deploy):
    _, handle = deploy(zoned(), name="zoned")
    ids = by_zone(handle)

    async def choose():
        async with handle.who.choose_replica(zone="b") as chosen:
            assert [chosen.replica_id] == ids["b"]
            assert chosen.replica_metadata == {"zone": "b", "of": chosen.replica_id, "key": [1, None]}
            assert chosen.to_dict()["replica_metadata"] == chosen.replica_metadata

    asyncio.run(choose())


def test_a_new_controller_knows_what_replicas_are(deploy):
    _, handle = deploy(zoned(), name="rezoned")
    ids = by_zone(handle)
    killed = controller()
    os.kill(killed, signal.SIGKILL)

    def is_back():
        with contextlib.suppress(AssertionError, OSError, RuntimeError, LookupError):
            return controller() != killed and details("rezoned")["status"] == "RUNNING"

    until(is_back, "another takes its place")
    # Its router has another process, which hears of replicas from the new controller alone.
    until(lambda: by_zone(handle) == ids, "the new controller says it too")


def test_metadata_is_told_without_a_router(deploy):
    @serve.deployment
    class Plain:
        def record_replica_metadata(self):
            return {"model": "m"}

        def who(self):
            return 1

    async def choose(handle):
        async with handle.who.choose_replica() as chosen:
            return chosen.replica_metadata

    _, handle = deploy(Plain.bind(), name="plain_metadata")
    assert asyncio.run(choose(handle)) == {"model": "m"}


def says(what):
    def record_replica_metadata(self):
        return what() if callable(what) else what

    return record_replica_metadata


def raises():
    raise LookupError("no such zone")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (raises, "LookupError: no such zone"),
        ([1], "TypeError: record_replica_metadata returned list, expected a dict"),
        ({"a": uuid.uuid4()}, "ValueError: record_replica_metadata returned what JSON cannot have"),
        ({"a": "x" * 20_000}, "bytes as JSON, and 16384 may be told"),
    ],
)
def test_what_cannot_be_told_is_in_the_status(deploy, what, why):
    body = {"record_replica_metadata": says(what), "who": lambda self: 1}
    app = serve.deployment(name="Wrong", max_constructor_retry_count=1)
    with pytest.raises(RuntimeError, match="record_replica_metadata"):
        deploy(app(type("Wrong", (), body)).bind(), name="wrong")
    assert why in serve.status().applications["wrong"].deployments["Wrong"].message


def test_one_that_hangs_is_given_up_and_says_in_what(deploy):
    class Hanging:
        async def record_replica_metadata(self):
            await asyncio.Event().wait()

        def who(self):
            return 1

    app = serve.deployment(name="Hanging", max_constructor_retry_count=1, tyndall={"startup_timeout_s": 5})
    with pytest.raises(RuntimeError, match="record_replica_metadata has not returned for 4.5 s"):
        deploy(app(Hanging).bind(), name="hanging_metadata")
    told = json.dumps(details("hanging_metadata")["deployments"]["Hanging"])
    assert "mend what it waits for, or raise startup_timeout_s" in told
