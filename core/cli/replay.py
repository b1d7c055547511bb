"""`python app.py replay`: a receipt, of a comparison or of a study, run again from scratch."""

import argparse
import signal
from collections.abc import Iterable
from pathlib import Path

from .. import receipts, wording
from ..errors import UserError
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..replay import replay
from ..settings import Settings, add_model_flags
from ..steps import Stop, finish
from ..study import receipt as study_receipts
from ..study.receipt import StudyVerdict
from ..study.store import opened
from ..types import Verdict
from .files import read_file
from .study import add_stages_flag, follow, sit_down, staged
from .terminal import INTERRUPTED, Saying, say, stopped_by


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a receipt, or the report of a study")
    parser.add_argument(
        "--again",
        action="store_true",
        help="write every reply again, token by token; in portable arithmetic it is read, which gives the same bits sooner",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="of a study: only N of its replies (default: all)")
    parser.add_argument("--sample-seed", type=int, default=0, metavar="N", help="which ones (default: 0)")
    parser.add_argument(
        "--keep",
        metavar="FILE.sqlite",
        help="of a study: the file that keeps its replies; in portable arithmetic they are read, which gives the same bits sooner",
    )
    add_stages_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object")
    add_model_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 identical, 1 diverged, 2 not replayable here; 130 when Ctrl+C ended the replay of a study."""
    data = read_file(flags.file)
    verdict = _study(flags, settings, data) if study_receipts.is_one(data) else _comparison(flags, settings, data)
    if verdict is None:
        return INTERRUPTED
    say(verdict.model_dump_json(indent=2) if flags.json else "\n".join(_lines(verdict)))
    return {"identical": 0, "diverged": 1, "not replayable": 2}[verdict.outcome]


def _lines(verdict: Verdict | StudyVerdict) -> Iterable[str]:
    if isinstance(verdict, StudyVerdict):
        return wording.study_verdict_lines(verdict)
    return wording.verdict_lines(verdict)


def _comparison(flags: argparse.Namespace, settings: Settings, data: bytes) -> Verdict:
    receipt = receipts.read(data)
    with Pool(settings, HuggingFaceHub()) as pool, Saying() as progress:
        chosen = pool.default.id if flags.pair or flags.base else None
        return finish(replay(pool, receipt, chosen, again=flags.again, any_commit=True), progress)


def _study(flags: argparse.Namespace, settings: Settings, data: bytes) -> StudyVerdict | None:
    """None when it was stopped."""
    receipt, stop = study_receipts.read(data), Stop()
    if flags.sample is not None and flags.sample < 1:
        raise UserError("--sample must be 1 or more.")
    known = {}
    if flags.keep is not None and not Path(flags.keep).is_file():
        raise UserError(f"There is no file {flags.keep!r}; name the one that `study --keep` wrote.")
    if flags.keep is not None and not flags.again:
        with opened(flags.keep) as kept:
            known = kept.written(receipt.plan)
    with Pool(settings, HuggingFaceHub()) as pool, stopped_by(stop, signal.SIGINT):
        if flags.stages is not None:
            staged(pool, flags.stages)
        again = study_receipts.replay(
            receipt,
            lambda pair: sit_down(pool, pair, receipt.commits(pair)),
            sample=flags.sample,
            sample_seed=flags.sample_seed,
            known=known,
        )
        return follow(again, stop)
