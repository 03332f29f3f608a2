"""The command `serve`: the binary `tyndall`, called by Ray's name, answers as Ray's does."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def serve() -> None:
    beside = Path(sys.executable).with_name("tyndall")
    binary = str(beside) if beside.is_file() else os.environ.get("TYNDALL_BIN") or shutil.which("tyndall")
    if binary is None:
        sys.exit("the command `tyndall` is not there\ninstall the package again: pip install --force-reinstall tyndall")
    os.execv(binary, ["serve", *sys.argv[1:]])
