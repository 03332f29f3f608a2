"""What a structure adds to the time per token of a server.

    python bench/structured.py target/release/tyndall MODEL

Streams the same prompt without a structure and with each of some, in turns, and prints the median time per token of each and
the median of what it adds to that of the same round. The structures leave the model free for as long as it is asked to write, so that the lengths are the same.
MODEL is a checkpoint whose vocabulary has the size that is asked about; weights may be random.
"""

import argparse
import json
import re
import signal
import statistics
import subprocess
import time
import urllib.request

STRUCTURES = {
    "none": {},
    "json_object": {"response_format": {"type": "json_object"}},
    "schema": {
        "structured_outputs": {
            "json": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
                    "required": ["name", "tags"],
                    "additionalProperties": False,
                },
                "minItems": 60,
            }
        }
    },
    "regex (free text)": {"structured_outputs": {"regex": r"(.|\n)*"}},
    "lark list of words": {"structured_outputs": {"grammar": 'start: WORD (" " WORD){400,}\nWORD: /[a-zA-Z]+/\n'}},
}


def stream(url, model, fields, num_tokens):
    """Seconds per token of one stream after its first event, and those tokens.

    An event may hold several tokens: where they end in the middle of a character, their text comes with a later one.
    """
    asked = {"model": model, "prompt": "import json", "max_tokens": num_tokens, "stream": True, "temperature": 1, "seed": 7}
    asked |= {"ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(asked | fields).encode())
    times, written = [], []
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                times.append(time.perf_counter())
                written.append(sum(len(choice.get("token_ids") or []) for choice in json.loads(line[6:])["choices"]))
    after_the_first = sum(written[1:])
    return (times[-1] - times[0]) / max(after_the_first, 1), after_the_first


def measure(url, model, args):
    """Each round has its own order and its own base, so that a machine that grows slower or faster favours nobody."""
    names = list(STRUCTURES)
    found = {name: [] for name in names}
    added = {name: [] for name in names}
    for name in names:
        stream(url, model, STRUCTURES[name], 4)
    for number in range(args.rounds):
        first = number % len(names)
        times = {name: stream(url, model, STRUCTURES[name], args.tokens) for name in names[first:] + names[:first]}
        for name, (seconds, _) in times.items():
            found[name].append(times[name])
            added[name].append(seconds / times["none"][0] - 1)
    for name, streams in found.items():
        middle = statistics.median(seconds for seconds, _ in streams)
        tokens = sum(written for _, written in streams)
        share = statistics.median(added[name]) * 100
        print(f"{name:<20} {tokens:>6} tokens  {middle * 1e3:8.3f} ms per token  {share:+6.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tyndall")
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    command = [args.tyndall, "run", args.model, "--port", "0", "--admin-port", "0", "--min-replicas", "1"]
    command += ["--speculation", "off"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in server.stdout:
            if found := re.search(r"serving (\S+) at (http://[^ ]+)", line):
                model, url = found[1], found[2]
            if line.startswith("ready"):
                break
        measure(url, model, args)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


main()
