"""What happens when somebody presses a button on the Compare tab, as plain generators of views.

No widgets in here: a view says what to show, and `compare_tab` shows it. The chat is a tuple of
records that the visitor's own session holds; nothing about a visitor is kept anywhere else.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from .. import links, prompts
from ..compare import Run
from ..errors import UserError
from ..links import Shared
from ..pairs import find_pair
from ..pool import Lease, Pool
from ..prompts import Prompt
from ..receipts import side_receipt
from ..types import (
    MAX_CHARACTERS,
    SIDES,
    Comparison,
    Conversation,
    Framing,
    Mark,
    Record,
    Sampling,
    Side,
    Snapshot,
    Turn,
    explain,
)

Chat = tuple[Record, ...]


class Lost(tuple[Record, ...]):
    """The chat of a session that holds none: nobody has opened it, or it has expired, or the server was started again."""


class Underway:
    """One visitor's reply that is being written: at most one at a time, and what Stop needs to find it.

    It holds the run, and with it the models, only while somebody waits for the reply.
    """

    def __init__(self) -> None:
        self._turnstile = deque([1])  # taking what is in it is one step, so two clicks cannot both begin
        self._began = 0
        self.run: Run | None = None
        self.slower = 1  # how many times less often than usual this visitor's browser wants to draw

    @property
    def busy(self) -> bool:
        return not self._turnstile

    def begin(self) -> int | None:
        """The number of the reply that may begin now; None when one is being written already."""
        try:
            self._began = self._turnstile.pop()
        except IndexError:
            return None
        return self._began

    def end(self, number: int) -> None:
        """This reply has ended. Safe to call more than once."""
        if self.busy and self._began == number:
            self.run = None
            self._turnstile.append(number + 1)

    def stop(self) -> None:
        run = self.run
        if run is not None:
            run.stop()


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

    @classmethod
    def of_comparison(cls, asked: Comparison) -> "Choices":
        return cls(asked.pair, asked.conversation.system, asked.sampling, asked.framing_base, asked.framing_post)


@dataclass(frozen=True)
class Live:
    """A turn that is being run, or that just was."""

    run: Run
    snapshot: Snapshot


@dataclass(frozen=True)
class Banner:
    """What is said above the panes about a link. `ran`: the link has done its work, so the address may forget it."""

    text: str
    tone: Literal["info", "good", "bad"] = "info"
    ran: bool = False


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
    banner: Banner | None = None


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
    pool: Pool,
    chat: Chat,
    prompt: str,
    choices: Choices,
    *,
    shared: Shared | None = None,
    instead_of: Chat | None = None,
    slower: Callable[[], int] = lambda: 1,
) -> Generator[View, None, None]:
    """Send one prompt after the turns of `chat`, showing both replies as they are written.

    `shared` came with a link: when what is asked is what was shared, it is asked exactly so, and the
    last view says whether the replies are the same. `instead_of` is the chat that is shown again, untouched, when this fails before it starts (a retry
    takes the place of a turn only once it runs). `slower` is asked before every view. Closing the generator stops
    both replies.
    """
    shown = chat if instead_of is None else instead_of
    try:
        comparison = _as_shared(_comparison(chat, prompt, choices), shared)
        lease = yield from _open(pool, comparison.pair, shown)
    except UserError as error:
        yield View(shown, notice=str(error), tone="error")
        return
    try:
        run = Run(lease, comparison)
        for snapshot in run.snapshots(lambda: _period(len(chat), slower())):
            yield View(chat, Live(run, snapshot), busy=True, box="")
        finished = _finished(chat, comparison, run, shown)
        if shared is not None and comparison is shared.comparison and finished.saved:
            finished = replace(finished, banner=_whether_shared(shared, finished.chat[-1]))
        yield finished
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


def _period(turns: int, slower: int = 1) -> float:
    """Seconds between two views: the browser's work grows with the chat (16 Hz to 20 messages, 8 Hz to 60, then 5 Hz),
    and a browser that falls behind is asked to draw `slower` times less often, but at least once a second."""
    messages = 2 * turns
    usual = 1 / 16 if messages <= 20 else 1 / 8 if messages <= 60 else 1 / 5
    return min(1.0, usual * slower)


def _finished(chat: Chat, comparison: Comparison, run: Run, before: Chat) -> View:
    """The turn that has ended, or the chat as it was `before` when there is nothing that can be kept."""
    snapshot = run.snapshot()
    for side in SIDES:
        if len(snapshot.reply(side).text) > MAX_CHARACTERS:
            said = f"The {name(side)} side wrote more than {MAX_CHARACTERS:,} characters, which is more than a conversation holds; lower max new tokens and try again."
            return View(before, notice=said, tone="error", box=comparison.prompt)
    failed = [side for side in SIDES if snapshot.reply(side).error is not None]
    sentences = " ".join(f"The {name(side)} side failed: {snapshot.reply(side).error}" for side in failed)
    if len(failed) == len(SIDES):
        return View(before, notice=sentences, tone="error", box=comparison.prompt)
    receipts = {side: None if side in failed else side_receipt(run.side_result(side)) for side in SIDES}
    turn = Turn(prompt=comparison.prompt, base=snapshot.base.text, post=snapshot.post.text)
    record = Record.of(comparison, turn, receipts["base"], receipts["post"])
    return View((*chat, record), Live(run, snapshot), notice=sentences, tone="error" if failed else "info", saved=True)


def name(side: Side) -> str:
    return "base" if side == "base" else "post-trained"


def retry(
    pool: Pool,
    chat: Chat,
    choices: Choices,
    shared: Shared | None = None,
    slower: Callable[[], int] = lambda: 1,
) -> Generator[View, None, None]:
    """Run the last turn again, with the settings as they are now."""
    if not chat:
        yield View(chat, notice="There is no turn to retry yet.", tone="error")
        return
    yield from compare(pool, chat[:-1], chat[-1].turn.prompt, choices, shared=shared, instead_of=chat, slower=slower)


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


def mark(chat: Chat, turn: int, value: Mark) -> View:
    """Say which reply of a turn is the better one; saying it again takes it back."""
    if not 0 <= turn < len(chat):
        return View(chat, notice="This turn is no longer there.", tone="error")
    record = chat[turn]
    marked = record.model_copy(update={"mark": None if record.mark == value else value})
    return View((*chat[:turn], marked, *chat[turn + 1 :]), saved=True)


# --- links --------------------------------------------------------------------------------------------

# What a person sees and can change; the rest of a comparison (the date, a prefilled beginning, the dial) comes with the link.
_IN_SIGHT = ("pair", "conversation", "prompt", "sampling", "framing_base", "framing_post")


def open_shared(pool: Pool, shared: Shared, source: str) -> View:
    """The view that a link (or a receipt) opens: everything restored, nothing run.

    Raises:
        UserError: its pair is not one of this app's.
    """
    comparison = shared.comparison
    find_pair(pool.pairs, comparison.pair)
    chat = tuple(_record_of(comparison, turn) for turn in comparison.conversation.turns)
    earlier = f" after {len(chat)} earlier turn{'s' if len(chat) != 1 else ''}" if chat else ""
    text = f"Loaded from a {source}: a prompt{earlier}, with all its settings. Nothing has been run; press Compare, and the page says whether the replies are those that were shared.{_beyond_sight(shared)}"
    return View(chat, box=comparison.prompt, banner=Banner(text))


def _beyond_sight(shared: Shared) -> str:
    """What came with a link and is in no field of the page, in words."""
    comparison, dial = shared.comparison, shared.comparison.dial
    sentences = [
        f" The {name(side)} reply begins with {len(comparison.prefill(side)):,} given tokens."
        for side in SIDES
        if comparison.prefill(side)
    ]
    if dial is not None:
        sentences.append(f" The post-trained side is dialled to {dial.amount:g} in the space of {dial.space}.")
    if shared.lens is not None:
        sentences.append(f" Then look at the {name(shared.lens.side)} reply on the Token lens tab.")
    return "".join(sentences)


def open_link(pool: Pool, fragment: str) -> tuple[View, Shared]:
    """Raises UserError when the link cannot be used; then it must change nothing."""
    shared = links.decode(fragment)
    return open_shared(pool, shared, "link"), shared


def _record_of(comparison: Comparison, turn: Turn) -> Record:
    """An earlier turn that came with a link: its texts, under the settings of the link. How it was made is not known."""
    return Record(
        turn=turn,
        pair=comparison.pair,
        system=comparison.conversation.system,
        sampling=comparison.sampling,
        framing_base=comparison.framing_base,
        framing_post=comparison.framing_post,
        today=comparison.today,
        base=None,
        post=None,
    )


def _as_shared(comparison: Comparison, shared: Shared | None) -> Comparison:
    """The comparison that was shared, when nothing in sight was changed since its link was opened."""
    if shared is None or any(getattr(comparison, name) != getattr(shared.comparison, name) for name in _IN_SIGHT):
        return comparison
    return shared.comparison


def _whether_shared(shared: Shared, record: Record) -> Banner:
    if shared.base is None and shared.post is None:
        return Banner("This link was shared without replies to compare with.", ran=True)
    found = links.differences(shared, {side: record.receipt(side) for side in SIDES})
    if not found:
        return Banner("These are the replies that were shared, token for token.", "good", ran=True)
    reasons = "; ".join(f"{name(side)}: {why}" for side, why in found.items())
    return Banner(f"These are not the replies that were shared. {reasons[0].upper()}{reasons[1:]}.", "bad", ran=True)


# --- what the browser keeps -----------------------------------------------------------------------------


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
    """What was sent on the last turn, rebuilt where its models are in memory already.

    Raises:
        UserError: these models cannot be sent it (a turn that came with a link may be one of another tokenizer).
    """
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
