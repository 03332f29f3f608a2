"""The no-op of Ray Serve: what comes in goes out. `serve run ray_echo:app`."""

from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256)
class Echo:
    """One replica, as of `crates/assembly/tyndall/examples/echo.rs`."""

    async def __call__(self, request: Request) -> Any:
        """Answers JSON with the same."""
        return await request.json()


app = Echo.bind()
