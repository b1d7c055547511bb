"""`python app.py lens`: what post-training changed in a reply, token by token."""

import argparse
from typing import get_args

from .. import canonical, lens, receipts, wording
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..settings import Settings, add_model_flags
from ..steps import finish
from ..types import SIDES, LensContext
from .files import read_file, write_file
from .terminal import Saying, say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="RECEIPT", help="a receipt, or what compare --json printed")
    parser.add_argument("--side", choices=SIDES, default="post", help="whose reply (default: post)")
    parser.add_argument(
        "--reads",
        choices=get_args(LensContext),
        default="identical",
        help="what the sibling reads: the identical token ids (default), or its own framing of the conversation",
    )
    parser.add_argument("--csv", metavar="FILE", help="also write a table with a row for each token")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_model_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    receipt = receipts.within(canonical.parse(read_file(flags.file), "receipt", receipts.MAX_BYTES))
    with Pool(settings, HuggingFaceHub()) as pool:
        pair = pool.default.id if flags.pair or flags.base else receipt.comparison.pair
        with Saying() as progress:
            lease = pool.wait(pair, progress)
        with lease:
            found = finish(lens.report(lease, receipt, flags.side, flags.reads))
    if flags.csv is not None:
        write_file(flags.csv, lens.table(found.lens))
    say(found.model_dump_json(indent=2) if flags.json else "\n".join(wording.lens_lines(found)))
    return 0
