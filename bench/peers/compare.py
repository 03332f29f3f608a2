"""The same work on Tyndall and its peers, in turn, with ratios run by run.

    python bench/peers/compare.py --tyndall target/release/tyndall --models /tmp/checkpoints

Each round visits every target once: starts it, measures its rows, ends it. A drift of the machine so meets
all of them alike. Only one target runs at a time. Needs Linux and Python 3.11; the peers are optional.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import machine
from figures import OURS, Results
from llama_cpp import LlamaCpp
from processes import PeerError, end_descendants, nothing_stays
from ray_serve import RayServe
from target import Checkpoint, Setup, Target
from ours import Tyndall
from work import ROWS, Work
from worker import OpenVino, Transformers

PEERS = ["transformers", "openvino", "llama.cpp", "ray-serve"]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tyndall", default="target/release/tyndall", help="the binary (default: %(default)s)")
    add("--models", type=Path, required=True, help="folder of make_checkpoints.py")
    add("--model", default="qwen2-0.5b-random", help="of every row (default: %(default)s); demo is the built-in one")
    add("--small-model", default="opt-125m-random", help="of the first cold start (default: %(default)s)")
    add("--peers", type=listed(PEERS), default=PEERS, help=f"of {','.join(PEERS)}; empty for none (default: all)")
    add("--rows", type=listed(ROWS), default=ROWS, help=f"of {','.join(ROWS)} (default: all)")
    add("--rounds", type=positive, default=3, help="visits of each target (default: %(default)s)")
    add("--ray-rounds", type=positive, default=1, help="of these, with Ray Serve, which is slow (default: %(default)s)")
    add("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="of every target (default: all cores)")
    add("--tokens", type=positive, default=64, help="output tokens of a request (default: %(default)s)")
    add("--prefill", type=positive, default=512, help="prompt tokens of the row prefill512 (default: %(default)s)")
    add("--waves", type=positive, default=1, help="requests per stream of a serving row (default: %(default)s)")
    add("--dtype", choices=["bf16", "f32"], default="bf16", help="of transformers, OpenVINO and Ray Serve")
    add("--timeout", type=positive, default=120, help="seconds of one request or start (default: %(default)s)")
    add("--budget", type=positive, default=840, help="no visit starts after that many seconds (default: %(default)s)")
    add("--transformers-python", default=sys.executable, help="interpreter with transformers (default: this one)")
    add("--openvino-python", default=sys.executable, help="interpreter with openvino-genai (default: this one)")
    add("--openvino-model", help="folder of export_openvino.py (default: MODELS/MODEL-openvino)")
    add("--ray-python", default=sys.executable, help="interpreter with ray[serve], transformers (default: this one)")
    add("--llama-server", default="llama-server", help="llama.cpp's server (default: from PATH)")
    add("--llama-bench", default="llama-bench", help="llama.cpp's benchmark (default: from PATH)")
    add("--gguf", help="the same model for llama.cpp (default: MODELS/MODEL.gguf)")
    add("--json", type=Path, help="also write the figures of every round here")
    return parser.parse_args(argv)


def listed(known: list[str]):
    """A reader of comma-separated names."""

    def read(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return [name for name in known if name in names]

    return read


def positive(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def checkpoint(args: argparse.Namespace, name: str) -> Checkpoint:
    """A model of the command line."""
    if name == "demo":
        return Checkpoint(name)
    folder = args.models / name
    if not (folder / "config.json").is_file():
        raise PeerError(f"no checkpoint in {folder}: python bench/peers/make_checkpoints.py {args.models}")
    return Checkpoint(str(folder.absolute()))


def targets(args: argparse.Namespace) -> list[Target]:
    """Ours first, then the peers asked for that are installed; says which are not."""
    work = Work(args.threads, args.tokens, args.prefill, args.waves, args.dtype, args.timeout)
    setup = Setup(checkpoint(args, args.model), checkpoint(args, args.small_model), work)
    openvino_model = args.openvino_model or str(args.models / f"{args.model}-openvino")
    gguf = args.gguf or str(args.models / f"{args.model}.gguf")
    ours = Tyndall(setup, args.tyndall)
    if reason := ours.missing():
        raise PeerError(reason)
    peers = {
        "transformers": lambda: Transformers(setup, args.transformers_python, setup.model.path),
        "openvino": lambda: OpenVino(setup, args.openvino_python, openvino_model),
        "llama.cpp": lambda: LlamaCpp(setup, args.llama_server, args.llama_bench, gguf),
        "ray-serve": lambda: RayServe(setup, args.ray_python),
    }
    found: list[Target] = [ours]
    for name in args.peers:
        peer = peers[name]()
        if reason := peer.missing():
            say(f"{name} is skipped: {reason}")
        else:
            found.append(peer)
    return found


def measure(args: argparse.Namespace, found: list[Target], results: Results) -> list[str]:
    """All rounds. Returns what went wrong; a target that failed is not visited again."""
    failures: dict[str, str] = {}
    end_s = time.monotonic() + args.budget
    for number in range(args.rounds):
        for index, target in enumerate(found):
            rows = [row for row in args.rows if row in target.rows]
            late = target.name == RayServe.name and number >= args.ray_rounds
            if target.name in failures or late or not rows:
                continue
            if time.monotonic() > end_s:
                return [*failures.values(), f"--budget of {args.budget} s is spent: the figures so far follow"]
            start_s = time.monotonic()
            try:
                # Every visit has prompts of its own.
                for figure in target.visit(rows, 1000 * (number * len(found) + index + 1)):
                    results.add(figure.row, target.name, figure.value, figure.unit)
            except PeerError as error:
                failures[target.name] = f"{target.name} failed: {error}"
                say(failures[target.name])
            finally:
                end_descendants()
            say(f"round {number + 1} of {args.rounds}: {target.name}, {time.monotonic() - start_s:.0f} s")
    return list(failures.values())


def order(results: Results) -> list[str]:
    """The rows that have figures, as in ROWS; a cold start names its model after the row."""
    return sorted(results.values, key=lambda row: ROWS.index(row.split(" ")[0]))


def say(text: str) -> None:
    """Progress goes to standard error, figures to standard output."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 where a target that is installed failed or time ran out."""
    args = arguments(argv)
    about = machine.describe()
    results = Results()
    try:
        with nothing_stays():
            found = targets(args)
            failures = measure(args, found, results)
            descriptions = {target.name: target.describe() for target in found}
    except PeerError as error:
        say(str(error))
        return 2
    rows = order(results)
    print(f"machine: {about}")
    print(f"work: {args.model}, {args.threads} threads, {args.tokens} tokens a request, prompts of 32 words,")
    print(f"  prefill of {args.prefill} tokens, {args.rounds} rounds, median (minimum … maximum)")
    for name, text in descriptions.items():
        print(f"{name}: {text}")
    print(f"\n{results.table(rows)}\n")
    print(f"A ratio says how many times better {OURS} is, run by run.")
    for failure in failures:
        print(failure.splitlines()[0])
    if args.json:
        page = {"machine": about, "arguments": vars(args) | {"models": str(args.models), "json": str(args.json)}}
        page |= {"targets": descriptions, "rows": results.as_json(rows), "failures": failures}
        args.json.write_text(json.dumps(page, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
