"""lm-eval's tasks through the completions API, against its own computation with transformers on the same weights.

Log-likelihoods may differ by what f32 does to sums in another order. A token's own is a difference of logits of up to
about 10, which two orders of adding give alike to some of f32's last places, 1e-6 each: ABSOLUTE is ten of those.
The sum over the tokens grows to 1,400, of which f32, in which transformers sums up, holds 6e-8: RELATIVE is sixteen
of those. The items are such that the best choice leads by more than twice that, so equal choices are no luck.
"""

import functools
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from checks import MODEL, run, url, work

TASKS = Path(__file__).parent / "tasks"
CHOICES, TEXTS, ANSWERS = "seeded_choices", "seeded_texts", "seeded_answers"
ABSOLUTE, RELATIVE = 1e-5, 1e-6
SERVED = f"model={MODEL},base_url={url()}/v1/completions,tokenizer=model,tokenizer_backend=huggingface,max_length=512"


@functools.cache
def evaluated(name: str, model: str, arguments: str, *tasks: str) -> dict[str, list[dict]]:
    """The samples of each task, as the command line tool writes them."""
    command = [Path(sys.executable).parent / "lm_eval", "run", "--model", model, "--model_args", arguments]
    command += ["--device", "cpu", "--tasks", *tasks, "--include_path", TASKS]
    command += ["--batch_size", "4", "--output_path", name, "--log_samples"]
    done = subprocess.run(command, cwd=work(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {task: samples(work() / name, task) for task in tasks}


def samples(folder: Path, task: str) -> list[dict]:
    (path,) = folder.glob(f"*/samples_{task}_*.jsonl")
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def reference() -> dict[str, list[dict]]:
    return evaluated("reference", "hf", "pretrained=model,dtype=float32", CHOICES, TEXTS, ANSWERS)


def by_tokens() -> dict[str, list[dict]]:
    arguments = f"{SERVED},num_concurrent=8"
    return evaluated("tokens", "local-completions", arguments, CHOICES, TEXTS, ANSWERS)


def tolerance(value: float) -> float:
    return ABSOLUTE + RELATIVE * abs(value)


def close(value: float, expected: float) -> float:
    """How far two log-likelihoods are from each other, which is no more than they may be."""
    difference = abs(value - expected)
    assert difference <= tolerance(expected), f"{value} for {expected}"
    return difference


def same_choices(given: list[dict]) -> str:
    """Every choice has the same log-likelihood and is the greedy one or not, and the same ones are chosen."""
    expected = reference()[CHOICES]
    assert len(given) == len(expected) == 600
    worst = 0.0
    for mine, theirs in zip(given, expected, strict=True):
        assert mine["doc"] == theirs["doc"]
        (values, greedy), (wanted, wanted_greedy) = scores(mine), scores(theirs)
        worst = max(worst, *map(close, values, wanted))
        best, second = sorted(wanted, reverse=True)[:2]
        assert best - second > 2 * tolerance(best), "the item has no clear answer"
        assert values.index(max(values)) == wanted.index(best)
        assert greedy == wanted_greedy
        assert (mine["acc"], mine["acc_norm"]) == (theirs["acc"], theirs["acc_norm"])
    return f"{len(given)} items alike, log-likelihoods within {worst:.1e}"


def scores(sample: dict) -> tuple[list[float], list[str]]:
    """The log-likelihoods of an item's choices, and whether each is what the model would say."""
    values, greedy = zip(*sample["filtered_resps"], strict=True)
    return [float(value) for value in values], list(greedy)


def choices():
    """choices by token ids"""
    return same_choices(by_tokens()[CHOICES])


def choices_by_text():
    """by text"""
    arguments = f"{SERVED},num_concurrent=1,tokenized_requests=False"
    return same_choices(evaluated("text", "local-completions", arguments, CHOICES)[CHOICES])


def texts():
    """texts"""
    pairs = list(zip(by_tokens()[TEXTS], reference()[TEXTS], strict=True))
    values = [[float(sample["filtered_resps"][0]) for sample in pair] for pair in pairs]
    return f"{len(values)}, within {max(close(*pair) for pair in values):.1e}"


def answers():
    """greedy answers"""
    pairs = list(zip(by_tokens()[ANSWERS], reference()[ANSWERS], strict=True))
    for mine, theirs in pairs:
        assert mine["resps"] == theirs["resps"]
    assert any(mine["resps"][0][0] for mine, _ in pairs)
    return f"{len(pairs)} alike"


def no_request_failed():
    """no request failed"""
    with urllib.request.urlopen(f"{url()}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("tyndall_http_requests_total{")]
    completions = [line for line in counted if 'handler="completions"' in line]
    assert completions and all('status="200"' in line for line in completions), counted


run(choices, choices_by_text, texts, answers, no_request_failed)
