"""The child's side of `worker.py`: reads jobs, times them, answers. No other module of this folder is needed."""

import json
import os
import sys
import time
from collections.abc import Callable


def serve(ready: str, generate: Callable[[list[str], int], None], prefill: Callable[[list[int]], None]) -> None:
    """Says `ready`, then answers jobs until standard input ends. What libraries print goes to standard error."""
    say({"ready": ready})
    for line in sys.stdin:
        job = json.loads(line)
        start_s = time.perf_counter()
        try:
            if job["job"] == "prefill":
                prefill(job["ids"])
            else:
                generate(job["prompts"], job["tokens"])
            say({"seconds": time.perf_counter() - start_s})
        except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer
            say({"error": f"{type(error).__name__}: {error}"})


def say(answer: dict) -> None:
    """One line of JSON to the parent."""
    ANSWERS.write(json.dumps(answer) + "\n")
    ANSWERS.flush()


# Libraries print to standard output, some from C++: only answers may go there.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
