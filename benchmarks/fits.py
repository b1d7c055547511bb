"""Which pairs fit on which GPU, and with what context and slots: what core/checkpoints/budget.py grants, computed without a GPU.

    python -m benchmarks.fits             a row for each pair and card
    python -m benchmarks.fits --write     and put the table into docs/gpu.md

Parameters and caches are counted from the configurations, on torch's meta device; what is free of a card is an assumption (CARDS). Two
models of one configuration stand for a pair.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen3MoeConfig

from benchmarks.report import Row, table
from benchmarks.subjects import qwen3
from core.checkpoints.budget import must_spread, plan
from core.checkpoints.memory import need
from core.engine.device import Placement
from core.errors import NotEnoughMemory
from core.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- the table of benchmarks/fits.py -->", "<!-- its end -->"

# GiB that a process may take when CUDA's own context is there, whether the card computes in bfloat16, and how many there are.
CARDS = {
    "T4 16 GB": (14.0, False, 1),
    "RTX 4090 24 GB": (22.9, True, 1),
    "2 x RTX 4090 24 GB": (22.9, True, 2),
    "A100 40 GB": (38.5, True, 1),
    "L40S 48 GB": (43.5, True, 1),
    "4 x L40S 48 GB": (43.5, True, 4),
    "H100 80 GB": (78.0, True, 1),
    "H200 141 GB": (138.5, True, 1),
}


PAIRS: dict[str, PreTrainedConfig] = {
    "Qwen3-0.6B": qwen3(1024, 3072, 28, 16, True),
    "Qwen3-1.7B": qwen3(2048, 6144, 28, 16, True),
    "Qwen3-4B": qwen3(2560, 9728, 36, 32, True),
    "Qwen3-8B": qwen3(4096, 12288, 36, 32, False),
    "SmolLM2-1.7B": LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        vocab_size=49_152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "Llama-3.1-8B": LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        max_position_embeddings=131_072,
    ),
    "Qwen3-30B-A3B": Qwen3MoeConfig(
        hidden_size=2048,
        moe_intermediate_size=768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,  # type: ignore[call-arg]  # as its config.json says
        num_experts=128,
        num_experts_per_tok=8,
        vocab_size=151_936,
        max_position_embeddings=40_960,
    ),
}


def rows(pairs: Sequence[str] = tuple(PAIRS)) -> Iterator[Row]:
    """A row for each pair and card."""
    dtypes = (torch.float16, torch.bfloat16)
    for name in pairs:
        needs = [need(PAIRS[name], Placement(torch.device("cuda", 0), dtype)) for dtype in dtypes]
        for card, (gib, bfloat16, count) in CARDS.items():
            cards = tuple(torch.device("cuda", number) for number in range(count))
            places = (
                Placement(cards[side % count], dtypes[bfloat16], cards=cards if count > 1 else ()) for side in (0, 1)
            )
            pair = [replace(needs[bfloat16], placement=place) for place in places]
            row: Row = {"pair": name, "card": card, "dtype": str(dtypes[bfloat16]).removeprefix("torch.")}
            free, settings = dict.fromkeys(cards, int(gib * 2**30)), Settings(threads=1)
            try:
                granted = plan(pair, free, settings, spread=must_spread(pair, free, settings))
            except NotEnoughMemory:
                yield row | {"context": "-", "slots": "-", "weights dial": "-", "how": "computed: refused"}
                continue
            shape, mix = granted
            yield row | {
                "context": f"{shape.sizes[-1]:,}",
                "slots": shape.slots,
                "weights dial": "fits" if mix else "refused",
                "how": "computed: spread" if shape.spread else "computed",
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    text = table(list(rows()))
    print(text)
    if parser.parse_args().write:
        between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
        page = PAGE.read_text("utf-8")
        PAGE.write_text(between.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page), "utf-8")


if __name__ == "__main__":
    main()
