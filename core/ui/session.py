"""What happens when somebody presses a button on the Compare tab, as plain generators of views.

No widgets in here: a view says what to show, and `compare_tab` shows it. The chat is a tuple of
records that the visitor's own session holds; nothing about a visitor is kept anywhere else.
"""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from core import prompts
from core.compare import Run
from core.errors import UserError
from core.pool import Lease, Pool
from core.prompts import Prompt
from core.receipts import side_receipt
from core.types import SIDES, Comparison, Conversation, Framing, Record, Sampling, Side, Snapshot, Turn, explain

Chat = tuple[Record, ...]
_CHAT = TypeAdapter(Chat)
SAVED_VERSION = 1


@dataclass(frozen=True)
class Choices:
    """Everything that is chosen beside the prompt."""

    pair: str
    system: str
    sampling: Sampling
    framing_base: Framing
    framing_post: Framing

    @classmethod
    def of(cls, record: Record) -> "Choices":
        return cls(record.pair, record.system, record.sampling, record.framing_base, record.framing_post)


@dataclass(frozen=True)
class Live:
    """A turn that is being run, or that just was."""

    run: Run
    snapshot: Snapshot


@dataclass(frozen=True)
class View:
    """What the page shows. `chat` holds the finished turns; while `busy`, `live` is the one under way."""

    chat: Chat
    live: Live | None = None
    notice: str = ""
    tone: Literal["info", "error"] = "info"
    busy: bool = False
    box: str | None = None  # what to put into the prompt box; None leaves it alone
    saved: bool = False  # the chat has changed and should be kept


def sampling_of(values: dict[str, Any]) -> Sampling:
    """Sampling from what the widgets hold.

    Raises:
        UserError: a field is empty or out of range.
    """
    for name, value in values.items():
        if value is None:
            raise UserError(f"{name.replace('_', ' ').capitalize()} is empty; type a number.")
    try:
        return Sampling.model_validate(values)
    except ValidationError as error:
        raise explain(error) from None


def compare(
    pool: Pool, chat: Chat, prompt: str, choices: Choices, *, instead_of: Chat | None = None
) -> Generator[View, None, None]:
    """Send one prompt after the turns of `chat`, showing both replies as they are written.

    `instead_of` is the chat that is shown again, untouched, when this fails before it starts (a retry
    takes the place of a turn only once it runs). Closing the generator stops both replies.
    """
    shown = chat if instead_of is None else instead_of
    try:
        comparison = _comparison(chat, prompt, choices)
        lease = yield from _open(pool, comparison.pair, shown)
    except UserError as error:
        yield View(shown, notice=str(error), tone="error")
        return
    try:
        run = Run(lease, comparison)
        for snapshot in run.snapshots(lambda: _period(len(chat))):
            yield View(chat, Live(run, snapshot), busy=True, box="")
        yield _finished(chat, comparison, run)
    except UserError as error:
        yield View(shown, notice=str(error), tone="error")
    finally:
        lease.release()


def _comparison(chat: Chat, prompt: str, choices: Choices) -> Comparison:
    if not prompt.strip():
        raise UserError("Type a prompt first.")
    try:
        turns = tuple(record.turn for record in chat)
        return Comparison(
            pair=choices.pair,
            conversation=Conversation(system=choices.system, turns=turns),
            prompt=prompt,
            sampling=choices.sampling,
            framing_base=choices.framing_base,
            framing_post=choices.framing_post,
            today=date.today().isoformat(),
        )
    except ValidationError as error:
        raise explain(error) from None


def _open(pool: Pool, pair: str, chat: Chat) -> Generator[View, None, Lease]:
    opening = pool.open(pair)
    try:
        while True:
            try:
                progress = next(opening)
            except StopIteration as end:
                return end.value
            share = f" {progress.fraction:.0%}" if progress.fraction is not None else ""
            yield View(chat, notice=f"{progress.text}{share}", busy=True)
    finally:
        opening.close()


def _period(turns: int) -> float:
    """Seconds between two views: the browser's work grows with the chat (16 Hz to 20 messages, 8 Hz to 60, then 5 Hz)."""
    messages = 2 * turns
    return 1 / 16 if messages <= 20 else 1 / 8 if messages <= 60 else 1 / 5


def _finished(chat: Chat, comparison: Comparison, run: Run) -> View:
    snapshot = run.snapshot()
    failed = [side for side in SIDES if snapshot.reply(side).error is not None]
    sentences = " ".join(f"The {name(side)} side failed: {snapshot.reply(side).error}" for side in failed)
    if len(failed) == len(SIDES):
        return View(chat, notice=sentences, tone="error", box=comparison.prompt)
    receipts = {side: None if side in failed else side_receipt(run.side_result(side)) for side in SIDES}
    turn = Turn(prompt=comparison.prompt, base=snapshot.base.text, post=snapshot.post.text)
    record = Record.of(comparison, turn, receipts["base"], receipts["post"])
    return View((*chat, record), Live(run, snapshot), notice=sentences, tone="error" if failed else "info", saved=True)


def name(side: Side) -> str:
    return "base" if side == "base" else "post-trained"


def retry(pool: Pool, chat: Chat, choices: Choices) -> Generator[View, None, None]:
    """Run the last turn again, with the settings as they are now."""
    if not chat:
        yield View(chat, notice="There is no turn to retry yet.", tone="error")
        return
    yield from compare(pool, chat[:-1], chat[-1].turn.prompt, choices, instead_of=chat)


def undo(chat: Chat) -> View:
    """Take the last turn back."""
    return View(chat[:-1], saved=True) if chat else View(chat, notice="There is no turn to undo.", tone="error")


def edit(chat: Chat) -> View:
    """Take the last turn back and put its prompt into the box."""
    return (
        View(chat[:-1], box=chat[-1].turn.prompt, saved=True)
        if chat
        else View(chat, notice="There is no prompt to edit yet.", tone="error")
    )


def save(chat: Chat) -> dict[str, Any]:
    """The chat as the browser keeps it."""
    return {"version": SAVED_VERSION, "records": _CHAT.dump_python(chat, mode="json")}


def restore(saved: Any) -> View:
    """The chat that this browser kept, or an empty one with a sentence when it cannot be read."""
    if not saved:
        return View(())
    try:
        if saved["version"] != SAVED_VERSION:
            raise ValueError
        return View(_CHAT.validate_python(saved["records"]))
    except (ValidationError, ValueError, KeyError, TypeError):
        return View(
            (),
            notice="The conversation kept in this browser is from another version of the app and cannot be read; this is a new chat.",
            tone="error",
        )


def prompts_of_last(pool: Pool, chat: Chat) -> dict[Side, Prompt] | None:
    """What was sent on the last turn, rebuilt where its models are in memory already."""
    if not chat or chat[-1].pair not in {pair.id for pair in pool.pairs}:
        return None
    lease: Lease | None = pool.peek(chat[-1].pair)
    if lease is None:
        return None
    try:
        comparison = chat[-1].comparison(chat[:-1])
        return {
            side: prompts.build(comparison, side, lease.side(side).tokenizer, lease.post.tokenizer) for side in SIDES
        }
    finally:
        lease.release()
