"""Code that does what it should not, and what is said of it."""

import logging
import time

import httpx
import pytest

from tyndall import serve


@serve.deployment
class Bad:
    def __init__(self):
        # What is logged is kept, for the test to read.
        self.records = []
        keeper = logging.Handler()
        keeper.emit = lambda record: self.records.append(record.getMessage())
        logging.getLogger("tyndall.serve").addHandler(keeper)
        self.seen = serve.metrics.Counter("bad_code_calls", "calls", tag_keys=("kind",))

    async def block(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    def logged(self) -> list[str]:
        return list(self.records)

    def count(self, kind: str) -> None:
        self.seen.inc(tags={"kind": kind})

    def unpicklable(self):
        return (one for one in [object()])


def test_code_that_blocks_the_loop_is_told_of_once_with_its_stack(deploy):
    _, handle = deploy(Bad.bind())
    assert handle.block.remote(2.5).result() == "done"
    (said,) = [one for one in handle.logged.remote().result() if "the event loop has been blocked for" in one]
    assert "in block" in said
    assert "make the method a plain `def`" in said


def test_own_metrics_are_on_the_page_of_the_server(deploy, server):
    _, handle = deploy(Bad.bind(), name="measured")
    handle.count.remote("x").result()
    page = httpx.get(f"{server[1]}/metrics").text
    assert page.count("# TYPE ray_bad_code_calls_total counter") == 1
    (line,) = [one for one in page.splitlines() if one.startswith("ray_bad_code_calls_total{")]
    assert all(tag in line for tag in ('application="measured"', 'deployment="Bad"', 'kind="x"', "replica=")), line


def test_what_cannot_go_to_another_process_is_said(deploy):
    _, handle = deploy(Bad.bind())
    with pytest.raises(TypeError, match="generator"):
        handle.unpicklable.remote().result()


def test_a_constructor_that_fails_is_in_the_status(deploy):
    @serve.deployment
    class Failing:
        def __init__(self):
            raise OSError("no such disk")

    with pytest.raises(RuntimeError, match="no such disk"):
        deploy(Failing.bind(), name="failing")
    assert "no such disk" in str(serve.status().applications["failing"])
