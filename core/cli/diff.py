"""`python app.py diff`: why two receipts differ. No weights are loaded."""

import argparse

from .. import receipts, wording
from ..checkpoints.tokenizers import tokenizers_at_hand
from ..difference import UNKNOWN, Detokenized, difference
from ..pairs import known_pairs
from ..settings import Settings, add_own_pair_flags
from ..types import AnyReceipt
from .files import read_file
from .terminal import say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="a receipt")
    parser.add_argument("second", metavar="B", help="another receipt")
    parser.add_argument("--json", action="store_true", help="print the difference as one JSON object")
    add_own_pair_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    first, second = (receipts.read(read_file(file)) for file in (flags.first, flags.second))
    found = difference(first, second, (_read(first, settings), _read(second, settings)))
    say(found.model_dump_json(indent=2) if flags.json else "\n".join(wording.difference_lines(found)))
    return 0


def _read(receipt: AnyReceipt, settings: Settings) -> Detokenized:
    """What the pair's tokenizers tell of it, where they lie here."""
    pair = next((pair for pair in known_pairs(settings) if pair.id == receipt.comparison.pair), None)
    tokenizers = tokenizers_at_hand(pair) if pair else None
    return Detokenized.of(receipt, tokenizers) if tokenizers else UNKNOWN
