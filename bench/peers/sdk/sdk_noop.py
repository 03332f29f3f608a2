"""The no-op of sdk.py, which imports nothing else; `SDK` names the package that serves it."""

import os

if os.environ.get("SDK") == "ray":
    from ray import serve
else:
    from tyndall import serve


@serve.deployment(max_ongoing_requests=256)
class Noop:
    async def __call__(self, request) -> str:
        return "ok"


noop = Noop.bind()
