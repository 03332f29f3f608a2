"""Applications on their way to the server: with their code, from config files, and by their import path."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile

import httpx
import pytest

from tyndall import serve
from tyndall.serve import _admin, _server
from tyndall.serve.exceptions import RayServeException


@serve.deployment
class Place:
    """Says where it runs."""

    def __init__(self, word=""):
        self.word = word

    def reconfigure(self, config):
        self.word = config["word"]

    def __call__(self):
        return {"word": self.word, "pid": os.getpid(), "cwd": os.getcwd(), "variable": os.environ.get("PLACE")}


def test_every_run_starts_replicas_anew_and_leaves_others_alone(deploy):
    other, _ = deploy(Place.bind("other"))
    before = other.get("/").json()
    client, _ = deploy(Place.bind("one"), name="again")
    first = client.get("/").json()
    deploy(Place.bind("one"), name="again")
    second = client.get("/").json()
    assert first["word"] == second["word"] == "one" and first["pid"] != second["pid"]
    assert first["cwd"] == os.getcwd()
    assert other.get("/").json() == before


def test_what_is_defined_inside_of_a_function_goes_along(deploy):
    factor = 7

    @serve.deployment
    def times():
        return factor * 6

    client, _ = deploy(times.bind())
    assert client.get("/").json() == 42


def test_a_deployment_has_a_runtime_env_of_its_own(deploy, tmp_path):
    env = {"env_vars": {"PLACE": "set"}, "working_dir": str(tmp_path)}
    client, _ = deploy(Place.options(ray_actor_options={"runtime_env": env}).bind())
    there = client.get("/").json()
    assert (there["cwd"], there["variable"]) == (str(tmp_path), "set")


def test_a_version_that_fails_gives_way_and_says_why(deploy):
    client, _ = deploy(Place.bind("good"), name="fails")

    class UserError(Exception):
        pass

    @serve.deployment
    class Broken:
        def __init__(self):
            raise UserError("on purpose")

    with pytest.raises(RuntimeError, match="(?s)^Deploying application fails failed: .*UserError: on purpose"):
        serve.run(Broken.bind(), name="fails", route_prefix="/fails")
    assert client.get("/").json()["word"] == "good"
    with pytest.raises(RuntimeError, match="(?s)^Deploying application new failed: .*UserError: on purpose"):
        serve.run(Broken.bind(), name="new", route_prefix="/new")
    serve.delete("new")


def test_two_applications_are_not_at_one_place(deploy):
    deploy(Place.bind(), name="first")
    expected = 'Prefix /first is being used by application "first". Failed to deploy application "second".'
    with pytest.raises(RayServeException) as told:
        serve.run(Place.bind(), name="second", route_prefix="/first")
    assert str(told.value) == expected


# --- From files -------------------------------------------------------------------------------------------------------

CODE = """
import os
from tyndall import serve


@serve.deployment
class Place:
    def __init__(self, word):
        self.word = word

    def reconfigure(self, config):
        self.word = config["word"]

    def __call__(self):
        import beside
        return {"word": self.word, "pid": os.getpid(), "cwd": os.getcwd(), "beside": beside.VALUE}


def build(args: dict):
    return Place.bind(args.get("word", "none"))


app = build({})
"""


@pytest.fixture
def http(server):
    """A client of the server."""
    with httpx.Client(base_url=server[1], timeout=60) as client:
        yield client


@pytest.fixture
def project(tmp_path, server):
    """A folder with an application, whose name is this test's alone."""
    module = f"code_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(CODE)
    (tmp_path / "lib" / "beside").mkdir(parents=True)
    (tmp_path / "lib" / "beside" / "__init__.py").write_text("VALUE = 5\n")
    yield tmp_path, module
    _tyndall("deploy", _config(tmp_path / "none.json"))


def _tyndall(*words, cwd=None):
    command = [_server.binary(), *map(str, words), "--address", _admin.address()]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)


def _config(path, *applications):
    path.write_text(json.dumps({"applications": applications}))
    return path


def test_a_config_file_runs_code_from_an_archive_and_changes_it_in_place(project, server, http, tmp_path):
    folder, module = project
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.write(folder / f"{module}.py", f"{module}.py")
    application = {
        "name": "filed",
        "route_prefix": "/filed",
        "import_path": f"{module}:build",
        "args": {"word": "from the file"},
        "runtime_env": {"working_dir": "code.zip", "py_modules": ["lib/beside"]},
    }
    done = _tyndall("deploy", "--wait", _config(tmp_path / "serve.json", application))
    assert done.returncode == 0, done.stderr
    first = http.get("/filed").json()
    assert (first["word"], first["beside"]) == ("from the file", 5)
    assert first["cwd"] != str(folder)

    application["deployments"] = [{"name": "Place", "user_config": {"word": "configured"}}]
    assert _tyndall("deploy", "--wait", _config(tmp_path / "serve.json", application)).returncode == 0
    second = http.get("/filed").json()
    assert (second["word"], second["pid"]) == ("configured", first["pid"])


def test_an_import_path_is_deployed_where_the_command_runs(project, server, http):
    folder, module = project
    env = json.dumps({"py_modules": ["lib/beside"]})
    words = ("deploy", "--wait", f"{module}.build", "word=said", "--route-prefix", "/said", "--runtime-env-json", env)
    done = _tyndall(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    there = http.get("/said").json()
    assert (there["word"], there["cwd"], there["beside"]) == ("said", str(folder), 5)


def test_what_the_code_raises_is_told(project, server):
    folder, _ = project
    (folder / "broken.py").write_text(
        textwrap.dedent("""
        def build(args):
            raise LookupError("no such thing")
    """)
    )
    done = _tyndall("deploy", "--wait", "broken:build", "--name", "broken", cwd=folder)
    assert done.returncode == 1
    assert "Deploying app 'broken' failed with exception:\nTraceback" in done.stderr
    assert "LookupError: no such thing" in done.stderr
    status = serve.status().applications["broken"]
    assert status.status == "DEPLOY_FAILED" and "LookupError: no such thing" in status.message
    done = _tyndall("deploy", "--wait", "not_there:app", "--name", "broken", cwd=folder)
    assert f"ModuleNotFoundError: No module named 'not_there' in {folder}\nname the folder" in done.stderr


def test_a_server_ends_with_its_program_however_that_ends(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal
        from tyndall import serve
        from tyndall.serve import _server

        @serve.deployment
        def hello():
            return "hello"

        serve.run(hello.bind())
        print(_server._own._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    )
    env = {name: value for name, value in os.environ.items() if name != "TYNDALL_ADDRESS"}
    env |= {"TYNDALL_PORT": "0", "TYNDALL_ADMIN_PORT": "0"}
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, env=env)
    assert done.stdout.strip().isdigit(), done.stderr
    # Standard error was read to its end, so nobody has it open any more: all processes are gone.
    assert "shutting down" in done.stderr
