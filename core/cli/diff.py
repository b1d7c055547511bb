"""`python app.py diff`: why two receipts differ. No weights are loaded."""

import argparse
from collections.abc import Mapping

from .. import prompts, receipts, wording
from ..checkpoints.tokenizers import tokenizers_at_hand
from ..difference import difference
from ..pairs import known_pairs
from ..settings import Settings, add_own_pair_flags
from ..types import Receipt, Side
from .files import read_file
from .terminal import say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="a receipt")
    parser.add_argument("second", metavar="B", help="another receipt")
    parser.add_argument("--json", action="store_true", help="print the difference as one JSON object")
    add_own_pair_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    first, second = (receipts.read(read_file(file)) for file in (flags.first, flags.second))
    found = difference(first, second, (_sent_texts(first, settings), _sent_texts(second, settings)))
    say(found.model_dump_json(indent=2) if flags.json else "\n".join(wording.difference_lines(found)))
    return 0


def _sent_texts(receipt: Receipt, settings: Settings) -> Mapping[Side, str]:
    """What was sent, where the pair's tokenizers lie here."""
    pair = next((pair for pair in known_pairs(settings) if pair.id == receipt.comparison.pair), None)
    tokenizers = tokenizers_at_hand(pair) if pair else None
    return prompts.texts(receipt.comparison, tokenizers) if tokenizers else {}
