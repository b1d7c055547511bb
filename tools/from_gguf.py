"""A GGUF file -> a folder that this app loads: `python -m tools.from_gguf FILE.gguf FOLDER`.

The weights are widened to what their quantised values stand for, so the folder holds what llama.cpp computes with, and
not what was published before it was quantised. transformers reads the file; it wants the packages gguf and accelerate.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

# What a file names and transformers (5.23) does not read: SmolLM's tokenizer takes digits one by one, apart from the
# white space before them.
PRE_TOKENIZERS: dict[str, Any] = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
}


def convert(file: Path, folder: Path, dtype: str, template: str | None) -> None:
    """Write the model, its tokenizer and its chat template into `folder`; `template` takes the place of the file's own."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    named = read_gguf_metadata(str(file), ())[0].get("tokenizer.ggml.pre")
    if named in PRE_TOKENIZERS:
        tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[named]
    tokenizer.chat_template = template or tokenizer.chat_template
    widened: Any = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=getattr(torch, dtype), quantization_config=widened
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.from_gguf", description=str(__doc__).splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--chat-template", type=Path, help="a Jinja file, for a GGUF file without a chat template")
    flags = parser.parse_args(arguments)
    template = flags.chat_template.read_text("utf-8") if flags.chat_template else None
    convert(flags.file, flags.folder, flags.dtype, template)
    return 0


if __name__ == "__main__":
    sys.exit(main())
