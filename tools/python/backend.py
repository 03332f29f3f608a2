"""Builds the Python package: maturin's extension module, and beside it the command `tyndall`.

`pip` calls the functions here by PEP 517 and PEP 660; all but the command is maturin's work.
"""

import json
import shutil
import subprocess
from pathlib import Path

import maturin
from maturin import (  # noqa: F401
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "target/tyndall.data/scripts"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    put_command()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    put_command()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    # maturin wants to see the folder, of which the metadata say nothing.
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def put_command():
    """Builds the binary and puts it where the wheel takes commands from."""
    build = ["cargo", "build", "--release", "--locked", "--package", "tyndall-cli", "--message-format", "short"]
    subprocess.run(build, cwd=ROOT, check=True)
    metadata = ["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"]
    described = json.loads(subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True).stdout)
    binary = Path(described["target_directory"]) / "release/tyndall"
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    shutil.copy2(binary, SCRIPTS / "tyndall")
