"""What a study has so far, in one SQLite file that is written as it goes, so that a study which was ended goes on where it was.

A reply is kept under a digest of all that could change it. So finished ones are never written again, whoever asks for
them: the same study, or one of the same prompts with more seeds, other tests or another pair.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from .. import canonical
from ..errors import UserError
from ..prompts import digest
from ..receipts import smallest_margin
from ..types import (
    CheckpointInfo,
    Digest,
    EngineInfo,
    FinishReason,
    Margins,
    SideReceipt,
    SideResult,
    TokenIds,
    Usage,
    Value,
    Whole,
    in_common,
)
from .plan import Arm, StudyCell, StudyPlan

_APPLICATION = 0x53734732  # what SQLite's header says of whose a file is
_SCHEMA = """
    CREATE TABLE study (plan TEXT NOT NULL);
    CREATE TABLE fingerprint (pair TEXT, side TEXT, value TEXT NOT NULL, PRIMARY KEY (pair, side));
    CREATE TABLE cell (key TEXT PRIMARY KEY, request TEXT NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX request ON cell (request);
"""
_DIGITS = 32  # of the digest of a cell


class Fingerprint(Value):
    """Who wrote the replies of one checkpoint."""

    checkpoint: CheckpointInfo
    weights_sha256: Digest
    engine: EngineInfo

    @classmethod
    def of(cls, result: SideResult) -> "Fingerprint":
        return cls(**in_common(result, cls))

    def gives_the_bits_of(self, other: "Fingerprint") -> bool:
        """Certified or not: a study is written by one engine."""
        return self.engine.computes_as(other.engine) and self.weights_sha256 == other.weights_sha256


class CellReply(Value):
    """One reply, without what all replies of its checkpoint have in common."""

    prompt_tokens: Whole
    prompt_sha256: Digest
    max_new_tokens: Whole  # as sent
    text: str
    reasoning: str = ""
    reasoning_tokens: Whole = 0
    token_ids: TokenIds
    margins: Margins = Field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    # In nats, of what each token was drawn from; none where nobody asked.
    entropies: tuple[float, ...] = Field(default=(), repr=False, exclude_if=lambda found: not found)

    @classmethod
    def of(cls, result: SideResult) -> "CellReply":
        return cls(
            prompt_tokens=len(result.prompt_token_ids),
            max_new_tokens=result.sampling.max_new_tokens,
            **in_common(result, cls),
        )

    @property
    def digest(self) -> str:
        """Of the token ids that were sent and those that came back, and of how it ended."""
        return canonical.sha256([self.prompt_sha256, digest(self.token_ids), self.finish_reason])[:_DIGITS]

    def side_receipt(self, plan: StudyPlan, cell: StudyCell, by: Fingerprint) -> SideReceipt:
        """The same as one side of a comparison's receipt."""
        asked = plan.comparison(cell).sampling
        return SideReceipt(
            sampling=asked.model_copy(update={"max_new_tokens": self.max_new_tokens}),
            output_sha256=digest(self.token_ids),
            smallest_margin=smallest_margin(self.margins),
            **in_common(by, SideReceipt),
            **in_common(self, SideReceipt),
        )


class Store:
    """An open file, in one thread at a time."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    @property
    def plan(self) -> StudyPlan | None:
        """That of the last run."""
        row = self._connection.execute("SELECT plan FROM study").fetchone()
        return StudyPlan.model_validate_json(row[0]) if row else None

    def begin(self, plan: StudyPlan) -> None:
        with self._connection:
            self._connection.execute("DELETE FROM study")
            self._connection.execute("INSERT INTO study VALUES (?)", (canonical.text(canonical.dump(plan)),))

    def keep(
        self,
        plan: StudyPlan,
        cell: StudyCell,
        result: SideResult,
        entropies: tuple[float, ...] = (),
        request: str = "",
    ) -> None:
        """Keep a reply, and what it came of (`Desk.identity`).

        Raises:
            UserError: the replies that are kept of its checkpoint were written by another.
        """
        reply = CellReply.of(result).model_copy(update={"entropies": entropies})
        self._put(plan, cell, Fingerprint.of(result), request, reply.model_dump_json())

    def adopt(self, plan: StudyPlan, cell: StudyCell, request: str, by: Fingerprint) -> bool:
        """Keep for a cell what is kept of the same request, if anything is: a checkpoint may be in several pairs.

        Raises:
            UserError: as `keep`.
        """
        row = self._connection.execute("SELECT value FROM cell WHERE request = ?", (request,)).fetchone()
        if row is None or (plan.branching and not CellReply.model_validate_json(row[0]).entropies):
            return False
        self._put(plan, cell, by, request, row[0])
        return True

    def _put(self, plan: StudyPlan, cell: StudyCell, mine: Fingerprint, request: str, value: str) -> None:
        kept = self.fingerprint(cell.arm)
        if kept is not None and not mine.gives_the_bits_of(kept):
            raise UserError(
                f"The replies of {kept.checkpoint.name} in this file were written by other weights or another engine than are here, so they do not belong together; name another file."
            )
        with self._connection:
            if kept is None:
                who = (cell.arm.pair, cell.arm.side, mine.model_dump_json())
                self._connection.execute("INSERT INTO fingerprint VALUES (?, ?, ?)", who)
            row = (_key(plan, cell), request, value)
            self._connection.execute("INSERT OR REPLACE INTO cell VALUES (?, ?, ?)", row)

    def add(self, plan: StudyPlan, cell: StudyCell, entropies: tuple[float, ...]) -> None:
        """What reading a reply that is kept has found."""
        key = _key(plan, cell)
        kept = CellReply.model_validate_json(self._value(key) or "")
        value = kept.model_copy(update={"entropies": entropies}).model_dump_json()
        with self._connection:
            self._connection.execute("UPDATE cell SET value = ? WHERE key = ?", (value, key))

    def image(self, plan: StudyPlan) -> bytes:
        """What there is of a study, packed, for `opened`; all else is dropped here."""
        mine = {_key(plan, cell) for cell in plan.cells()}
        kept = [key for (key,) in self._connection.execute("SELECT key FROM cell")]
        with self._connection:
            self._connection.executemany("DELETE FROM cell WHERE key = ?", [(key,) for key in kept if key not in mine])
        self._connection.execute("VACUUM")
        return zlib.compress(self._connection.serialize())

    def fingerprint(self, arm: Arm) -> Fingerprint | None:
        row = self._connection.execute(
            "SELECT value FROM fingerprint WHERE pair = ? AND side = ?", (arm.pair, arm.side)
        ).fetchone()
        return Fingerprint.model_validate_json(row[0]) if row else None

    def missing(self, plan: StudyPlan) -> list[StudyCell]:
        """What there is still to write."""
        return [cell for cell in plan.cells() if not self._has(_key(plan, cell))]

    def unread(self, plan: StudyPlan) -> dict[StudyCell, SideReceipt]:
        """The replies that are still to be read, each with who wrote it."""
        found = self.written(plan) if plan.branching else {}
        by = {arm: self.fingerprint(arm) for arm in plan.arms()}
        return {
            cell: reply.side_receipt(plan, cell, writer)
            for cell, reply in found.items()
            if not reply.entropies and (writer := by[cell.arm]) is not None
        }

    def written(self, plan: StudyPlan) -> dict[StudyCell, CellReply]:
        """What there is of a study, in the order of its cells."""
        found = ((cell, self._value(_key(plan, cell))) for cell in plan.cells())
        return {cell: CellReply.model_validate_json(value) for cell, value in found if value is not None}

    def _has(self, key: str) -> bool:
        return self._connection.execute("SELECT 1 FROM cell WHERE key = ?", (key,)).fetchone() is not None

    def _value(self, key: str) -> str | None:
        row = self._connection.execute("SELECT value FROM cell WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None


def _key(plan: StudyPlan, cell: StudyCell) -> str:
    return canonical.sha256([canonical.dump(plan.comparison(cell)), cell.arm.side])


@contextmanager
def opened(file: str | None, image: bytes | None = None) -> Iterator[Store]:
    """A store in this file, which is made where there is none; without one in memory, gone at the end, from an `image` if there is one.

    Raises:
        UserError: it cannot be opened, is no study, or is in use.
    """
    new = file is None or not Path(file).exists() or not Path(file).stat().st_size
    try:
        connection = sqlite3.connect(":memory:" if file is None else file, check_same_thread=False, timeout=0.2)
    except sqlite3.Error as error:
        raise UserError(f"{file!r} cannot be opened: {error}.") from None
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(
            "PRAGMA synchronous = NORMAL"
        )  # safe when the process ends; the system's end may cost the last cells
        if image is not None:
            connection.deserialize(zlib.decompress(image))
        elif new:
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.executescript(_SCHEMA)
        elif connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise sqlite3.DatabaseError("it is no study")
        connection.execute("BEGIN IMMEDIATE")
        connection.commit()
        yield Store(connection)
    except sqlite3.Error as error:
        raise UserError(f"{file!r} cannot be used as the file of a study: {error}.") from None
    finally:
        connection.close()
