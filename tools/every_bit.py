"""Every bit of a receipt's replies as this machine computes them: `python -m tools.every_bit RECEIPT`, one line of JSON.

The verdicts of a replay that reads them and of one that writes them again; tokens and margins, which a receipt holds, and
what it does not: log-probabilities, a digest of all logits behind each token, and which functions of `core.engine.exact` give
another answer here than is known. Two machines are compared by two such lines.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from core import receipts, settings, wording
from core.engine import Engine, Scored, exact
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.local import LocalLease
from core.pool import Pool
from core.replay import replay
from core.run import Run
from core.steps import finish
from core.types import SIDES, Failure, Receipt


def logits(engine: Engine, token_ids: Sequence[int], first: int) -> list[str]:
    """A digest of all logits that predict each of these tokens from position `first` on."""
    news: SimpleQueue[Any] = SimpleQueue()
    scoring = engine.score(token_ids, first, news.put)
    found: list[str] = []
    while len(found) < len(token_ids) - first:
        heard = news.get()
        if isinstance(heard, Failure):
            raise RuntimeError(heard.message)
        if isinstance(heard, Scored):
            scoring.more()
            found += map(exact.digest, heard.logits)
    return found


def sides(lease: Lease, receipt: Receipt) -> dict[str, Any]:
    """What each side's recorded reply is when it is read here."""
    assert isinstance(lease, LocalLease)
    recorded = {side: receipt.side(side) for side in SIDES}
    run = Run(lease, receipt.comparison, recorded=recorded, read=SIDES)
    for _ in run.snapshots(lambda: 1.0):
        pass
    found: dict[str, Any] = {}
    for side in SIDES:
        told, asked = run.side_result(side), run.prompt(side).token_ids
        found[side] = {
            "computed": told.engine.computed_sha256,
            "tokens": told.token_ids,
            "log-probabilities": told.logprobs,
            "margins": told.margins,
            "logits": logits(lease.loaded[side].engine, (*asked, *recorded[side].token_ids), len(asked)),
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.every_bit", description=str(__doc__).splitlines()[0])
    parser.add_argument("receipt", type=Path)
    settings.add_model_flags(parser)
    flags = parser.parse_args(arguments)
    receipt = receipts.within(json.loads(flags.receipt.read_bytes()))
    known = settings.Settings.read(flags, settings.environment())
    with Pool(known, HuggingFaceHub()) as pool, finish(pool.open(receipt.comparison.pair)) as lease:
        device = lease.base.engine.device
        told = {
            "device": device,
            "torch": str(torch.__version__),
            "other answers": exact.self_test(),
            **sides(lease, receipt),
            "read": wording.headline(finish(replay(pool, receipt))),
            "written again": wording.headline(finish(replay(pool, receipt, again=True))),
        }
        print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
