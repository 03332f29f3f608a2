"""`python -m tyndall.compat SCRIPT ARGUMENT…` or `-m MODULE ARGUMENT…`: a program in which `ray` is Tyndall."""

from __future__ import annotations

import os
import runpy
import sys

from tyndall import compat

_USAGE = """usage: python -m tyndall.compat SCRIPT [ARGUMENT…]
       python -m tyndall.compat -m MODULE [ARGUMENT…]

Runs a program that was written for Ray Serve; `import ray` is Tyndall in it."""


def main(argv: list[str]) -> int:
    """Runs the program in this process; its end is this one's."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stderr if not argv else sys.stdout)
        return 0 if argv else 2
    compat.install()
    if argv[0] == "-m":
        if len(argv) < 2:
            print(f"error: -m names no module\n{_USAGE}", file=sys.stderr)
            return 2
        # `python -m` has put the current directory in front already.
        sys.argv[:] = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return 0
    script = argv[0]
    if not os.path.exists(script):
        print(f"error: there is no script {script}\nname a file, or a module with -m", file=sys.stderr)
        return 2
    sys.argv[:] = argv
    # As `python SCRIPT` has it: what the script imports lies beside it.
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
