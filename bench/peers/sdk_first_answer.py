"""One fresh process: `serve.run`, one answer over HTTP, and how long both took together, in milliseconds."""

import os
import time
import urllib.request

start_s = time.perf_counter()
from sdk_app import noop, serve  # noqa: E402, the import is part of what is measured

port = int(os.environ["SDK_PORT"])
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(noop)
with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
    assert answer.read() == b"ok"
print(f"{(time.perf_counter() - start_s) * 1e3:.1f}", flush=True)
serve.shutdown()
