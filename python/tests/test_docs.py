"""Every block of `docs/python.md` does what the page says; `docs/migration.md` names what is there and nothing else.

A comment before a block says what is special about it: `<!-- file NAME -->` keeps it for the blocks that follow,
`<!-- background until URL -->` starts it and waits for the URL, `<!-- interrupts the background -->` ends that one.
"""

import ast
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from test_examples import DEADLINE_S, ROOT, binary

PAGE = ROOT / "docs/python.md"


@dataclass
class Block:
    language: str
    note: str
    code: str
    line: int


def blocks(text):
    found, note, begun = [], "", None
    for number, line in enumerate(text.splitlines(), 1):
        if begun is not None and line == "```":
            found.append(begun)
            begun = None
        elif begun is not None:
            begun.code += line + "\n"
        elif line.startswith("```"):
            begun, note = Block(line[3:], note, "", number), ""
        elif line.startswith("<!-- "):
            note = line.removeprefix("<!-- ").removesuffix(" -->")
        elif line:
            note = ""
    return found


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Reader:
    """Someone who follows the page, in a folder of their own."""

    def __init__(self, home):
        self.home = home
        self.folder = home / "work"
        self.folder.mkdir()
        commands = home / "bin"
        commands.mkdir()
        (commands / "tyndall").symlink_to(binary())
        # A link would lose the environment that the interpreter is part of.
        (commands / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (commands / "python").chmod(0o755)
        self.port, self.grpc_port = free_port(), free_port()
        self.env = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "python"),
            "TYNDALL_PYTHON": sys.executable,
            "TYNDALL_PORT": str(self.port),
            "TYNDALL_ADMIN_PORT": str(free_port()),
            "TYNDALL_HOME": str(home),
            "XDG_CACHE_HOME": str(home),
        }
        self.env.pop("TYNDALL_ADDRESS", None)
        self.background = None

    def read(self, block, before):
        """Does what a block says, and gives what it printed."""
        kind, _, rest = block.note.partition(" ")
        if kind == "file":
            (self.folder / rest).write_text(block.code)
        code = block.code.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        code = re.sub(r"(127\.0\.0\.1:|--grpc-port )9000", rf"\g<1>{self.grpc_port}", code)
        if block.language == "proto":
            return ""
        if block.language == "python":
            return self.python(code, is_local=kind != "served")
        if block.language == "yaml":
            return self.run(["tyndall", "config", "check", "/dev/stdin"], block.code)
        if block.language == "json":
            assert json.loads(before) == json.loads(block.code)
            return before
        assert block.language == "sh", block.language
        if kind == "background":
            self.start(code, rest.removeprefix("until ").replace(":8000", f":{self.port}"))
            return ""
        printed = self.run(["bash", "-euo", "pipefail", "-c", code])
        if kind == "interrupts":
            assert self.background.wait(DEADLINE_S) == 0
            self.background = None
        return printed

    def python(self, code, is_local):
        env = {**self.env, "RAY_SERVE_FORCE_LOCAL_TESTING_MODE": "1"} if is_local else self.env
        return self.run([sys.executable, "-c", code], env=env)

    def run(self, command, text="", env=None):
        done = subprocess.run(
            command, input=text, cwd=self.folder, env=env or self.env, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, code, url):
        self.background = subprocess.Popen(["bash", "-c", f"exec {code}"], cwd=self.folder, env=self.env)
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            assert self.background.poll() is None, "it ended"
            try:
                urllib.request.urlopen(url, timeout=DEADLINE_S).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError(f"{url} never answers")

    def close(self):
        if self.background is not None:
            self.background.send_signal(signal.SIGTERM)
            self.background.wait(DEADLINE_S)


def test_the_guide_can_be_followed(tmp_path):
    reader = Reader(tmp_path)
    before = ""
    try:
        for block in blocks(PAGE.read_text()):
            try:
                before = reader.read(block, before)
            except AssertionError as error:
                raise AssertionError(f"{PAGE.name}:{block.line}: {error}") from error
    finally:
        reader.close()


# --- The tables of names in docs/migration.md ---------------------------------------------------------------------------


def rows():
    text = (ROOT / "docs/migration.md").read_text()
    return re.findall(r"^\| `(ray[\w.]*)` \| (all|absent|part: .*) \|$", text, re.MULTILINE)


def of_ray(module):
    """The public classes and functions of a module of Ray, as it lists them or defines them."""
    # Read and not imported: modules of models want libraries that a test has not.
    path = Path(importlib.util.find_spec("ray").origin).parents[1].joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return {one for one in ast.literal_eval(node.value) if not one.startswith("_")}
    defined = (node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)))
    return {node.name for node in defined if not node.name.startswith("_")}


def said_of_ray(code):
    """What a process prints in which `ray` is Tyndall."""
    program = f"from tyndall import compat\ncompat.install()\nimport importlib, json\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_of_names_is_true():
    named = {
        module: sorted(of_ray(module) if said == "all" else re.findall(r"`(\w+)`", said)) for module, said in rows()
    }
    missing = said_of_ray(f"""
found = {{}}
for module, names in {named!r}.items():
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        cause, cure = str(error).splitlines()
        found[module] = None
    else:
        found[module] = [name for name in names if not hasattr(loaded, name)]
print(json.dumps(found))
""")
    for module, said in rows():
        assert missing[module] == (None if said == "absent" else []), module


def test_the_table_has_every_module_of_ray_serve():
    folder = Path(importlib.util.find_spec("ray").origin).parent / "serve"
    here = {f"ray.serve.{path.stem}" for path in folder.glob("*.py") if path.stem not in ("__init__", "scripts", "utils")}
    here |= {f"ray.serve.llm.{path.stem}" for path in (folder / "llm").glob("*.py") if path.stem != "__init__"}
    assert here <= {module for module, _ in rows()}
