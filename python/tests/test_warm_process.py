"""A process that waits to become a replica, by itself: what it says, what it is handed, and what it is then."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

# What a replica would be told, and a line that it writes as one.
SCRIPT = """
    import json, logging, os, sys
    from tyndall import _warm
    from tyndall._program import Source
    from tyndall.serve import _replica_log

    words = _warm.wait(Source(), sys.argv[sys.argv.index("warm") + 1 :])
    out = os.fdopen(os.dup(1), "w")
    if words is None:
        print("nothing", file=out, flush=True)
        sys.exit()
    origin = _replica_log.Origin("app", "D", "D-1")
    _replica_log.install(origin, _replica_log.configured(os.environ))
    import keeps_one
    keeps_one.logger.warning("by a handler that was made before")
    print("printed")
    told = [words, sys.argv[1:], os.environ.get("RANK"), os.readlink("/proc/self/fd/0")]
    print(json.dumps(told), file=out, flush=True)
"""

KEEPS = """
import logging, sys
logger = logging.getLogger("keeps_one")
logger.addHandler(logging.StreamHandler(sys.stderr))
print("imported", file=sys.stderr)
"""


class Waiting:
    """Such a process, and the supervisor's end of its line."""

    def __init__(self, folder, preload):
        (folder / "keeps_one.py").write_text(KEEPS)
        script = folder / "script.py"
        script.write_text(textwrap.dedent(SCRIPT))
        self.line, theirs = socket.socketpair()
        self.line.settimeout(60)
        words = ["--import-path", "m:a", "role", "warm", "--id", "warm-D-0", "--application", "app"]
        words += ["--deployment", "D", "--preload", preload, "--parent-pid", str(os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, str(script), *words],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        theirs.close()

    def prepared(self):
        assert self.line.makefile("rb").readline() == b"prepared\n"

    def end(self) -> tuple[str, str]:
        self.line.close()
        out, log = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, log
        return out, log


@pytest.fixture
def waiting(tmp_path):
    made = []

    def start(preload: str) -> Waiting:
        made.append(Waiting(tmp_path, preload))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def test_it_becomes_what_it_is_handed(waiting):
    one = waiting("keeps_one,json")
    one.prepared()
    args = ["-m", "tyndall._program", "--import-path", "m:a", "role", "replica", "--id", "D-1", "--parent-pid", "7"]
    one.line.sendall(json.dumps({"args": args, "env": {"RANK": "3"}}).encode() + b"\n")
    out, log = one.end()
    words = ["--id", "D-1", "--parent-pid", "7"]
    assert json.loads(out) == [words, ["--import-path", "m:a", "role", "replica", *words], "3", "/dev/null"]
    lines = [line.split(" ", 3)[3] for line in log.splitlines()]
    assert lines == [
        "app_D warm-D-0 -- imported",
        "app_D D-1 -- by a handler that was made before",
        "app_D D-1 -- printed",
    ]


@pytest.mark.parametrize("said", [b"", b'{"args": ["role", "repl'])
def test_without_a_whole_line_it_ends_and_says_nothing(waiting, said):
    one = waiting("")
    one.prepared()
    one.line.sendall(said)
    assert one.end() == ("nothing\n", "")


def test_a_line_that_is_there_before_it_is_prepared_is_not_lost(waiting):
    one = waiting("keeps_one")
    one.line.sendall(b'{"args": ["role", "replica"], "env": {}}\n')
    one.prepared()
    out, _ = one.end()
    assert json.loads(out)[0] == []


def test_it_does_not_outlive_who_started_it(tmp_path):
    words = ["--import-path", "m:a", "role", "warm", "--id", "w", "--application", "app", "--deployment", "D"]
    words += ["--preload", "", "--parent-pid", "1"]
    command = [sys.executable, "-m", "tyndall._program", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "the supervisor 1 is gone" in done.stderr
