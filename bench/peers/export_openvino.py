"""Turns a checkpoint into OpenVINO's form, weights as they are, with tokenizer and detokenizer.

Needs requirements-openvino.txt. Usage: python export_openvino.py CHECKPOINT FOLDER
"""

import sys
from pathlib import Path

import openvino as ov
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer


def main(checkpoint: Path, folder: Path) -> None:
    model = OVModelForCausalLM.from_pretrained(checkpoint, export=True, compile=False, load_in_8bit=False)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(folder)
    for name, part in zip(("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True), strict=True):
        ov.save_model(part, folder / f"openvino_{name}.xml")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
