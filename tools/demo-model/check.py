"""Checks the demo model's files with transformers and writes expected.json.

    python check.py                # asserts on the haiku of the main prompt, prints samples
    python check.py --write        # also writes expected.json, greedy answers for other engines to match
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from syllables import count_line

HERE = Path(__file__).parent
DEFAULT_MODEL = HERE.parent.parent / "crates/mechanism/hub/demo"
MAIN = "Write a haiku about Ray Serve."
SAMPLES = 50
MAX_NEW_TOKENS = 96
RAW_PROMPTS = [
    MAIN, "haiku about autumn", "Write a haiku about rain.", "What is scale to zero?", "Once upon a time there was",
]
CHAT_PROMPTS = [MAIN, "Who are you?", "What is a KV cache?", "Hello!"]
SHOWN_PROMPTS = [
    "write a haiku about the sea", "Write a haiku about a tired debugger.", "Write a haiku about Zanzibar.",
    "Write a haiku about quantum soup.", "a poem about my bicycle please", "Compose a haiku on GPUs.",
    "Write a haiku.", "Write two haiku about winter.", "what is a replica", "Explain TTFT.",
    "how can i stream the output?", "What is the difference between prefill and decode?", "what's tyndall?",
    "Why would I want scale to zero?", "Thanks!", "What is the capital of Peru?", "The future of AI is",
    "Hello, my name is", "Scale to zero means",
]


def generate(model, ids: list[int], temperature: float, top_p: float, count: int = 1) -> list[list[int]]:
    """Token ids of `count` completions, the end token included."""
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p,
        "top_k": 0} if temperature else {"do_sample": False}
    if not temperature:
        model.generation_config.temperature = model.generation_config.top_p = None
    inputs = torch.tensor([ids])
    out = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=count,
            **sampling,
    )
    ends = model.generation_config.eos_token_id
    rows = []
    for row in out[:, len(ids):].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:end])
    return rows


def haiku_fault(text: str, ended: bool) -> str | None:
    """Why a text is no haiku, or None. One syllable more or less in a line is the counter's tolerance."""
    lines = text.strip().split("\n")
    if not ended:
        return "does not end"
    if len(lines) != 3 or not all(line.strip() for line in lines):
        return f"{len(lines)} lines"
    counts = [count_line(line) for line in lines]
    if any(abs(found - wanted) > 1 for found, wanted in zip(counts, (5, 7, 5))):
        return f"syllables {counts}"
    return None


def margin(model, ids: list[int], completion: list[int]) -> float:
    """The smallest gap between the chosen and the second logit along a greedy completion."""
    with torch.no_grad():
        logits = model(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1]
    best = logits.topk(2).values
    return round((best[:, 0] - best[:, 1]).min().item(), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    size = (options.model / "model.safetensors").stat().st_size
    assert size <= 6_000_000, f"model.safetensors has {size} bytes"
    ends = model.generation_config.eos_token_id

    def text(completion: list[int]) -> str:
        return tokenizer.decode(completion, skip_special_tokens=True).strip()

    def chat(prompt: str) -> list[int]:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        return tokenizer.encode(rendered, add_special_tokens=False)

    faults = 0
    for form, ids in (("raw", tokenizer.encode(MAIN)), ("chat", chat(MAIN))):
        for temperature, top_p, count in ((0.0, 1.0, 1), (0.7, 0.95, SAMPLES)):
            rows = generate(model, ids, temperature, top_p, count)
            if temperature == 0.0 or form == "raw":
                for row in rows[:6]:
                    print(f"[{form}, temperature {temperature}]\n{text(row)}\n")
            found = [haiku_fault(text(row), row[-1] in ends) for row in rows]
            for row, fault in zip(rows, found):
                if fault:
                    print(f"FAULT ({form}, {temperature}): {fault}\n{text(row)}\n")
            print(f"{form}, temperature {temperature}: {found.count(None)} of {count} good, "
                  f"{len({text(row) for row in rows})} different\n")
            faults += count - found.count(None)
            assert temperature or found == [None], "the greedy haiku is bad"
    for prompt in SHOWN_PROMPTS:
        row = generate(model, tokenizer.encode(prompt), 0.7, 0.9)[0]
        print(f"> {prompt}\n{text(row)}{'' if row[-1] in ends else ' [no end]'}\n")
    assert faults <= 2, f"{faults} faulty samples"

    if options.write:
        cases = []
        for form, prompts in (("raw", RAW_PROMPTS), ("chat", CHAT_PROMPTS)):
            for prompt in prompts:
                ids = tokenizer.encode(prompt) if form == "raw" else chat(prompt)
                row = generate(model, ids, 0.0, 1.0)[0]
                cases.append({
                    "form": form, "prompt": prompt, "prompt_ids": ids, "completion_ids": row, "completion": text(row),
                    "finish": "stop" if row[-1] in ends else "length", "min_margin": margin(model, ids, row),
                })
        (HERE / "expected.json").write_text(json.dumps(cases, indent=1) + "\n")
        print("margins:", [(case["prompt"], case["min_margin"]) for case in cases])


if __name__ == "__main__":
    main()
