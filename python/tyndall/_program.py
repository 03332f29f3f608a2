"""`python -m tyndall._program SOURCE role NAME …`: an application as a program.

The server starts it, not a person:

- `SOURCE` is `--import-path MODULE:ATTRIBUTE` or `--code FILE`, which is a pickle, then `--working-dir ARCHIVE`,
  `--py-module PATH` and `--path DIRECTORY` as often as there are some.
- `role describe --args JSON` prints what the application has, as one JSON object, or `{"error": TRACEBACK}`; each
  `--policy PATH` is an autoscaling policy that must be there, each `--router PATH` a request router.
- `role policies …` answers for its autoscaling policies (`tyndall.serve._policies`).
- `role router …` answers for its request routers (`tyndall.serve._routers`).
- `role actor …` is an actor of one of its deployments (`tyndall.serve._actor`).
- `role replica …` is a replica of one of its deployments (`tyndall.serve._replica`).
- `role warm …` imports and waits, to become such a replica (`tyndall._warm`).

All build the application anew: what they share with the process that deployed it is the code.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tyndall import compat

Load = Callable[[dict[str, Any]], Any]
"""Makes the application of its arguments."""

_BESIDE = {"actor": "_actor", "policies": "_policies", "router": "_routers"}
"""Roles of processes beside the replicas, and the modules that carry them out."""

_IMPORT_MACHINERY = ("<frozen importlib", importlib.__file__, __file__)


def main(argv: list[str]) -> int:
    """Runs one role and returns its exit status."""
    source, role, rest = _parse(argv)
    if role == "describe":
        return _describe(source, rest)
    if role in _BESIDE:
        return _beside(source, role, rest)
    if role == "warm":
        from tyndall import _warm

        words = _warm.wait(source, rest)
        if words is None:
            return 0
        rest = words
    else:
        source.prepare()
    from tyndall.serve import _replica

    status: int = _replica.main(source.load, rest)
    return status


# --- The command line -------------------------------------------------------------------------------------------------


def _parse(argv: list[str]) -> tuple[Source, str, list[str]]:
    # What comes after the role is the role's.
    at = argv.index("role") if "role" in argv else len(argv)
    given = options(argv[:at], ("--import-path", "--code", "--working-dir", "--py-module", "--path"))
    role = argv[at + 1 :]
    if not role or role[0] not in ("describe", "replica", "warm", *_BESIDE):
        raise _misused("which role is missing")
    import_path, code, working_dir = map(last, (given["--import-path"], given["--code"], given["--working-dir"]))
    if (import_path is None) == (code is None):
        raise _misused("one of --import-path and --code is needed")
    source = Source(import_path, code, working_dir, given["--py-module"], given["--path"])
    return source, role[0], role[1:]


def options(words: list[str], names: Collection[str], required: Collection[str] = ()) -> dict[str, list[str]]:
    """The values of each. Every replica reads its words so; what `argparse` takes of memory it would keep."""
    given: dict[str, list[str]] = {name: [] for name in names}
    if len(words) % 2:
        raise _misused(f"{words[-1]} has no value")
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name not in given:
            raise _misused(f"there is no {name}")
        given[name].append(value)
    for name in required:
        if not given[name]:
            raise _misused(f"{name} is missing")
    return given


def last(values: list[str]) -> str | None:
    """What counts where a word was given again."""
    return values[-1] if values else None


def _misused(cause: str) -> SystemExit:
    print(f"python -m tyndall._program: {cause}; the server starts this, not a person", file=sys.stderr)
    return SystemExit(2)


@dataclass(frozen=True)
class Source:
    """Where an application is, and what it may import."""

    import_path: str | None = None
    code: str | None = None
    working_dir: str | None = None
    """Absent is where the process already runs."""
    py_modules: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Goes where the application runs and makes what it imports importable."""
        started_in = os.getcwd()
        if self.working_dir is not None:
            os.chdir(_unpacked(Path(self.working_dir)) if _is_archive(self.working_dir) else self.working_dir)
        first = [os.getcwd(), *map(import_root, self.py_modules), *self.path]
        # `python -m` has put the directory in front where it was started.
        rest = [entry for entry in sys.path if entry not in ("", started_in)]
        sys.path[:] = list(dict.fromkeys([*first, *rest]))
        importlib.invalidate_caches()
        # What was written for Ray Serve runs as it is.
        compat.install_for_application()

    def load(self, args: dict[str, Any]) -> Any:
        """Makes the application; the import path or the pickle may be one, or a function that builds one."""
        if self.import_path is not None:
            return build(imported(self.import_path), args)
        import cloudpickle  # type: ignore[import-untyped]

        assert self.code is not None, "the command line has one of both"
        with open(self.code, "rb") as file:
            return build(cloudpickle.load(file), args)


# --- What an application is built from --------------------------------------------------------------------------------


def imported(import_path: str) -> Any:
    """What `module:attribute` or `module.attribute` names."""
    module_name, separator, attribute = import_path.partition(":")
    if not separator:
        module_name, _, attribute = import_path.rpartition(".")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        root = module_name.partition(".")[0]
        if error.name in (root, module_name):
            raise ModuleNotFoundError(
                f"No module named {error.name!r} in {os.getcwd()}\n"
                "name the folder that it is in with --app-dir, or as working_dir under runtime_env",
                name=error.name,
            ) from None
        raise
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AttributeError(
                f"module {module_name!r} has no {attribute!r}\nmend the import path {import_path!r}"
            ) from None
    return found


def build(target: Any, args: dict[str, Any]) -> Any:
    """The application itself, or what a function of one parameter builds of the arguments."""
    from tyndall.serve.deployment import Application, Deployment

    if isinstance(target, Application):
        if args:
            raise ValueError(
                f"arguments {sorted(args)} were given, and the application is built already\n"
                "name a function that builds it of them"
            )
        return target
    if isinstance(target, Deployment):
        raise TypeError(f"the deployment {target.name!r} is no application\ncall its `.bind()`")
    if not inspect.isfunction(target):
        raise TypeError(
            f"expected an Application or a function that builds one, not {type(target).__name__}\n"
            "make an Application with `.bind()` of a deployment"
        )
    app = target(_typed(target, args))
    if not isinstance(app, Application):
        raise TypeError(
            f"the function {target.__name__!r} that builds the application returned {type(app).__name__}\n"
            "return an Application, which `.bind()` of a deployment makes"
        )
    return app


def _typed(builder: Callable[..., Any], args: dict[str, Any]) -> Any:
    """The arguments as the builder's only parameter wants them: a dict, or a pydantic model."""
    parameters = inspect.signature(builder).parameters
    if len(parameters) != 1:
        raise TypeError(
            f"the function {builder.__name__!r} that builds the application takes {len(parameters)} parameters\n"
            "let it take one: a dict of the arguments, or a pydantic model of them"
        )
    (name,) = parameters
    try:
        kind = typing.get_type_hints(builder).get(name)
    except NameError:
        # An annotation that cannot be looked up, as under `TYPE_CHECKING`, says nothing.
        kind = None
    # By name, because both versions of pydantic have their own and it is no dependency.
    for validate in ("model_validate", "parse_obj"):
        if inspect.isclass(kind) and hasattr(kind, validate):
            return getattr(kind, validate)(args)
    return args


# --- Files ------------------------------------------------------------------------------------------------------------


def _is_archive(path: str) -> bool:
    return path.lower().endswith(".zip")


def _unpacked(archive: Path) -> Path:
    # Most replicas have no archive, and need nothing of what reads them.
    from tyndall._archives import unpacked

    return unpacked(archive)


def import_root(module: str) -> str:
    """The entry of `sys.path` from which a package, module, archive or wheel is imported."""
    path = Path(module).absolute()
    if not path.exists():
        raise FileNotFoundError(f"py_modules: there is no {path}\nmend its path under runtime_env")
    if _is_archive(module):
        return str(_unpacked(path))
    # A wheel is an archive that Python imports from as it is.
    return str(path if path.suffix == ".whl" else path.parent)


# --- Roles ------------------------------------------------------------------------------------------------------------


def end_with(parent_pid: int) -> None:
    """Asks the kernel to kill this process when its parent dies."""
    from tyndall import _tyndall

    try:
        _tyndall.end_with(parent_pid)
    except ProcessLookupError as error:
        raise SystemExit(str(error)) from None


def _describe(source: Source, argv: list[str]) -> int:
    given = options(argv, ("--args", "--policy", "--router", "--parent-pid"))
    args = json.loads(last(given["--args"]) or "{}")
    if parent_pid := last(given["--parent-pid"]):
        end_with(int(parent_pid))
    # What the code prints while it is imported is not the answer.
    answer_to = os.dup(1)
    os.dup2(2, 1)
    try:
        source.prepare()
        from tyndall.serve._graph import describe

        answer = describe(source.load(args), args, given["--policy"], given["--router"])
        _warn_of_services()
        text = json.dumps(answer)
    except BaseException as error:  # noqa: BLE001, whatever the code ends with is the answer
        answer = {"error": told(error)}
        text = json.dumps(answer)
    sys.stdout.flush()
    with os.fdopen(answer_to, "w") as file:
        file.write(text)
    return 1 if "error" in answer else 0


def _warn_of_services() -> None:
    """Tells of functions for gRPC that cannot be had. The application is built in any case: it may need none."""
    from tyndall.serve import _grpc_services

    for line in _grpc_services.unusable(os.environ):
        print(line, file=sys.stderr)


def _beside(source: Source, role: str, argv: list[str]) -> int:
    """Tied to its parent before any of the application's code runs."""
    end_with(int(argv[argv.index("--parent-pid") + 1]))
    source.prepare()
    module = importlib.import_module(f"tyndall.serve.{_BESIDE[role]}")
    status: int = module.main(source.load, argv)
    return status


def told(error: BaseException) -> str:
    """A traceback without the frames before the application's own."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_IMPORT_MACHINERY):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).strip()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if "describe" in sys.argv:
        # The answer is out: threads that the code has started are not waited for.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
