"""`python app.py replay`: a receipt, run again from scratch."""

import argparse
from pathlib import Path

from .. import receipts, wording
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..replay import replay
from ..settings import Settings
from ..steps import finish
from .terminal import Saying, read_file


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a receipt")
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object")


def run(flags: argparse.Namespace, settings: Settings) -> int:
    receipt = receipts.read(read_file(flags.file))
    with Pool(settings, HuggingFaceHub()) as pool:
        chosen = pool.default.id if flags.pair or flags.base else None
        verdict = finish(replay(pool, receipt, chosen), Saying())
    print(verdict.model_dump_json(indent=2) if flags.json else "\n".join(wording.verdict_lines(verdict)))
    return {"identical": 0, "diverged": 1, "not replayable": 2}[verdict.outcome]
