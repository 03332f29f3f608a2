"""Trains the demo model's tokenizer and weights, and writes its Hugging Face files.

    python train.py --out build/first     # as released: 16 minutes on one core with AMX, then 90 s
    python train.py --start-from build/first --steps 500 --peak 1e-3 --seed 11 --small-talk 0.5
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corpus import END_OF_TEXT, TURN_END, TURN_START, Writer

HERE = Path(__file__).parent
DEFAULT_OUT = HERE.parent.parent / "crates/mechanism/hub/demo"
VOCAB_SIZE = 2560
CONTEXT = 1024
# How much a prompt's token counts in the loss, compared with an answer's.
PROMPT_WEIGHT = 0.15
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over a sample of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, min_frequency=2, show_progress=False,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    writer = Writer(seed)
    marks = (END_OF_TEXT, TURN_START, TURN_END)

    def texts():
        for _ in range(40_000):
            text = "".join(piece for piece, _ in writer.document())
            for mark in marks:
                text = text.replace(mark, "\n")
            yield text

    tokenizer.train_from_iterator(texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT, model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode(tokenizer: Tokenizer, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[float]]:
    """Token ids of a document and the weight of each as a target; borders of pieces are borders of tokens."""
    ids, weights = [], []
    for text, is_answer in pieces:
        new = tokenizer.encode(text, add_special_tokens=False).ids
        ids += new
        weights += [1.0 if is_answer else PROMPT_WEIGHT] * len(new)
    return ids[:CONTEXT], weights[:CONTEXT]


def batches(tokenizer: Tokenizer, seed: int, tokens_per_batch: int, small_talk: float = 0.0):
    """Endless batches (ids, targets, weights) of documents of like length, each document from position 0."""
    writer, rng = Writer(seed, small_talk), random.Random(seed)
    while True:
        pool = sorted((encode(tokenizer, writer.document()) for _ in range(4096)), key=lambda d: len(d[0]))
        groups, group = [], []
        for document in pool:
            if group and len(document[0]) * (len(group) + 1) > tokens_per_batch:
                groups.append(group)
                group = []
            group.append(document)
        groups.append(group)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            weights = torch.zeros(len(group), width)
            for row, (row_ids, row_weights) in enumerate(group):
                ids[row, : len(row_ids)] = torch.tensor(row_ids)
                weights[row, : len(row_ids)] = torch.tensor(row_weights)
            yield ids[:, :-1], ids[:, 1:], weights[:, 1:]


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    ends = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=192, intermediate_size=448, num_hidden_layers=5,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=None, eos_token_id=ends, pad_token_id=ends[1],
        initializer_range=0.04, attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / 100)
    left = max(0.0, 1 - step / steps)
    return peak * warm * min(1.0, left / 0.6) if left < 0.6 else peak * warm


def train(model: LlamaForCausalLM, data, steps: int, peak: float) -> None:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak, betas=(0.9, 0.98), fused=True,
    )
    start, seen, average = time.time(), 0, None
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        ids, targets, weights = next(data)
        used = weights.flatten().nonzero().squeeze(1)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=ids).last_hidden_state.flatten(0, 1)[used]
            logits = hidden @ model.lm_head.weight.T
        losses = F.cross_entropy(logits.float(), targets.flatten()[used], reduction="none")
        weights = weights.flatten()[used]
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += len(used)
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {average:.3f} tokens {seen} {seen / (time.time() - start):.0f}/s "
                  f"{time.time() - start:.0f}s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # The class name that transformers 4 and 5 both know.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings = {key: value for key, value in settings.items() if key not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small-talk", type=float, default=0.0, help="share of small talk in the questions")
    parser.add_argument("--start-from", type=Path, help="continue from the files of an earlier run")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.start_from:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.start_from)
        model = LlamaForCausalLM.from_pretrained(
            options.start_from, dtype=torch.float32, attn_implementation="eager").train()
    else:
        tokenizer = train_tokenizer(options.seed)
        model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens", flush=True)
    data = batches(tokenizer.backend_tokenizer, options.seed + 1, options.batch_tokens, options.small_talk)
    train(model, data, options.steps, options.peak)
    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
