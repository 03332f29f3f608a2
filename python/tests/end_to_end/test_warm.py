"""Processes that import what a deployment needs, and wait to become its next replica."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from servers import controller, until

from tyndall import serve
from tyndall.serve import _admin, _server

SLOW = """
import os, time
with open({log!r}, "a") as log:
    log.write(f"{{__name__}} {{os.getpid()}}\\n")
time.sleep(0.3)
print("imported", __name__)
"""

SCALING = {
    "min_replicas": 0,
    "max_replicas": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0.1,
    "look_back_period_s": 0.1,
    "metrics_interval_s": 0.05,
}


def processes() -> list[dict]:
    return json.loads(_admin.request("GET", "/api/tyndall/node"))["processes"]


def waiting(name: str) -> list[dict]:
    """The processes that wait for a deployment of this name."""
    return [one for one in processes() if one["state"] != "replica" and one["id"].startswith(f"warm-{name}-")]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Modules:
    """Modules that are slow to import and note who did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "imports"

    def add(self, name: str, code: str = "") -> None:
        (self.folder / f"{name}.py").write_text(SLOW.format(log=str(self._log)) + code)

    def importers(self, name: str) -> list[int]:
        """The processes that imported it, in turn."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [int(pid) for module, pid in map(str.split, lines) if module == name]


@pytest.fixture
def modules(tmp_path):
    made = Modules(tmp_path)
    made.add("slow_one")
    return made


def preloading(folder: Path, preload, name: str, **tyndall):
    """A deployment that imports `slow_one` when it starts, and says which process it is."""

    class Preloads:
        def __init__(self) -> None:
            import slow_one  # noqa: F401

        def __call__(self) -> dict:
            import sys

            return {
                "pid": os.getpid(),
                "words": sys.argv[1:],
                "rank": os.environ["TYNDALL_REPLICA_RANK"],
                "stdin": os.readlink("/proc/self/fd/0"),
            }

    return serve.deployment(
        name=name,
        autoscaling_config=SCALING,
        ray_actor_options={"runtime_env": {"working_dir": str(folder)}},
        tyndall={"preload": preload, **tyndall},
    )(Preloads)


def replicas(application: str) -> int:
    (one,) = serve.status().applications[application].deployments.values()
    return sum(one.replica_states.values())


def prepared(name: str) -> int:
    """The one process that waits for the deployment, once it has imported all."""

    def found() -> int | None:
        # Another may still be on its way out.
        states = {one["pid"]: one["state"] for one in waiting(name)}
        return next(iter(states)) if list(states.values()) == ["prepared"] else None

    return until(found)


def taken() -> int:
    """Replicas that were made of processes that waited, of all deployments."""
    page = _admin.request("GET", "/metrics").decode()
    lines = [line for line in page.splitlines() if line.startswith("tyndall_warm_starts_total{")]
    return sum(int(line.split()[-1]) for line in lines if 'outcome="taken"' in line)


def test_a_wake_from_zero_imports_nothing_again(deploy, modules):
    client, _ = deploy(preloading(modules.folder, ["slow_one"], "Wakes").bind(), name="wakes")
    assert replicas("wakes") == 0
    first, before = prepared("Wakes"), taken()
    for wake in (1, 2):
        answer = client.get("/").json()
        assert (answer["pid"], answer["rank"], answer["stdin"]) == (first, "0", "/dev/null")
        assert modules.importers("slow_one").count(first) == 1
        assert taken() == before + wake
        at = answer["words"].index("role")
        assert answer["words"][at : at + 2] == ["role", "replica"] and answer["words"][0] == "--code"
        # The next one is there before this one goes.
        second = prepared("Wakes")
        assert second != first
        until(lambda: replicas("wakes") == 0)
        until(lambda: is_gone(first))
        first = second
    assert len(modules.importers("slow_one")) == 3, "one for each wake, and one that waits"


def test_nobody_has_one_unasked(deploy, modules):
    client, _ = deploy(preloading(modules.folder, [], "Asks").bind())
    pid = client.get("/").json()["pid"]
    assert waiting("Asks") == [] and modules.importers("slow_one") == [pid]


def test_an_interpreter_alone_can_wait_too(deploy, modules):
    client, _ = deploy(preloading(modules.folder, [], "Alone", warm_processes=2).bind())
    until(lambda: [one["state"] for one in waiting("Alone")] == ["prepared"] * 2)
    assert modules.importers("slow_one") == []
    waited = [one["pid"] for one in waiting("Alone")]
    assert client.get("/").json()["pid"] in waited


def test_one_that_is_killed_is_started_again(deploy, modules):
    client, _ = deploy(preloading(modules.folder, ["slow_one"], "Killed").bind())
    first = prepared("Killed")
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (pid := prepared("Killed")) != first and pid)
    assert client.get("/").json()["pid"] == second


def test_modules_that_cannot_be_imported_are_told_of_and_nothing_more(deploy, modules, server):
    modules.add("raises_one", "raise LookupError('on purpose')\n")
    modules.add("leaves_one", "raise SystemExit(3)\n")
    preload = ["not_there_one", "raises_one", "leaves_one", "slow_one"]
    client, _ = deploy(preloading(modules.folder, preload, "Missing").bind(), name="missing")
    pid = prepared("Missing")
    assert client.get("/").json()["pid"] == pid
    assert modules.importers("slow_one") == [pid]


def test_a_module_that_ends_the_process_leaves_replicas_as_they_are(deploy, modules):
    modules.add("ends_one", "import os\nos._exit(5)\n")
    client, _ = deploy(preloading(modules.folder, ["ends_one"], "Ends").bind(), name="ends")
    until(lambda: len(modules.importers("ends_one")) == 3)
    until(lambda: "no_warm_processes" in [event["kind"] for event in events("ends")])
    (told,) = [event for event in events("ends") if event["kind"] == "no_warm_processes"]
    assert "died three times in a row" in told["message"] and "exited with code 5" in told["message"]
    pid = client.get("/").json()["pid"]
    assert modules.importers("slow_one") == [pid]
    assert len(modules.importers("ends_one")) == 3 and waiting("Ends") == []


def events(application: str) -> list[dict]:
    return json.loads(_admin.request("GET", f"/api/tyndall/events?application={application}"))


def test_another_list_makes_another_process(deploy, modules):
    modules.add("slow_two")
    client, _ = deploy(preloading(modules.folder, ["slow_one"], "Changes").bind(), name="changes")
    first = prepared("Changes")
    deploy(preloading(modules.folder, ["slow_one", "slow_two"], "Changes").bind(), name="changes")
    second = until(lambda: (pid := prepared("Changes")) != first and pid)
    assert modules.importers("slow_two") == [second]
    until(lambda: is_gone(first))
    assert client.get("/").json()["pid"] == second


def test_what_is_deleted_leaves_no_process(deploy, modules):
    deploy(preloading(modules.folder, ["slow_one"], "Leaves").bind(), name="leaves")
    pid = prepared("Leaves")
    serve.delete("leaves")
    assert is_gone(pid) and waiting("Leaves") == []


def test_a_new_controller_has_processes_of_its_own(deploy, modules):
    client, _ = deploy(preloading(modules.folder, ["slow_one"], "Restarts").bind())
    first = prepared("Restarts")
    os.kill(controller(), signal.SIGKILL)
    until(lambda: is_gone(first))
    # Whoever asks meanwhile may lose the answer.
    while True:
        with contextlib.suppress(OSError, RuntimeError):
            second = prepared("Restarts")
            break
    assert client.get("/").json()["pid"] == second


def test_an_application_of_a_config_file_says_it_for_all_of_its_deployments(modules, server, tmp_path):
    code = f"""
        from tyndall import serve

        def named(name):
            @serve.deployment(name=name, autoscaling_config={SCALING})
            class One:
                def __call__(self):
                    import os, slow_one
                    return os.getpid()

            return One

        app = named("FileOne").bind()
    """
    (tmp_path / "filed_one.py").write_text(textwrap.dedent(code))
    application = {
        "name": "filed-warm",
        "route_prefix": "/filed-warm",
        "import_path": "filed_one:app",
        "runtime_env": {"working_dir": str(tmp_path)},
        "tyndall": {"preload": ["slow_one"]},
    }
    config = tmp_path / "serve.json"

    def deploy_file(*applications):
        config.write_text(json.dumps({"applications": applications}))
        command = [_server.binary(), "deploy", "--wait", str(config), "--address", _admin.address()]
        subprocess.run(command, check=True, capture_output=True, text=True)

    deploy_file(application)
    first = prepared("FileOne")
    # The list is no code: nothing that runs is replaced by its change, and what waits is.
    application["deployments"] = [{"name": "FileOne", "tyndall": {"preload": ["slow_one", "json"]}}]
    deploy_file(application)
    until(lambda: prepared("FileOne") != first)
    application["deployments"] = [{"name": "FileOne", "tyndall": {"warm_processes": 0}}]
    deploy_file(application)
    until(lambda: waiting("FileOne") == [])
    deploy_file()


def test_nothing_that_waits_outlives_its_server_and_its_lines_have_its_name(modules):
    modules.add("raises_one", "raise LookupError('on purpose')\n")
    script = modules.folder / "script.py"
    text = f"""
        import json, os, signal, time
        from tyndall import serve
        from tyndall.serve import _admin, _server

        @serve.deployment(
            autoscaling_config={SCALING},
            ray_actor_options={{"runtime_env": {{"working_dir": {str(modules.folder)!r}}}}},
            tyndall={{"preload": ["not_there_one", "raises_one", "slow_one"]}},
        )
        def hello():
            return "hello"

        serve.run(hello.bind(), name="told")
        while True:
            (one,) = json.loads(_admin.request("GET", "/api/tyndall/node"))["processes"] or [{{"state": ""}}]
            if one["state"] == "prepared":
                break
            time.sleep(0.02)
        print(one["id"], one["pid"], flush=True)
        os.kill(_server._own._process.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    script.write_text(textwrap.dedent(text))
    env = {name: value for name, value in os.environ.items() if name != "TYNDALL_ADDRESS"}
    env |= {"TYNDALL_PORT": "0", "TYNDALL_ADMIN_PORT": "0"}
    # Standard error is read to its end, so nobody has it open any more: all processes are gone.
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, env=env)
    process, pid = done.stdout.split()
    # What ends closes its files first.
    until(lambda: is_gone(int(pid)))
    assert modules.importers("slow_one") == [int(pid)]
    name = re.escape(f"told_hello {process} -- ")
    assert re.search(rf"INFO .* {name}imported slow_one\n", done.stderr), done.stderr
    cause = "not_there_one of tyndall.preload cannot be imported: ModuleNotFoundError: No module named 'not_there_one'\n"
    assert re.search(rf"WARNING .* {name}{re.escape(cause)}replicas start without it", done.stderr), done.stderr
    raised = r"raises_one of tyndall.preload cannot be imported: Traceback(?s:.*)LookupError: on purpose\n"
    assert re.search(rf"WARNING .* {name}{raised}", done.stderr), done.stderr
