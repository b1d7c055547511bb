"""What happens on the Receipts tab, as plain functions and generators: no widgets in here.

Receipts that were dropped on the page are held by the visitor's own session, newest last.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from ... import receipts, replay
from ...difference import Difference, detokenized, difference
from ...errors import UserError
from ...pool import Pool, Progress
from ...steps import Stop, Stopped, watch
from ...types import AnyReceipt, Chat, Verdict
from ..markup import short

MAX_HELD = 8  # receipts that one visitor's session holds; the oldest go first

Held = tuple[AnyReceipt, ...]


@dataclass(frozen=True)
class Checked:
    """A replay: how far it is, and at its end the verdict or a sentence that says why there is none."""

    progress: Progress | None = None
    verdict: Verdict | None = None
    mistake: str = ""


def take(held: Held, file: Path) -> tuple[Held, AnyReceipt]:
    """Read a receipt that was dropped, remove the server's copy of it, and hold it.

    Raises:
        UserError: it is not a sound receipt.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(receipts.MAX_BYTES + 1)
    finally:
        file.unlink()
    receipt = receipts.read(data)
    others = tuple(each for each in held if each.sha256 != receipt.sha256)
    return (*others, receipt)[-MAX_HELD:], receipt


def check(pool: Pool, receipt: AnyReceipt, stop: Stop) -> Generator[Checked, None, None]:
    """Replay a receipt, showing how far it is."""
    try:
        verdict = yield from watch(replay.replay(pool, receipt), lambda progress: Checked(progress=progress), stop)
        yield Checked(verdict=verdict)
    except Stopped:
        yield Checked(mistake="The replay was stopped.")
    except UserError as error:
        yield Checked(mistake=str(error))


def sources(chat: Chat, held: Held) -> list[tuple[str, str]]:
    """What can be compared: (label, key) of every turn with a receipt and of every receipt that was dropped."""
    turns = [
        (f"Turn {number + 1}: {short(record.turn.prompt, 50)}", f"turn {number}")
        for number, record in enumerate(chat)
        if record.base and record.post
    ]
    return turns + [(f"Receipt {each.sha256[:8]}: {short(each.comparison.prompt, 50)}", each.sha256) for each in held]


def find(chat: Chat, held: Held, key: object) -> AnyReceipt:
    """The receipt behind a key of `sources`. Raises UserError when it is gone."""
    if isinstance(key, str) and key.startswith("turn ") and key.removeprefix("turn ").isdigit():
        number = int(key.removeprefix("turn "))
        if number < len(chat):
            return receipts.of_turn(chat, number)
    for receipt in held:
        if receipt.sha256 == key:
            return receipt
    raise UserError("Choose two turns or receipts first; a receipt joins the list when it is dropped above.")


def explain(pool: Pool, first: AnyReceipt, second: AnyReceipt) -> Difference:
    """Why two runs differ, with the texts that were sent and the tokens as text where that is known here. Raises UserError as `difference`."""
    return difference(first, second, (detokenized(pool, first), detokenized(pool, second)))
