"""The token lens: what post-training changed, token by token, in a reply that is there already.

A finished reply is teacher-forced by its token ids through both models of a pair, and at every position
the two distributions over the whole vocabulary are held against each other. Nothing is tokenised again,
and what is drawn here only says what would have been drawn. This file knows no tensors and no widgets.
"""

import csv
import io
import json
from typing import Any, Protocol

from .lease import Lease, Written
from .steps import Steps
from .types import SIDES, Candidate, Comparison, Lens, LensContext, LensReport, Shift, Side


class Finished(Protocol):
    """A finished comparison: a result or a receipt."""

    @property
    def comparison(self) -> Comparison: ...
    def side(self, side: Side, /) -> Written: ...


def report(
    lease: Lease, finished: Finished, side: Side, context: LensContext = "identical"
) -> Steps[tuple[Shift, ...], LensReport]:
    """`Lease.read` for one side of a finished comparison.

    Raises:
        UserError: as there; or the reply was written with other weights than those that are loaded.
    """
    for each in SIDES:
        lease.check_weights(each, finished.side(each))
    found = yield from lease.read(finished.comparison, side, finished.side(side).token_ids, context)
    return LensReport(comparison=finished.comparison, summary=found.summary(), lens=found)


# --- as a file ----------------------------------------------------------------------------------------


def table(lens: Lens) -> str:
    """The lens as CSV, a row for each token.

    Texts are JSON strings: white space stays visible, and a spreadsheet takes none of them for a formula.
    """
    lines = io.StringIO()
    rows = [_row(shift) for shift in lens.shifts]
    writer = csv.DictWriter(lines, list(rows[0]) if rows else ["step"])
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _row(shift: Shift) -> dict[str, Any]:
    plain = shift.model_dump(exclude={"top_base", "top_post", "drawn_base", "drawn_post"})
    derived = {"log_ratio": shift.log_ratio, "class": shift.shift_class, "agreed": shift.agreed}
    drawn = {"drawn_base": _cell(shift.drawn_base), "drawn_post": _cell(shift.drawn_post)}
    tops = {
        f"{name}_{place}": _cell(candidate)
        for name, top in (("base", shift.top_base), ("post", shift.top_post))
        for place, candidate in enumerate(top, 1)
    }
    return {**plain, "text": json.dumps(shift.text), **derived, **drawn, **tops}


def _cell(candidate: Candidate) -> str:
    return f"{json.dumps(candidate.text)} {candidate.logprob:.6f}"
