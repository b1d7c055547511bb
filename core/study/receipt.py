"""One receipt for a whole study: the plan, who wrote the replies, and a digest of each; and the replay of all or some of them.

A digest tells whether a reply is the same, not where it differs: the receipt of a single comparison does that (core/receipts.py).
"""

import re
from collections.abc import Mapping
from contextlib import closing
from random import Random
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from .. import __version__, canonical
from ..errors import UserError
from ..pairs import other_weights
from ..receipts import MAX_BYTES
from ..steps import Steps
from ..types import SIDE_NAMES, Digest, Outcome, Side, Value, explain
from .plan import StudyCell, StudyPlan
from .run import SitDown, StudyProgress, write
from .store import CellReply, Fingerprint, Store

_CellDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Where a report carries its receipt.
EMBEDDED = '<script type="application/json" id="receipt">'


class StudyWriter(Value):
    """Who wrote the replies of one side of a pair."""

    pair: str
    side: Side
    fingerprint: Fingerprint


class StudyReceipt(Value):
    """`digests` are those of all cells in the order of the plan, None where one was not finished; `sha256` is over everything else in here."""

    schema_version: Literal[1]
    kind: Literal["study"]
    app_version: str
    plan: StudyPlan
    writers: tuple[StudyWriter, ...] = Field(max_length=100)
    digests: tuple[_CellDigest | None, ...]
    sha256: Digest

    def commits(self, pair: str) -> dict[Side, str]:
        """Those of a pair's models that came from the Hub; none for folders."""
        revisions = {
            writer.side: writer.fingerprint.checkpoint.revision for writer in self.writers if writer.pair == pair
        }
        return {side: commit for side, commit in revisions.items() if commit and _COMMIT.fullmatch(commit)}

    def cells(self) -> dict[StudyCell, str]:
        """The digest of every cell that was finished."""
        found = zip(self.plan.cells(), self.digests, strict=True)
        return {cell: digest for cell, digest in found if digest is not None}


class StudyVerdict(Value):
    """What came of a replay: how many of the finished cells it covered, and which of these were not the same.

    `sample_seed` chose them; None where all were run. Cells are named by row, repetition (from 1) and whose reply.
    """

    outcome: Outcome
    covered: int
    cells: int
    sample_seed: int | None = None
    differ: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def make(plan: StudyPlan, store: Store, written: Mapping[StudyCell, CellReply]) -> StudyReceipt:
    writers = {(arm.pair, arm.side): store.fingerprint(arm) for arm in plan.arms()}
    body = {
        "schema_version": 1,
        "kind": "study",
        "app_version": __version__,
        "plan": canonical.dump(plan),
        "writers": [
            {"pair": pair, "side": side, "fingerprint": canonical.dump(by)}
            for (pair, side), by in writers.items()
            if by is not None
        ],
        "digests": [written[cell].digest if cell in written else None for cell in plan.cells()],
    }
    return StudyReceipt.model_validate({**body, "sha256": canonical.sha256(body)})


def dump(receipt: StudyReceipt) -> str:
    """The text of a file."""
    return canonical.readable(canonical.dump(receipt)) + "\n"


def is_one(data: bytes) -> bool:
    """Whether a file looks like the receipt of a study, or like a report with one in it."""
    return EMBEDDED.encode() in data or re.search(rb'"kind"\s*:\s*"study"', data) is not None


def read(data: bytes) -> StudyReceipt:
    """A receipt from the bytes of its file, or of a report.

    Raises:
        UserError: it is none, or was changed after it was made.
    """
    if EMBEDDED.encode() in data:
        data = data.partition(EMBEDDED.encode())[2].partition(b"</script>")[0]
    parsed: Any = canonical.parse(data, "receipt", MAX_BYTES)
    try:
        receipt = StudyReceipt.model_validate_json(canonical.checked_text(parsed, "receipt"), strict=True)
    except ValidationError as error:
        raise UserError(f"This is not a sound receipt of a study; {explain(error)}") from None
    body = {name: value for name, value in parsed.items() if name != "sha256"}
    if receipt.sha256 != canonical.sha256(body) or len(receipt.digests) != receipt.plan.total:
        raise UserError("This receipt of a study was changed after it was made: its sha256 is not that of the rest.")
    return receipt


def replay(
    receipt: StudyReceipt,
    sit_down: SitDown,
    *,
    sample: int | None = None,
    sample_seed: int = 0,
    known: Mapping[StudyCell, CellReply] = MappingProxyType({}),
) -> Steps[StudyProgress, StudyVerdict]:
    """Run a study again, all of it or a sample of its replies, and compare digests.

    Args:
        known: replies that were kept of it. In portable arithmetic these are read, which gives the bits of writing sooner; they are
            believed in nothing.

    Raises:
        UserError: a pair cannot be loaded, or a reply failed.
    """
    recorded = receipt.cells()
    chosen = list(recorded)
    if sample is not None and sample < len(chosen):
        chosen = sorted(Random(sample_seed).sample(chosen, sample), key=chosen.index)
    writers = {(writer.pair, writer.side): writer.fingerprint for writer in receipt.writers}
    differ, reasons, wrong = list[str](), dict[str, None](), list[StudyVerdict]()
    before = dict[str, str]()  # digests, by what they came of

    def hold(cell: StudyCell, digest: str, here: Fingerprint) -> None:
        there = writers[cell.arm.pair, cell.arm.side]
        if here.weights_sha256 != there.weights_sha256:
            wrong.append(_not_replayable(recorded, cell, there, here))
        if not here.gives_the_bits_of(there):
            reasons[f"Another engine wrote {_whose(cell)}, so its rounding may be another."] = None
        if digest != recorded[cell]:
            differ.append(
                f"row {cell.prompt + 1}, repetition {cell.repetition + 1}, {_whose(cell)} under {cell.arm.framing}"
            )

    def adopt(cell: StudyCell, request: str, here: Fingerprint) -> bool:
        if request in before:
            hold(cell, before[request], here)
        return request in before

    ids = {cell: reply.token_ids for cell, reply in known.items()}
    plan = receipt.plan.model_copy(update={"branching": False})  # a digest is of the reply
    with closing(write(plan, chosen, sit_down, adopt, known=ids)) as coming:
        for progress, cell, result, _, request in coming:
            if cell is not None and result is not None:
                before[request] = CellReply.of(result).digest
                hold(cell, before[request], Fingerprint.of(result))
            if wrong:
                return wrong[0]
            yield progress
    return StudyVerdict(
        outcome="diverged" if differ else "identical",
        covered=len(chosen),
        cells=len(recorded),
        sample_seed=sample_seed if len(chosen) < len(recorded) else None,
        differ=tuple(differ),
        reasons=tuple(reasons),
    )


def _not_replayable(
    recorded: Mapping[StudyCell, str], cell: StudyCell, there: Fingerprint, here: Fingerprint
) -> StudyVerdict:
    weights, found = ((by.checkpoint.name, by.weights_sha256) for by in (there, here))
    why = other_weights(_whose(cell), weights, found)
    return StudyVerdict(outcome="not replayable", covered=0, cells=len(recorded), reasons=(why,))


def _whose(cell: StudyCell) -> str:
    return f"the {SIDE_NAMES[cell.arm.side]} side of {cell.arm.pair}"
