"""What prompts of 60,000 tokens cost before any engine sees them, and what they do to the streams of others.

    cargo build --release
    python bench/long_prompts.py target/release/tyndall

The demo model takes 1,024 tokens, so a longer conversation is parsed, rendered and tokenized, and then refused with both
numbers: all of the work of a long prompt but the engine's. Prints how long that takes, and the time to first token of short
streams, alone and beside such requests at `--rate` per second. Both run on the cores that the server has.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import time

WORDS = "the ray of light is scattered where it meets small parts of dust in water and in air so that we see its way".split()


def body(messages, **fields):
    return json.dumps({"model": "demo", "messages": messages, **fields}).encode()


def long_body(words):
    """A text with as many different words as a long one has: those that are rare are most of them."""
    chance = random.Random(60)
    letters = [chance.choices("etaoinshrdlcumwfgypbvk", k=chance.randint(3, 9)) for _ in range(8000)]
    rare = ["".join(word) for word in letters]
    weights = [1 / (rank + 1) for rank in range(len(rare))]
    drawn = chance.choices(rare, weights, k=words)
    text = " ".join(chance.choice(WORDS) if chance.random() < 0.7 else drawn[i] for i in range(words))
    return body([{"role": "user", "content": text}])


async def ask(port, content, until=None):
    """Seconds to the end of the answer, or to `until` in it, and what came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    start = time.perf_counter()
    writer.write(head.encode() + content)
    await writer.drain()
    got = b""
    while chunk := await reader.read(1 << 16):
        got += chunk
        if until and until in got:
            break
    took = time.perf_counter() - start
    # The rest is read, so that the server is free for the next one.
    while until and await reader.read(1 << 16):
        pass
    writer.close()
    return took, got


async def first_tokens(port, seconds):
    """Times to first token of short streams, one after the other."""
    short = body([{"role": "user", "content": "Say a word about light."}], stream=True, max_tokens=4, temperature=0)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        took, got = await ask(port, short, b'"content":"')
        assert b"200 OK" in got, got[:300]
        times.append(took)
        await asyncio.sleep(0.01)
    return times


async def load(port, content, rate, seconds):
    """Long prompts at a steady rate; their times."""
    begun, start = [], time.perf_counter()
    for i in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + i / rate - time.perf_counter()))
        begun.append(asyncio.create_task(ask(port, content)))
    return [took for took, _ in await asyncio.gather(*begun)]


def told(name, times):
    times = sorted(times)
    quantile = lambda share: times[min(len(times) - 1, int(share * len(times)))] * 1e3  # noqa: E731
    print(f"{name:<44} {len(times):>5} x  p50 {quantile(0.5):7.1f} ms  p90 {quantile(0.9):7.1f}  p99 {quantile(0.99):7.1f}")
    return statistics.median(times)


async def measure(port, args):
    content = long_body(args.words)
    _, refusal = await ask(port, content)
    found = re.search(rb"the prompt has (\d+)", refusal)
    assert found, refusal
    num_tokens = int(found[1])
    print(f"a prompt of {num_tokens} tokens, {len(content) >> 10} KiB")
    alone = [(await ask(port, content))[0] for _ in range(20)]
    told("parsed, rendered, tokenized, refused: alone", alone)
    await first_tokens(port, 1)
    before = told("first token of short streams: alone", await first_tokens(port, args.seconds))
    long_ones, times = await asyncio.gather(load(port, content, args.rate, args.seconds), first_tokens(port, args.seconds))
    beside = told(f"first token beside {args.rate}/s long prompts", times)
    told(f"long prompts at {args.rate}/s", long_ones)
    print(f"median time to first token beside them: {beside / before:.2f} times that alone")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tyndall")
    parser.add_argument("--words", type=int, default=33_000, help="words of the prompt; a word is 1.8 tokens of the demo model")
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=15)
    args = parser.parse_args()
    command = [args.tyndall, "run", "demo", "--port", "0", "--admin-port", "0", "--min-replicas", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in server.stdout:
            if found := re.search(r"serving .*? at http://[^:]+:(\d+)", line):
                port = int(found[1])
            if line.startswith("ready"):
                break
        asyncio.run(measure(port, args))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


main()
