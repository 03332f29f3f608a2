"""Writes checkpoints with random weights in the shapes of OPT-125m and Qwen2-0.5B, bf16.

Speed does not depend on the weights, so nothing has to be downloaded. The tokenizer is a byte-level
BPE of 32,000 entries, trained on the sources of Python's standard library.

Needs torch and transformers (5.23). Usage: python make_checkpoints.py FOLDER
"""

import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SPECIAL_TOKENS = ["<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def is_utf8(path: Path) -> bool:
    """Some sources of the library's own tests are in other encodings; the trainer refuses them."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A GPT-2 style tokenizer of the size that real models have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sources = [path for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")) if is_utf8(path)]
    trainer = trainers.BpeTrainer(
        vocab_size=32_000,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sources[:2500]], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def shapes():
    """Name and model of each checkpoint."""
    # OPTConfig's defaults are OPT-125m.
    yield "opt-125m-random", OPTForCausalLM(OPTConfig(vocab_size=50_272))
    yield "qwen2-0.5b-random", Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151_936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
            rope_theta=1e6,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=1,
        )
    )


def main(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    for name, model in shapes():
        model.generation_config.pad_token_id = 0
        model.to(torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
