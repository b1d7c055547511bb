"""What happens when somebody presses a button on the Compare tab, as plain generators of views.

No widgets in here: a view says what to show, and `tab` shows it. The chat is a tuple of records that the
visitor's own session holds; nothing about a visitor is kept anywhere else.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from pydantic import ValidationError

from ... import chat_template, links
from ...compare import Run
from ...errors import UserError
from ...links import Shared
from ...pool import Pool
from ...prompts import Prompt
from ...receipts import side_receipt
from ...steps import Stop, watch
from ...types import (
    MAX_CHARACTERS,
    SIDE_NAMES,
    SIDES,
    Chat,
    Comparison,
    Conversation,
    Deviation,
    Mark,
    Record,
    Side,
    Snapshot,
    Turn,
    explain,
    in_common,
)
from ..sidebar import Choices
from ..visitor import Opened, Session


@dataclass(frozen=True)
class Live:
    """A turn that is being run, or that just was: what was sent, by whom it is answered, and how far that is."""

    prompt: str
    snapshot: Snapshot
    names: Mapping[Side, str]
    weights: Mapping[Side, str]
    deviations: Mapping[Side, Deviation | None]
    sent: Mapping[Side, Prompt]
    switches: tuple[str, ...]  # what the chat template reads
    caveats: str  # sentences: where a reply has less room than was asked for, and what a chat template left out

    @classmethod
    def of(cls, run: Run, said: str = "") -> "Live":
        checkpoints = {side: run.checkpoint(side) for side in SIDES}
        return cls(
            prompt=run.comparison.prompt,
            snapshot=run.snapshot(),
            names={side: checkpoint.info.name for side, checkpoint in checkpoints.items()},
            weights={side: checkpoint.weights_sha256 for side, checkpoint in checkpoints.items()},
            deviations={side: run.engine(side).deviation for side in SIDES},
            sent={side: run.prompt(side) for side in SIDES},
            switches=chat_template.switches(checkpoints["post"].tokenizer),
            caveats=" ".join(filter(None, (said, _caveats(run)))),
        )


def _caveats(run: Run) -> str:
    asked = run.comparison.sampling.max_new_tokens
    short = {side: run.sampling(side).max_new_tokens for side in SIDES if run.sampling(side).max_new_tokens < asked}
    room = (
        f"The {SIDE_NAMES[side]} side had room for {tokens:,} new tokens, not {asked:,}: its context is nearly full."
        for side, tokens in short.items()
    )
    return " ".join([*room, *dict.fromkeys(note for side in SIDES for note in run.prompt(side).notes)])


@dataclass(frozen=True)
class Banner:
    """What is said above the panes about a comparison that came from elsewhere."""

    text: str
    tone: Literal["info", "good", "bad"] = "info"


@dataclass(frozen=True)
class View:
    """What the page shows. `chat` holds the finished turns; while `busy`, `live` is the one under way."""

    chat: Chat
    live: Live | None = None
    notice: str = ""
    tone: Literal["info", "error"] = "info"
    busy: bool = False
    box: str | None = None  # what to put into the prompt box; None leaves it alone
    changed: bool = False  # the chat is another one now
    banner: Banner | None = None


Views = Generator[View, None, None]


def compare(
    pool: Pool,
    chat: Chat,
    prompt: str,
    choices: Choices,
    *,
    shared: Shared | None = None,
    instead_of: Chat | None = None,
    stop: Stop | None = None,
    slower: Callable[[], int] = lambda: 1,
) -> Views:
    """Send one prompt after the turns of `chat`, showing both replies as they are written.

    `shared` came with a link: when what is asked is what was shared, it is asked exactly so, and the
    last view says whether the replies are the same. `instead_of` is the chat that is shown again, untouched, when this
    fails before it starts (a retry takes the place of a turn only once it runs). `stop` ends both replies where they are;
    closing the generator does so too. `slower` is asked before every view.
    """
    shown, box = (chat, prompt) if instead_of is None else (instead_of, None)
    stop = stop or Stop()
    try:
        comparison = _as_shared(_comparison(chat, prompt, choices), shared)
        lease = yield from watch(
            pool.open(comparison.pair), lambda progress: View(shown, notice=str(progress), busy=True), stop
        )
    except UserError as error:
        yield View(shown, notice=str(error), tone="error", box=box)
        return
    try:
        with lease:
            run = Run(lease, comparison)
            stop.also(run.stop)
            live = Live.of(run, "" if chat else lease.kin.difference)
            for snapshot in run.snapshots(lambda: _period(len(chat), slower())):
                yield View(chat, replace(live, snapshot=snapshot), busy=True, box="")
            finished = _finished(chat, run, replace(live, snapshot=run.snapshot()), shown)
            if shared is not None and comparison == shared.comparison and finished.changed:
                finished = replace(finished, banner=_whether_shared(shared, finished.chat[-1]))
            yield finished
    except UserError as error:
        yield View(shown, notice=str(error), tone="error", box=box)


def _comparison(chat: Chat, prompt: str, choices: Choices) -> Comparison:
    if not prompt.strip():
        raise UserError("Type a prompt first.")
    try:
        conversation = Conversation(system=choices.system, turns=tuple(record.turn for record in chat))
        today = date.today().isoformat()
        return Comparison(conversation=conversation, prompt=prompt, today=today, **in_common(choices, Comparison))
    except ValidationError as error:
        raise explain(error) from None


def _period(turns: int, slower: int = 1) -> float:
    """Seconds between two views: the browser's work grows with the chat (16 Hz to 20 messages, 8 Hz to 60, then 5 Hz),
    and a browser that falls behind is asked to draw `slower` times less often, but at least once a second."""
    messages = 2 * turns
    usual = 1 / 16 if messages <= 20 else 1 / 8 if messages <= 60 else 1 / 5
    return min(1.0, usual * slower)


def _finished(chat: Chat, run: Run, live: Live, before: Chat) -> View:
    """The turn that has ended, or the chat as it was `before` when there is nothing that can be kept."""
    comparison, snapshot = run.comparison, live.snapshot
    for side in SIDES:
        if len(snapshot.reply(side).text) > MAX_CHARACTERS:
            said = f"The {SIDE_NAMES[side]} side wrote more than {MAX_CHARACTERS:,} characters, which is more than a conversation holds; lower max new tokens and try again."
            return View(before, notice=said, tone="error", box=comparison.prompt)
    failed = [side for side in SIDES if snapshot.reply(side).error is not None]
    sentences = " ".join(f"The {SIDE_NAMES[side]} side failed: {snapshot.reply(side).error}" for side in failed)
    if len(failed) == len(SIDES):
        return View(before, notice=sentences, tone="error", box=comparison.prompt)
    receipts = {side: None if side in failed else side_receipt(run.side_result(side)) for side in SIDES}
    turn = Turn.of(comparison.prompt, snapshot.base, snapshot.post)
    record = Record.of(comparison, turn, receipts["base"], receipts["post"])
    return View((*chat, record), live, notice=sentences, tone="error" if failed else "info", changed=True)


def retry(pool: Pool, chat: Chat, choices: Choices, shared: Shared | None = None, **how: Any) -> Views:
    """Run the last turn again, with the settings as they are now; `how` as for `compare`."""
    if not chat:
        yield View(chat, notice="There is no turn to retry yet.", tone="error")
        return
    yield from compare(pool, chat[:-1], chat[-1].turn.prompt, choices, shared=shared, instead_of=chat, **how)


def undo(chat: Chat) -> View:
    """Take the last turn back."""
    return View(chat[:-1], changed=True) if chat else View(chat, notice="There is no turn to undo.", tone="error")


def edit(chat: Chat) -> View:
    """Take the last turn back and put its prompt into the box."""
    return (
        View(chat[:-1], box=chat[-1].turn.prompt, changed=True)
        if chat
        else View(chat, notice="There is no prompt to edit yet.", tone="error")
    )


def mark(chat: Chat, turn: int, value: Mark) -> View:
    """Say which reply of a turn is the better one; saying it again takes it back."""
    if not 0 <= turn < len(chat):
        return View(chat, notice="This turn is no longer there.", tone="error")
    record = chat[turn]
    marked = record.model_copy(update={"mark": None if record.mark == value else value})
    return View((*chat[:turn], marked, *chat[turn + 1 :]), changed=True)


# --- what came from elsewhere -------------------------------------------------------------------------

# What a person sees and can change; the rest of a comparison (the date, a prefilled beginning, the dial) comes with the link.
_IN_SIGHT = ("pair", "conversation", "prompt", "sampling", "framing_base", "framing_post", "chat_template_kwargs")


def stands(session: Session) -> View:
    """A visitor's conversation as it stands; what came from elsewhere waits to be run."""
    view = View(session.records, notice=session.notice, tone="error" if session.notice else "info")
    if session.waiting is None:
        return view
    return replace(view, box=session.waiting.shared.comparison.prompt, banner=_arrived(session.waiting))


def _arrived(opened: Opened) -> Banner:
    turns = len(opened.shared.comparison.conversation.turns)
    earlier = f" after {turns} earlier turn{'s' if turns != 1 else ''}" if turns else ""
    return Banner(
        f"Loaded from a {opened.source}: a prompt{earlier}, with all its settings. Nothing has been run; press Compare, and the page says whether the replies are those that were shared.{_beyond_sight(opened.shared)}"
    )


def _beyond_sight(shared: Shared) -> str:
    """What came with a link and is in no field of the page, in words."""
    comparison, dial = shared.comparison, shared.comparison.dial
    sentences = [
        f" The {SIDE_NAMES[side]} reply begins with {len(comparison.prefill(side)):,} given tokens."
        for side in SIDES
        if comparison.prefill(side)
    ]
    if dial is not None:
        sentences.append(f" The post-trained side is dialled to {dial.amount:g} in the space of {dial.space}.")
    if shared.lens is not None:
        sentences.append(f" Then look at the {SIDE_NAMES[shared.lens.side]} reply on the Token lens tab.")
    return "".join(sentences)


def _as_shared(comparison: Comparison, shared: Shared | None) -> Comparison:
    """The comparison that was shared, when nothing in sight was changed since its link was opened."""
    if shared is None or any(getattr(comparison, name) != getattr(shared.comparison, name) for name in _IN_SIGHT):
        return comparison
    return shared.comparison


def _whether_shared(shared: Shared, record: Record) -> Banner:
    if shared.base is None and shared.post is None:
        return Banner("This link was shared without replies to compare with.")
    found = links.differences(shared, {side: record.receipt(side) for side in SIDES})
    if not found:
        return Banner("These are the replies that were shared, token for token.", "good")
    reasons = "; ".join(f"{SIDE_NAMES[side]}: {why}" for side, why in found.items())
    return Banner(f"These are not the replies that were shared. {reasons[0].upper()}{reasons[1:]}.", "bad")


def prompts_of_last(pool: Pool, chat: Chat) -> dict[Side, Prompt] | None:
    """What was sent on the last turn, rebuilt where its models are in memory already.

    Raises:
        UserError: these models cannot be sent it (a turn that came with a link may be one of another tokenizer).
    """
    if not chat or chat[-1].pair not in {pair.id for pair in pool.pairs}:
        return None
    lease = pool.peek(chat[-1].pair)
    if lease is None:
        return None
    with lease:
        comparison = chat[-1].comparison(chat[:-1])
        return {side: lease.prompt(comparison, side) for side in SIDES}
