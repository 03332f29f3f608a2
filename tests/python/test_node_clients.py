"""The Node clients of tests/node, where there is a Node to run them with."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests/node"
INSTALLED = ROOT / "target/node"
NODE, NPM = shutil.which("node"), shutil.which("npm")


@pytest.fixture(scope="module")
def installed():
    """The clients as the lock file has them; installed anew when it changed."""
    lock = (FILES / "package-lock.json").read_bytes()
    stamp = INSTALLED / "installed.json"
    if not (stamp.is_file() and stamp.read_bytes() == lock):
        INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(FILES / name, INSTALLED)
        install = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        subprocess.run(install, cwd=INSTALLED, check=True)
        stamp.write_bytes(lock)
    for file in FILES.glob("*.test.mjs"):
        shutil.copy(file, INSTALLED)
    return INSTALLED


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_node_client(server, installed, client):
    ran = subprocess.run(
        [NODE, "--test", f"{client}.test.mjs"],
        cwd=installed,
        env={**os.environ, "TYNDALL_URL": server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "pass 0" not in ran.stdout, ran.stdout
