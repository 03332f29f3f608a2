"""Makes a small random checkpoint in f32 and, from a seed, the items of the tasks beside this file."""

import json
import random
import shutil
from pathlib import Path

import torch
from checks import work
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 20
CHOICES, TEXTS = 600, 60
DEMO = Path(__file__).parents[3] / "crates/mechanism/hub/demo"
TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
CONFIG = LlamaConfig(
    vocab_size=2560,
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=None,
    eos_token_id=2,
    pad_token_id=0,
    tie_word_embeddings=False,
)
WORDS = """a an and any ask at because blue book by can cold come day deep door each eleven every far find fire first for
four from garden give good green hand have here hill house if in is it keep know late leaf light long many may month
more morning near never night no not of old on one open or other over paper part people place quiet rain read red
river road room same say sea see seven she should sky slow small snow some song start still stone such sun take ten
that the their then there they thing three time to town tree two under up valley wait walk warm was water way we
were what when where which who why wind with word write year yellow you""".split()


def checkpoint(folder: Path) -> None:
    """Weights whose logits have a deviation of about 2: the usual initialisation makes nearly uniform ones."""
    generator = torch.Generator().manual_seed(SEED)
    model = LlamaForCausalLM(CONFIG).to(torch.float32)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1 + 0.2 * noise
        elif "embed_tokens" in name:
            value = noise
        elif "lm_head" in name:
            value = 0.2 * noise
        else:
            value = noise * parameter.shape[1] ** -0.5
        parameter.data.copy_(value)
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, folder)


def sentence(rng: random.Random, shortest: int, longest: int) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(shortest, longest))]
    return " ".join(words)


def items(folder: Path) -> None:
    """Questions with two to five choices, as long as each other or else the shortest would always win, and texts."""
    rng = random.Random(SEED)
    with (folder / "choices.jsonl").open("w") as file:
        for _ in range(CHOICES):
            length, count, choices = rng.randint(1, 8), rng.randint(2, 5), []
            while len(choices) < count:
                choice = sentence(rng, length, length)
                if choice not in choices:
                    choices.append(choice)
            item = {"question": sentence(rng, 4, 60), "choices": choices, "answer": rng.randrange(count)}
            file.write(json.dumps(item) + "\n")
    with (folder / "texts.jsonl").open("w") as file:
        for _ in range(TEXTS):
            file.write(json.dumps({"text": sentence(rng, 5, 120)}) + "\n")


checkpoint(work() / "model")
items(work())
