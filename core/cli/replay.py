"""`python app.py replay`: a receipt, run again from scratch."""

import argparse

from .. import receipts, wording
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..replay import replay
from ..settings import Settings, add_model_flags
from ..steps import finish
from .files import read_file
from .terminal import Saying, say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a receipt")
    parser.add_argument(
        "--again",
        action="store_true",
        help="write every reply again, token by token; in portable arithmetic it is read, which gives the same bits sooner",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object")
    add_model_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    receipt = receipts.read(read_file(flags.file))
    with Pool(settings, HuggingFaceHub()) as pool, Saying() as progress:
        chosen = pool.default.id if flags.pair or flags.base else None
        verdict = finish(replay(pool, receipt, chosen, again=flags.again, any_commit=True), progress)
    say(verdict.model_dump_json(indent=2) if flags.json else "\n".join(wording.verdict_lines(verdict)))
    return {"identical": 0, "diverged": 1, "not replayable": 2}[verdict.outcome]
