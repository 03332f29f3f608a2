"""Random graphs in local testing mode give what plain functions give that are put together the same way."""

import asyncio
import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tyndall import serve
from tyndall.serve._graph import describe

BIG = 1_000_003
"""Values stay below it, and are whole: they are compared exactly."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A node: how it works, its own number, and which of the nodes before it it calls."""

    kind: str
    number: int
    callees: tuple[int, ...]
    holder: str


@dataclasses.dataclass
class Holder:
    held: object


HOLDERS = {
    "list": lambda apps: [apps],
    "dict": lambda apps: {"deep": dict(enumerate(apps))},
    "object": lambda apps: Holder(tuple(apps)),
}
"""Where a node's callees are in what it is made from."""


def released(holder):
    """Callees out of where `HOLDERS` put them."""
    if isinstance(holder, Holder):
        return list(holder.held)
    return list(holder["deep"].values()) if isinstance(holder, dict) else holder[0]


def mixed(number, values):
    """The value of a node by those of its callees; their order matters."""
    total = number
    for value in values:
        total = (3 * total + value) % BIG
    return total


@serve.deployment(max_ongoing_requests=3)
class Node:
    def __init__(self, kind, number, holder):
        self.kind, self.number, self.callees = kind, number, released(holder)

    async def __call__(self, x):
        if self.kind == "awaits":
            return mixed(self.number + x, await asyncio.gather(*[one.remote(x) for one in self.callees]))
        if self.kind == "waits":
            return mixed(self.number + x, [await one.by_name.remote(x=x) for one in self.callees])
        if self.kind == "streams":
            return mixed(self.number + x, [await self.sum_of(one, x) for one in self.callees])
        response = x
        for one in self.callees:
            # What a response gives goes into the next call without being awaited here.
            response = one.remote(response)
        return mixed(self.number, [await response if self.callees else response])

    def by_name(self, *, x):
        if self.kind == "awaits":
            return mixed(self.number + x, [one.remote(x).result() for one in self.callees])
        return asyncio.run(self(x))

    async def sum_of(self, handle, x):
        return sum([item async for item in handle.options(stream=True).items.remote(x)]) % BIG

    async def items(self, x):
        value = await self(x)
        yield value
        yield value + 1

    def __eq__(self, other):
        raise AssertionError("nobody compares objects of deployments")

    __hash__ = None


def plain(specs, i, x):
    """The same without deployments."""
    spec = specs[i]
    if spec.kind in ("awaits", "waits"):
        return mixed(spec.number + x, [plain(specs, j, x) for j in spec.callees])
    if spec.kind == "streams":
        return mixed(spec.number + x, [(2 * plain(specs, j, x) + 1) % BIG for j in spec.callees])
    value = x
    for j in spec.callees:
        value = plain(specs, j, value)
    return mixed(spec.number, [value])


@st.composite
def graphs(draw):
    specs = []
    for i in range(draw(st.integers(1, 6))):
        before = st.integers(0, i - 1) if i else st.nothing()
        callees = draw(st.lists(before, max_size=3)) if i else []
        kind = draw(st.sampled_from(["awaits", "waits", "streams", "chains"]))
        number = draw(st.integers(0, 1000))
        specs.append(Spec(kind, number, tuple(callees), draw(st.sampled_from(sorted(HOLDERS)))))
    return specs


def application(specs):
    apps = []
    for spec in specs:
        callees = [apps[j] for j in spec.callees]
        apps.append(Node.bind(spec.kind, spec.number, holder=HOLDERS[spec.holder](callees)))
    return apps[-1]


def reached(specs):
    found, left = set(), [len(specs) - 1]
    while left:
        i = left.pop()
        if i not in found:
            found.add(i)
            left.extend(specs[i].callees)
    return found


@settings(max_examples=60, deadline=None)
@given(graphs(), st.lists(st.integers(0, 1000), min_size=1, max_size=4))
def test_a_graph_gives_what_functions_give(specs, xs):
    handle = serve.run(application(specs), _local_testing_mode=True)
    responses = [handle.remote(x) for x in xs]
    expected = [plain(specs, len(specs) - 1, x) for x in xs]
    assert [response.result() for response in responses] == expected
    streamed = [list(handle.options(stream=True).items.remote(x)) for x in xs]
    assert streamed == [[value, value + 1] for value in expected]


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_a_description_has_each_deployment_once_and_callers_first(specs):
    described = describe(application(specs))
    names = [one["name"] for one in described["deployments"]]
    assert described["ingress"] == names[0]
    assert set(names) == {"Node"} | {f"Node_{i}" for i in range(1, len(reached(specs)))}
    assert len(names) == len(set(names))
    for place, one in enumerate(described["deployments"]):
        assert all(names.index(callee) > place for callee in one["calls"])
        assert all(count == 1 for count in Counter(one["calls"]).values())
    edges = sum(len(one["calls"]) for one in described["deployments"])
    assert edges == sum(len(set(specs[i].callees)) for i in reached(specs))
