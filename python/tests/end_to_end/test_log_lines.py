"""The line that each request leaves in the log of the server."""

import asyncio
import logging
import re

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from tyndall import serve

LINE = re.compile(
    r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<component>\S+) (?P<replica>\S+) (?P<id>\S+) -- "
    r"(?P<what>.*) \d+\.\dms"
)
logger = logging.getLogger("tyndall.serve")
api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Things:
    @api.get("/things/{number}")
    async def thing(self, number: int) -> int:
        if number > 9:
            raise HTTPException(404)
        logger.info("thing %d", number)
        return number

    @api.get("/wait")
    async def wait(self) -> None:
        await asyncio.sleep(60)

    async def double(self, x: int) -> int:
        return 2 * x

    async def fail(self) -> None:
        raise ValueError("no")


def told(log, what: str) -> re.Match[str]:
    """The only line of a request whose text ends so."""
    log.until(f"-- {what} ")
    (line,) = log.lines(f"-- {what} ")
    found = LINE.fullmatch(line)
    assert found is not None, line
    return found


def test_requests_and_calls_leave_a_line_each(deploy, log):
    client, handle = deploy(Things.bind(), name="lines")
    assert client.get("/things/3", headers={"x-request-id": "id-3"}).json() == 3
    assert client.get("/things/12").status_code == 404
    assert handle.double.remote(4).result() == 8
    with pytest.raises(ValueError, match="no"):
        handle.fail.remote().result()
    with pytest.raises(httpx.ReadTimeout):
        client.get("/wait", timeout=0.5)

    line = told(log, "GET /lines/things/{number} 200")
    assert (line["component"], line["id"]) == ("lines_Things", "id-3")
    assert line["replica"].startswith("Things-")
    for what in ("GET /lines/things/{number} 404", "GET /lines 499", "CALL double OK", "CALL fail ERROR"):
        told(log, what)
    written = log.text()
    assert written.index("-- thing 3") < written.index("-- GET /lines/things/{number} 200")


def test_requests_leave_none_where_that_is_off(deploy, log):
    client, handle = deploy(Things.options(logging_config={"enable_access_log": False}).bind(), name="silent")
    assert client.get("/things/3").json() == 3
    assert handle.double.remote(4).result() == 8
    deploy(Things.bind(), name="after")[0].get("/things/4")
    told(log, "GET /after/things/{number} 200")
    assert log.lines("silent_Things") == log.lines("-- thing 3")
