"""The work of each row: the prompts and sizes that every target gets."""

import random
from dataclasses import dataclass

WORDS = (
    "alpha beta gamma delta import return self class def value print list index range open file read write for while"
).split()
PROMPT_WORDS = 32

#: Every row by its name, in the order of the table.
ROWS = ["decode", "serve8", "serve32", "prefill512", "offline", "cold-start", "memory"]


@dataclass(frozen=True)
class Work:
    """Sizes that all targets share."""

    #: Computing threads.
    threads: int
    #: Output tokens of each request.
    tokens: int
    #: Prompt tokens of the prefill.
    prefill: int
    #: Requests of a serving row, as a multiple of its concurrency.
    waves: int
    #: The checkpoint's number format on the peers that have a choice: bf16 or f32.
    dtype: str
    #: Of one request or one job of a worker.
    timeout_s: float

    def prompts(self, count: int, seed: int) -> list[str]:
        """Prompts of 32 words; no two of a run begin alike, so that no cache of prefixes helps anybody."""
        source = random.Random(seed)
        return [" ".join(source.choice(WORDS) for _ in range(PROMPT_WORDS)) for _ in range(count)]

    def prompt_ids(self, vocabulary: int, seed: int) -> list[int]:
        """The token ids of a prefill, drawn evenly from the ids that the tokenizer can spell."""
        source = random.Random(seed)
        top = min(vocabulary, 20_000)
        return [source.randrange(min(10, top - 1), top) for _ in range(self.prefill)]


def concurrency(row: str) -> int:
    """Of a serving row, such as `serve8`."""
    return int(row.removeprefix("serve"))
