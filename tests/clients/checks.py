"""What the checks of the clients have in common."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

MODEL = "served"


def url() -> str:
    """The server that run.py has started."""
    return os.environ["TYNDALL_URL"]


def admin_url() -> str:
    """The same server's admin API."""
    return os.environ["TYNDALL_ADMIN_URL"]


def work() -> Path:
    """A folder of this run alone; what prepare.py made is there."""
    return Path(os.environ["CLIENT_WORK"])


def run(*checks: Callable[[], str | None]) -> None:
    """Runs every check, says what was checked, and ends the process with 1 where one has failed.

    A check is named by the first line of its text, and what it returns is said beside that.
    """
    failed = False
    for check in checks:
        what = check.__doc__.splitlines()[0].rstrip(".")
        try:
            found = check()
        except Exception:  # the others are still of interest
            traceback.print_exc()
            print(f"FAILED {what}", flush=True)
            failed = True
            continue
        print(f"checked {what}{f' ({found})' if found else ''}", flush=True)
    sys.exit(1 if failed else 0)
