"""`python app.py pairs`: the list of pairs. Imports no library that reads models."""

import argparse
import json

from ..pairs import facts, known_pairs
from ..settings import Settings, add_own_pair_flags
from .terminal import say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    add_own_pair_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    pairs = known_pairs(settings)
    if flags.json:
        say(json.dumps([pair.model_dump() for pair in pairs], indent=2))
        return 0
    width = max(len(pair.id) for pair in pairs)
    for pair in pairs:
        between = "; ".join(f"{stage.name} {stage.source}" for stage in pair.between)
        lines = (pair.title, f"{pair.base} -> {pair.post}", between and f"between them: {between}", facts(pair))
        say(f"{pair.id:<{width}}  " + f"\n{'':<{width}}  ".join(filter(None, lines)))
    return 0
