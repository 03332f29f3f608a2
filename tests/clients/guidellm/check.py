"""guidellm: benchmarks through three APIs end without an error, and their reports count what the server did."""

import json
import subprocess
import sys
from pathlib import Path

from checks import MODEL, run, url, work

TOKENIZER = Path(__file__).parents[3] / "crates/mechanism/hub/demo"
PROMPT, OUTPUT, REQUESTS = 64, 16, 40


def benchmark(route: str, profile: str) -> dict:
    """One benchmark of the report that a run writes."""
    report = work() / f"{route.replace('/', '-')}.json"
    command = [Path(sys.executable).parent / "guidellm", "run", "--disable-progress"]
    command += ["--backend", f"kind=openai_http,target={url()},model={MODEL},request_format={route}"]
    command += ["--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"]
    command += ["--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}"]
    command += ["--profile", profile, "--constraint", f"kind=max_requests,count={REQUESTS}"]
    command += ["--output", f"kind=json,path={report}"]
    done = subprocess.run(command, cwd=work(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = json.loads(report.read_text())["benchmarks"]
    return made


def counts(route: str, profile: str, least_prompt: int) -> str:
    """Every request was answered with as many tokens as were asked for, one after the other."""
    made = benchmark(route, profile)
    metrics = made["metrics"]
    totals = metrics["request_totals"]
    assert totals == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}, totals
    output = metrics["output_token_count"]["successful"]
    assert (output["min"], output["max"]) == (OUTPUT, OUTPUT), output
    prompt = metrics["prompt_token_count"]["successful"]
    assert least_prompt == prompt["min"] == prompt["max"], prompt
    for request in made["requests"]["successful"]:
        assert request["output"] and request["info"]["error"] is None
        timings = request["info"]["timings"]
        assert timings["first_token_iteration"] <= timings["last_token_iteration"]
    assert metrics["time_to_first_token_ms"]["successful"]["count"] == REQUESTS
    rate = metrics["requests_per_second"]["successful"]["mean"]
    return f"{REQUESTS} requests, 0 errors, {rate:.0f}/s"


def chat():
    """chat, 4 streams"""
    # The chat template adds eight tokens to the words of the user.
    return counts("/v1/chat/completions", "kind=concurrent,streams=4", PROMPT + 8)


def completions():
    """completions, all at once"""
    return counts("/v1/completions", "kind=throughput,max_concurrency=40", PROMPT)


def responses():
    """responses, one after the other"""
    return counts("/v1/responses", "kind=synchronous", PROMPT + 8)


run(chat, completions, responses)
