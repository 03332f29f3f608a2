"""The child of the transformers target: python transformers_worker.py MODEL THREADS DTYPE."""

import sys

import jobs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, threads: int, dtype: str) -> None:
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    kinds = {"bf16": torch.bfloat16, "f32": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kinds[dtype]).eval()

    def run(inputs: dict, tokens: int) -> None:
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        if output.shape[1] != length + tokens:
            raise RuntimeError(f"{tokens} tokens were asked for, {output.shape[1] - length} came")
        tokenizer.batch_decode(output[:, length:])

    def generate(prompts: list[str], tokens: int) -> None:
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        run(inputs, tokens)

    def prefill(ids: list[int]) -> None:
        inputs = torch.tensor([ids])
        run({"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}, 1)

    jobs.serve(f"generate as one batch, {dtype}, {threads} threads", generate, prefill)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
