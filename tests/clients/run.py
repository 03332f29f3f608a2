"""Heavy clients, each unmodified and in an environment of its own, against a server of its own.

`cargo xtask clients` starts this with TYNDALL_BIN in the environment; README.md says how to add a client.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / "target/clients"
sys.path.insert(0, str(ROOT / "tests/python"))

from serving import Server, serving  # noqa: E402 (found by the line above)

# Nothing is asked of any other machine than this one once the environment is there.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_COLOR": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SECONDS = 1800


@dataclass(frozen=True)
class Client:
    """A folder beside this file, with `requirements.txt` and `check.py`."""

    name: str
    # Names a requirements file whose packages are installed once and seen by every client that needs them.
    layer: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return HERE / self.name


CLIENTS = [
    Client("litellm"),
    Client("instructor"),
    Client("llama-index"),
    Client("promtool"),
    Client("lm-eval", layer="torch"),
    Client("guidellm", layer="torch"),
    Client("aider"),
]


@dataclass
class Row:
    """A line of the table."""

    client: str
    version: str = ""
    checked: list[str] = field(default_factory=list)
    passed: bool = False
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(client.name for client in CLIENTS))
    parser.add_argument("--all", action="store_true", help="every client")
    options = parser.parse_args()
    wanted = set(options.names)
    if unknown := wanted - {client.name for client in CLIENTS}:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    if options.all == bool(wanted):
        parser.error("name clients, or say --all")
    rows = [run(client) for client in CLIENTS if options.all or client.name in wanted]
    print(f"\n{table(rows)}")
    failed = sum(not row.passed for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


def run(client: Client) -> Row:
    """Checks one client; whatever fails is printed and makes a row that has not passed."""
    print(f"── {client.name}", flush=True)
    row = Row(client.name)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tyndall-clients-") as folder:
        try:
            python = environment(client)
            row.version = version(python, client)
            start = time.monotonic()
            check(client, python, Path(folder), row)
            row.passed = True
        except Exception:  # one client's failure is a row of the table, and the others go on
            traceback.print_exc()
            print(tail(Path(folder) / "output"), file=sys.stderr, flush=True)
    row.seconds = time.monotonic() - start
    return row


def check(client: Client, python: Path, work: Path, row: Row) -> None:
    """Prepares what is served, serves it, runs the client."""
    base = {**os.environ, **OFFLINE, "HOME": str(work), "CLIENT_WORK": str(work)}
    base["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, ROOT / "tests/python")))
    target = "demo"
    prepare = client.folder / "prepare.py"
    if prepare.exists():
        subprocess.run([python, prepare], env=base, cwd=work, check=True, timeout=SECONDS)
        target = str(work / "model")
    with serving(work, target, "--name", "served", *client.flags) as server:
        before = answered(server)
        env = base | {"TYNDALL_URL": server.url, "TYNDALL_ADMIN_URL": server.admin}
        talk([str(python), str(client.folder / "check.py")], env, work, row)
        if answered(server) == before:
            raise AssertionError(f"{client.name} has asked the server for nothing")


def talk(command: list[str], env: dict, work: Path, row: Row) -> None:
    """Runs a check, passes its output on, and keeps what it says that it has checked."""
    pipe = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    child = subprocess.Popen(command, env=env, cwd=work, **pipe)
    try:
        for line in child.stdout:
            print(line, end="", flush=True)
            if line.startswith("checked "):
                row.checked.append(line.removeprefix("checked ").strip())
            elif line.startswith("version "):
                row.version = line.removeprefix("version ").strip()
        status = child.wait(SECONDS)
    finally:
        child.kill()
    if status != 0:
        raise AssertionError(f"{command[-1]} ended with {status}")


def answered(server: Server) -> float:
    """How many requests the server has answered, from its metrics; those for the metrics are none."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("tyndall_http_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counted if 'handler="metrics"' not in line)


def environment(client: Client) -> Path:
    """The interpreter of a client's environment; made anew when its requirements changed."""
    sees = installed(client.layer, HERE / f"{client.layer}.txt") if client.layer else None
    return installed(client.name, client.folder / "requirements.txt", sees)


def installed(name: str, requirements: Path, sees: Path | None = None) -> Path:
    """An environment with what a file requires, and with the packages of the environment that it sees."""
    folder = ENVIRONMENTS / name
    python = folder / "bin/python"
    stamp = folder / "requirements.txt"
    wanted = requirements.read_text()
    if sees:
        wanted += (sees.parents[1] / "requirements.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"   installing {requirements.relative_to(ROOT)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["python3", "-m", "venv", folder], check=True)
    if sees:
        (packages(folder) / "layer.pth").write_text(f"{packages(sees.parents[1])}\n")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]
    subprocess.run([python, *install, requirements], check=True)
    stamp.write_text(wanted)
    return python


def packages(environment: Path) -> Path:
    """Where an environment keeps its packages."""
    (folder,) = environment.glob("lib/python3.*/site-packages")
    return folder


def version(python: Path, client: Client) -> str:
    """The installed version of the first package that a client's requirements name."""
    first = (client.folder / "requirements.txt").read_text().split("==")[0].split("[")[0]
    ask = f"import importlib.metadata; print(importlib.metadata.version({first!r}))"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def tail(path: Path) -> str:
    """The end of a server's output."""
    lines = path.read_text().splitlines()[-30:] if path.exists() else []
    return "\n".join(["the server's output ends with:", *lines] if lines else [])


def table(rows: list[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = ["| client | version | checked | result | time |", "|---|---|---|---|--:|"]
    for row in rows:
        result = "passed" if row.passed else "failed"
        checked = "; ".join(row.checked)
        lines.append(f"| {row.client} | {row.version} | {checked} | {result} | {row.seconds:.0f} s |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
