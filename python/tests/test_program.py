"""`python -m tyndall._program`: where an application is found, and what is told of one that is not."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cloudpickle
import pydantic
import pytest

from tyndall import _program, serve
from tyndall._archives import unpacked
from tyndall._program import Source, build, import_root, told

CODE = """
from tyndall import serve

print("noise of an import")


@serve.deployment(max_ongoing_requests=3)
class Greeter:
    def __init__(self, greeting="hello"):
        self.greeting = greeting


app = Greeter.bind()
bare = Greeter
number = 3


class Space:
    app = app


def builder(args: dict):
    return Greeter.options(num_replicas=int(args["replicas"])).bind(args["greeting"])


def raising(args):
    raise ValueError("no such greeting")


def empty(args):
    return None


def nothing():
    return app
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "main.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("def later(:\n")
    (tmp_path / "needs.py").write_text("import not_there_at_all\n")
    return tmp_path


def describe(directory, *source, args=None, **env):
    """The exit status and the answer of a process of its own."""
    command = [sys.executable, "-m", "tyndall._program", *source, "role", "describe"]
    if args is not None:
        command += ["--args", json.dumps(args)]
    paths = [str(Path(_program.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env}
    done = subprocess.run(command, check=False, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("path", ["package.main:app", "package.main.app", "package.main:Space.app"])
def test_an_application_is_described_by_its_import_path(project, path):
    status, answer = describe(project, "--import-path", path)
    assert status == 0, answer
    (deployment,) = answer["deployments"]
    assert (answer["ingress"], deployment["name"], deployment["max_ongoing_requests"]) == ("Greeter", "Greeter", 3)
    assert deployment["init"] == {"args": {}, "init": None}


def test_a_builder_gets_the_arguments(project):
    args = {"replicas": "4", "greeting": "hi"}
    _, answer = describe(project, "--import-path", "package.main:builder", args=args)
    (deployment,) = answer["deployments"]
    assert (deployment["num_replicas"], deployment["init"]["args"]) == (4, args)


def test_a_pickle_is_described_as_what_was_pickled(project):
    @serve.deployment
    class Inside:
        pass

    code = project / "code.pkl"
    code.write_bytes(cloudpickle.dumps(Inside.bind()))
    _, answer = describe(project, "--code", str(code))
    assert answer["ingress"] == "Inside"


@pytest.mark.parametrize(
    "path, expected",
    [
        ("nowhere:app", "ModuleNotFoundError: No module named 'nowhere' in {project}\nname the folder that it is in"),
        ("package.other:app", "ModuleNotFoundError: No module named 'package.other' in {project}\nname the folder"),
        ("package.main:other", "AttributeError: module 'package.main' has no 'other'\nmend the import path"),
        ("package.main:bare", "TypeError: the deployment 'Greeter' is no application\ncall its `.bind()`"),
        ("package.main:number", "TypeError: expected an Application or a function that builds one, not int"),
        ("package.main:empty", "TypeError: the function 'empty' that builds the application returned NoneType"),
        ("package.main:nothing", "TypeError: the function 'nothing' that builds the application takes 0 parameters"),
    ],
)
def test_what_is_no_application_is_told_with_its_cure(project, path, expected):
    status, answer = describe(project, "--import-path", path)
    assert status == 1
    assert answer["error"].startswith(expected.format(project=project)), answer["error"]


@pytest.mark.parametrize(
    "path, frame, last",
    [
        ("package.main:raising", "raise ValueError", "ValueError: no such greeting"),
        ("needs:app", "import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("broken:app", "def later(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_traceback_begins_in_the_code(project, path, frame, last):
    _, answer = describe(project, "--import-path", path)
    error = answer["error"]
    assert frame in error and error.splitlines()[-1].startswith(last), error
    assert "_program.py" not in error and "importlib" not in error, error


def test_what_the_code_exits_with_is_an_error(project):
    (project / "leaving.py").write_text("raise SystemExit('not today')\n")
    status, answer = describe(project, "--import-path", "leaving:app")
    assert status == 1 and answer["error"].endswith("SystemExit: not today")


def test_threads_of_the_code_hold_nothing_up(project):
    threads = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    (project / "busy.py").write_text(threads + "from package.main import app\n")
    status, answer = describe(project, "--import-path", "busy:app")
    assert status == 0 and answer["ingress"] == "Greeter"


def archive_of(directory, into):
    with zipfile.ZipFile(into, "w") as archive:
        for path in directory.rglob("*.py"):
            archive.write(path, path.relative_to(directory.parent))
    return into


def test_code_in_archives_and_modules_is_found(project, tmp_path_factory):
    elsewhere, cache = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("cache")
    packed = archive_of(project, elsewhere / "project.zip")
    env = {"XDG_CACHE_HOME": str(cache)}
    source = ("--import-path", "package.main:app")
    for where in (
        ("--working-dir", str(packed)),
        ("--py-module", str(packed)),
        ("--py-module", str(project / "package")),
        ("--path", str(project)),
    ):
        status, answer = describe(elsewhere, *source, *where, **env)
        assert status == 0, answer
    (unpacked_once,) = (one for one in (cache / "tyndall" / "runtime_env").iterdir() if one.is_dir())
    assert (unpacked_once / project.name / "package" / "main.py").is_file()
    status, answer = describe(elsewhere, *source, **env)
    assert status == 1 and str(elsewhere) in answer["error"]


def test_a_wrapping_folder_is_left_out_and_a_package_stays(project, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wrapped = archive_of(project, tmp_path / "wrapped.zip")
    assert (unpacked(wrapped) / "package").is_dir()
    package = archive_of(project / "package", tmp_path / "package.zip")
    assert (unpacked(package) / "package" / "main.py").is_file()
    assert unpacked(package) == unpacked(package)


def test_entries_of_sys_path_are_those_that_import_the_module(project, tmp_path):
    wheel = tmp_path / "wheel.whl"
    wheel.write_bytes(b"")
    assert import_root(str(project / "package")) == str(project)
    assert import_root(str(project / "broken.py")) == str(project)
    assert import_root(str(wheel)) == str(wheel)
    with pytest.raises(FileNotFoundError, match="py_modules: there is no .*gone\nmend its path"):
        import_root(str(project / "gone"))
    with pytest.raises(FileNotFoundError, match="there is no archive"):
        unpacked(project / "gone.zip")


def test_what_is_no_archive_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bad.zip").write_text("text")
    with pytest.raises(ValueError, match="is no zip archive\nmend its path"):
        unpacked(tmp_path / "bad.zip")
    assert list((tmp_path / "cache" / "tyndall" / "runtime_env").iterdir()) == []


@serve.deployment
class Typed:
    pass


class Arguments(pydantic.BaseModel):
    replicas: int = 2


def test_a_builder_may_have_a_model_of_its_arguments():
    seen = []

    def builder(args: Arguments):
        seen.append(args)
        return Typed.bind()

    build(builder, {"replicas": "7"})
    build(builder, {})
    assert seen == [Arguments(replicas=7), Arguments(replicas=2)]
    with pytest.raises(pydantic.ValidationError):
        build(builder, {"replicas": "many"})

    def plain(args):
        seen.append(args)
        return Typed.bind()

    build(plain, {"a": "b"})
    assert seen[-1] == {"a": "b"}


def test_an_application_that_is_built_takes_no_arguments():
    app = Typed.bind()
    assert build(app, {}) is app
    with pytest.raises(ValueError, match=r"arguments \['a'\] were given, and the application is built already\nname"):
        build(app, {"a": "b"})


def test_a_chain_of_causes_stays_whole():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        text = told(error)
    assert "KeyError: 'first'" in text and text.endswith("ValueError: second")


def test_the_command_line_names_its_role(capsys):
    app = ["--import-path", "a:b"]
    for words, cause in (
        ([], "which role is missing"),
        (app, "which role is missing"),
        ([*app, "role", "other"], "which role is missing"),
        (["role", "describe"], "one of --import-path and --code is needed"),
        ([*app, "--code", "c", "role", "describe"], "one of --import-path and --code is needed"),
        ([*app, "--path", "role", "describe"], "--path has no value"),
        ([*app, "--paths", "p", "role", "describe"], "there is no --paths"),
        ([*app, "role", "warm", "--id", "w"], "--application is missing"),
    ):
        with pytest.raises(SystemExit):
            _program.main(words)
        said = capsys.readouterr().err
        assert said == f"python -m tyndall._program: {cause}; the server starts this, not a person\n"


def test_a_source_goes_where_the_application_runs(project, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(project.parent)
    Source(import_path="a:b", working_dir=str(project), path=["/beside"]).prepare()
    assert os.getcwd() == str(project)
    assert sys.path[:2] == [str(project), "/beside"] and "" not in sys.path


def test_functions_of_services_that_cannot_be_had_are_told_and_no_more(project):
    (project / "services.py").write_text("def add(servicer, server):\n    pass\n")
    command = [sys.executable, "-m", "tyndall._program", "--import-path", "package.main:app", "role", "describe"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(_program.__file__).parent.parent),
        "TYNDALL_GRPC_SERVICER_FUNCTIONS": "services:add,absent.add_to_server,needs:add",
    }
    done = subprocess.run(command, check=False, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "error" not in json.loads(done.stdout)
    lines = [line for line in done.stderr.splitlines() if "grpc_servicer_functions" in line]
    assert [line.split("'")[1] for line in lines] == ["absent.add_to_server", "needs:add"]
    assert all("; mend its path, or put its module" in line for line in lines)
