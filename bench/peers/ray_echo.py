"""The no-op of Ray Serve: what comes in goes out. `serve run ray_echo:app`."""

import json
from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256)
class Echo:
    """One replica, as of `crates/assembly/tyndall/examples/echo.rs`."""

    async def __call__(self, request: Request) -> Any:
        """Answers JSON with the same, and nothing with nothing."""
        body = await request.body()
        return json.loads(body) if body else None


app = Echo.bind()
