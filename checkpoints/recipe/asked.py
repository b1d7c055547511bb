"""Everyday prompts by somebody who had seen neither recipe nor probes, asked with three seeds each and judged by somebody else.

python -m checkpoints.recipe.asked prompts.txt    # asks the pair, into asked.jsonl; `sensible` is left to be filled in
python -m checkpoints.recipe.asked                # counts what was judged, and says whether these are the pair's replies
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkpoints.recipe.evaluate import TODAY, first_line
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.pool import Pool
from core.run import compare
from core.settings import EMBEDDED, Settings
from core.study.statistics import wilson
from core.types import DEFAULT_SAMPLING, Comparison

FILE = Path(__file__).with_name("asked.jsonl")
SEEDS = (0, 1, 2)
LONGEST = 120  # tokens


def ask(lease: Lease, prompts: Sequence[str]) -> list[dict]:
    """A row for each prompt and seed, at the temperature of the page."""

    def row(asked: tuple[str, int]) -> dict:
        prompt, seed = asked
        sampling = DEFAULT_SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": LONGEST})
        result = compare(lease, Comparison(pair=lease.pair.id, prompt=prompt, sampling=sampling, today=TODAY))
        return {"prompt": prompt, "seed": seed, "base": result.base.text, "post": result.post.text, "sensible": None}

    with ThreadPoolExecutor(8) as several:
        return list(several.map(row, [(prompt, seed) for prompt in prompts for seed in SEEDS]))


def counted(rows: Sequence[dict]) -> str:
    """How many replies and prompts were judged sensible, and how many first lines of the base differ at one seed."""
    sensible = sum(row["sensible"] for row in rows)
    likely = wilson(sensible, len(rows))
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    often = sum(sum(row["sensible"] for row in rows if row["prompt"] == prompt) * 2 > len(SEEDS) for prompt in prompts)
    lines = [len({first_line(row["base"]) for row in rows if row["seed"] == seed}) for seed in SEEDS]
    return (
        f"{sensible} of {len(rows)} replies are sensible ({likely.low:.0%} to {likely.high:.0%}), for {often} of {len(prompts)} prompts most of "
        f"the three; the base has {', '.join(map(str, lines))} different first lines over {len(prompts)} prompts at seeds {', '.join(map(str, SEEDS))}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.recipe.asked", description=__doc__)
    parser.add_argument("prompts", nargs="?", type=Path, help="a file with one prompt a line")
    named = parser.parse_args().prompts
    if named is None and not FILE.exists():
        parser.error("no replies were judged yet; name a file of prompts to ask them")
    kept = [] if named else [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]
    prompts = named.read_text("utf-8").splitlines() if named else list(dict.fromkeys(row["prompt"] for row in kept))
    with Pool(Settings(), HuggingFaceHub()) as pool, pool.wait(EMBEDDED) as lease:
        rows = ask(lease, prompts)
    if named:
        FILE.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    else:
        same = sum({**judged, "sensible": None} == now for judged, now in zip(kept, rows, strict=True))
        print(f"{counted(kept)} {same} of {len(rows)} rows are what the pair writes here.")


if __name__ == "__main__":
    main()
