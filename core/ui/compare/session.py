"""What happens when somebody presses a button on the Compare tab, as plain generators of views.

No widgets in here: a view says what to show, and `tab` shows it. The chat is a tuple of records that the
visitor's own session holds; nothing about a visitor is kept anywhere else.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from pydantic import ValidationError

from ... import chat_template, links, prompts, what_if
from ...errors import TooLong, UserError
from ...lease import Lease
from ...links import Shared
from ...pool import Pool
from ...prompts import Prompt, Tokenizer
from ...reasoning import ReplyReader, Split
from ...receipts import side_receipt
from ...run import Run
from ...steps import Stop, finish, watch
from ...study.statistics import wilson
from ...types import (
    MAX_CHARACTERS,
    SIDE_NAMES,
    SIDES,
    Chat,
    Comparison,
    Conversation,
    Dial,
    Lens,
    Mark,
    Record,
    Side,
    Snapshot,
    Turn,
    explain,
    in_common,
)
from .. import versions
from ..markup import counted, short
from ..sidebar import Choices
from ..visitor import Opened, Session
from . import render

_READING = "Reading a long conversation"
PERIOD = 1 / 16  # seconds between two views; what one costs does not depend on the length of the chat


@dataclass(frozen=True)
class Live:
    """A turn that is being run, or that just was: what was asked, by whom it is answered, and how far that is."""

    comparison: Comparison
    snapshot: Snapshot
    models: Mapping[Side, render.Model]
    ends: Mapping[Side, str]  # the tokens that ended those replies which have ended by themselves
    caveats: (
        str  # sentences: where a reply has less room than was asked for, what a chat template left out, and the like
    )
    begun: render.Begun = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, said: str = "") -> "Live":
        models = {
            side: render.Model(
                run.checkpoint(side).info.name,
                run.checkpoint(side).weights_sha256,
                run.engine(side),
                run.checkpoint(side).info.left_out,
                run.checkpoint(side).info.quantization,
            )
            for side in SIDES
        }
        begun = {
            side: given_text(run.prompt(side), run.checkpoint(side).tokenizer)
            for side in SIDES
            if run.prompt(side).prefilled
        }
        return cls(run.comparison, run.snapshot(), models, {}, " ".join(filter(None, (said, _caveats(run)))), begun)

    def at(self, run: Run, snapshot: Snapshot) -> "Live":
        """The same turn, further on."""
        ends = render.ends({side: snapshot.reply(side) for side in SIDES}, run.checkpoint)
        return replace(self, snapshot=snapshot, ends=ends)


def _caveats(run: Run) -> str:
    asked = run.comparison.sampling.max_new_tokens
    short = {side: run.sampling(side).max_new_tokens for side in SIDES if run.sampling(side).max_new_tokens < asked}
    room = (
        f"The {SIDE_NAMES[side]} side had room for {tokens:,} new tokens, not {asked:,}: prompt and reply share its context."
        for side, tokens in short.items()
    )
    lacks = {name: None for side in SIDES for name in run.checkpoint(side).lacks}
    fast = [f"Not in portable arithmetic: this machine gives other answers for {', '.join(lacks)}."] if lacks else []
    return " ".join([*room, *fast, *dict.fromkeys(note for side in SIDES for note in run.prompt(side).notes)])


@dataclass(frozen=True)
class Banner:
    """What is said above the turns about a comparison that came from elsewhere."""

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
    full: bool = False  # it does not fit into a context any more
    banner: Banner | None = None


Views = Generator[View, None, None]


def compare(
    pool: Pool,
    chat: Chat,
    prompt: str,
    choices: Choices,
    *,
    shared: Shared | None = None,
    again: Record | None = None,
    instead_of: Chat | None = None,
    stop: Stop | None = None,
    slower: Callable[[], float] = lambda: 1,
) -> Views:
    """Send one prompt after the turns of `chat`, showing both replies as they are written.

    `shared` came with a link: when what is asked is what was shared, it is asked exactly so, and the
    last view says whether the replies are the same. `again` is a turn of which this is another try, with what no field of
    the page holds. `instead_of` is the chat that is shown again, untouched, when this fails before it starts (what
    takes the place of a turn does so only once it runs). `stop` ends both replies where they are;
    closing the generator does so too. `slower` is asked before every view.
    """
    shown, box = (chat if instead_of is None else instead_of), (None if again else prompt)

    def make() -> Comparison:
        return _as_shared(_comparison(chat, prompt, choices, again), shared)

    for step in _run(pool, chat, make, shown, box, stop or Stop(), slower, shared=shared):
        view = step
        as_shared = shared is not None and view.changed and view.live and view.live.comparison == shared.comparison
        if as_shared and shared and view.live:
            view = replace(view, banner=_whether_shared(shared, view.chat[len(chat)], view.live.begun))
        yield view


def retry(pool: Pool, chat: Chat, turn: int, choices: Choices, **how: Any) -> Views:
    """Run a turn again, with the settings as they are now and what it had beside them; `how` as for `compare`."""
    prompt, again = chat[turn].turn.prompt, chat[turn]
    yield from compare(pool, chat[:turn], prompt, choices, again=again, instead_of=chat, **how)


def suggested(
    pool: Pool, chat: Chat, turn: int, asked: Mapping[str, Any], *, stop: Stop, slower: Callable[[], float] = lambda: 1
) -> Views:
    """What a turn suggests, in its place and under its own settings.

    `asked` comes from the browser and is checked here, one of {"branch": {"side", "step" (from 0), "token"}}, {"handover":
    {"tokens"}} and {"dial": {"amount"}}: both models go on from a reply with another token, each goes on from the
    other's first tokens, or the post-trained side is turned towards the base or beyond itself.
    """
    record = chat[turn]

    def whole(comparison: Comparison, side: Side) -> tuple[int, ...]:
        receipt = record.receipt(side)
        if receipt is None:
            raise UserError(f"The {SIDE_NAMES[side]} side of this turn has no reply; run it again first.")
        return (*comparison.prefill(side), *receipt.token_ids)

    def changed(lease: Lease, comparison: Comparison) -> Comparison:
        match asked:
            case {"branch": {"side": "base" | "post" as side, "step": int(step), "token": int(token)}}:
                return what_if.branch(comparison, whole(comparison, side), step, token)
            case {"handover": {"tokens": int(tokens)}}:
                return what_if.handover(lease, comparison, whole(comparison, "base"), whole(comparison, "post"), tokens)
            case {"dial": {"amount": int(amount) | float(amount)}}:
                try:
                    return comparison.model_copy(update={"dial": Dial(amount=amount)})
                except ValidationError as error:
                    raise explain(error) from None
        raise UserError("Choose one of the tokens on the card, or a setting of the dial.")

    yield from _run(pool, chat[:turn], lambda: record.comparison(chat[:turn]), chat, None, stop, slower, changed)


def _run(
    pool: Pool,
    chat: Chat,
    make: Callable[[], Comparison],
    shown: Chat,
    box: str | None,
    stop: Stop,
    slower: Callable[[], float],
    changed: Callable[[Lease, Comparison], Comparison] = lambda lease, comparison: comparison,
    shared: Shared | None = None,
) -> Views:
    """One comparison after the turns of `chat`, from loading its models to the turn that stays; `shown` stands when it fails.

    What `make` gives says which models are needed; what `changed` makes of it with them is run. Where it is what was
    `shared`, its replies are read as far as they are the models'.
    """
    try:
        comparison = make()
        lease = yield from watch(
            pool.open(comparison.pair, tokens=comparison.sampling.max_new_tokens),
            lambda progress: View(shown, notice=str(progress), busy=True),
            stop,
        )
    except UserError as error:
        yield View(shown, notice=str(error), tone="error", box=box, full=isinstance(error, TooLong))
        return
    try:
        with lease:
            asked, replies = changed(lease, comparison), None
            if shared is not None and shared.carries_replies and asked == shared.comparison:
                replies = {side: output.token_ids for side, output in shared.outputs.items()}
            beginning = Run.begin(lease, asked, shared=replies)
            run = yield from watch(beginning, lambda step: View(shown, notice=_READING, busy=True), stop)
            stop.also(run.stop)
            live = Live.of(run, "" if chat else lease.kin.difference)
            for snapshot in run.snapshots(lambda: min(1.0, PERIOD * slower())):
                yield View(chat, live.at(run, snapshot), busy=True)
            yield _finished(chat, run, live.at(run, run.snapshot()), shown, box)
    except UserError as error:
        yield View(shown, notice=str(error), tone="error", box=box, full=isinstance(error, TooLong))


def _comparison(chat: Chat, prompt: str, choices: Choices, again: Record | None = None) -> Comparison:
    if not prompt.strip():
        raise UserError("Type a prompt first.")
    try:
        conversation = Conversation(system=choices.system, turns=tuple(record.turn for record in chat))
        today = date.today().isoformat()
        unseen = {name: getattr(again, name) for name in _OUT_OF_SIGHT} if again and again.pair == choices.pair else {}
        return Comparison(
            conversation=conversation, prompt=prompt, today=today, **in_common(choices, Comparison), **unseen
        )
    except ValidationError as error:
        raise explain(error) from None


def _finished(chat: Chat, run: Run, live: Live, before: Chat, box: str | None) -> View:
    """The turn that has ended, or the chat as it was `before` when there is nothing that can be kept."""
    comparison, snapshot = run.comparison, live.snapshot
    for side in SIDES:
        reply = snapshot.reply(side)
        if max(len(reply.text), len(reply.reasoning)) > MAX_CHARACTERS:
            said = f"The {SIDE_NAMES[side]} side wrote more than {MAX_CHARACTERS:,} characters, which is more than a conversation holds; lower max new tokens and try again."
            return View(before, notice=said, tone="error", box=box)
    failed = [side for side in SIDES if snapshot.reply(side).error is not None]
    sentences = " ".join(f"The {SIDE_NAMES[side]} side failed: {snapshot.reply(side).error}" for side in failed)
    if len(failed) == len(SIDES):
        return View(before, notice=sentences, tone="error", box=box)
    receipts = {side: None if side in failed else side_receipt(run.side_result(side)) for side in SIDES}
    turn = Turn.of(comparison.prompt, snapshot.base, snapshot.post)
    record = Record.of(comparison, turn, receipts["base"], receipts["post"])
    # Another try that came to the same leaves what followed: it answered just this.
    rest: Chat = ()
    if len(before) > len(chat) and versions.same(before[len(chat)], record):
        record = record.model_copy(update={"mark": before[len(chat)].mark, "blind": before[len(chat)].blind})
        rest = before[len(chat) + 1 :]
    return View((*chat, record, *rest), live, notice=sentences, tone="error" if failed else "info", changed=True)


def mark(chat: Chat, turn: int, value: Mark) -> Chat:
    """Say which reply of a turn is the better one; saying it again takes it back. Only the first mark of a turn can be blind."""
    record = chat[turn]
    blind = None if record.mark else record.blind
    marked = record.model_copy(update={"mark": None if record.mark == value else value, "blind": blind})
    return (*chat[:turn], marked, *chat[turn + 1 :])


def blinded(view: View, turn: int, first: Side | None) -> View:
    """The view of a finished turn whose models are not named until it is marked; a turn with one failed side names them."""
    record = view.chat[turn] if view.changed else None
    if first is None or record is None or record.base is None or record.post is None or record.mark:
        return view
    blind = record.model_copy(update={"blind": first})
    return replace(view, chat=(*view.chat[:turn], blind, *view.chat[turn + 1 :]))


def tally(chat: Chat) -> str:
    """The marks of a conversation in one sentence, with the Wilson score interval (Wilson 1927) of how often the post-trained side is better."""
    marks = Counter(record.mark for record in chat if record.mark)
    if not marks:
        return ""
    better, decided = marks["post"], marks["base"] + marks["post"]
    said = (
        f"Marks so far: base {marks['base']}, post-trained {better}, ties {marks['tie']}, both bad {marks['neither']}."
    )
    if not decided:
        return said
    likely = wilson(better, decided)
    return f"{said} The post-trained reply is better in {better} of {decided} ({likely.low:.0%} to {likely.high:.0%} with 95% confidence)."


# --- what came from elsewhere -------------------------------------------------------------------------

# What a person sees and can change; the rest of a comparison (the date, a prefilled beginning, the dial) comes with the link.
_OUT_OF_SIGHT = ("prefill_base", "prefill_post", "dial")
_IN_SIGHT = ("pair", "conversation", "prompt", "sampling", "framing_base", "framing_post", "chat_template_kwargs")


def stands(session: Session) -> View:
    """A visitor's conversation as it stands; what came from elsewhere waits to be run."""
    view = View(session.records, notice=session.notice, tone="error" if session.notice else "info")
    if session.waiting is None:
        return view
    return replace(view, box=session.waiting.shared.comparison.prompt, banner=_arrived(session.waiting))


def _arrived(opened: Opened) -> Banner:
    turns = len(opened.shared.comparison.conversation.turns)
    earlier = f" after {counted(turns, 'earlier turn')}" if turns else ""
    return Banner(
        f"Loaded from a {opened.source}: a prompt{earlier}, with all its settings. Nothing has been run; press Check or Compare, and the page says whether the replies are those that were shared.{_beyond_sight(opened.shared)}"
    )


def _beyond_sight(shared: Shared) -> str:
    """What came with a link and is in no field of the page, in words."""
    comparison, dial = shared.comparison, shared.comparison.dial
    sentences = [
        f" The {SIDE_NAMES[side]} reply begins with {counted(len(comparison.prefill(side)), 'given token')}."
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


def _whether_shared(shared: Shared, record: Record, begun: render.Begun) -> Banner:
    if shared.base is None and shared.post is None:
        return Banner("This link was shared without replies to compare with.")
    texts = {side: record.turn.reply(side) for side in SIDES}
    found = links.differences(shared, {side: record.receipt(side) for side in SIDES}, texts)
    if not found:
        said = "These are the replies that were shared, token for token."
        given = f" They begin as whoever shared them chose: {'; '.join(_written(texts, begun))}." if begun else ""
        return Banner(said + given, "info" if begun else "good")  # no praise of what somebody put in
    reasons = "; ".join(f"{SIDE_NAMES[side]}: {why}{_beside(shared, side, texts[side])}" for side, why in found.items())
    return Banner(f"These are not the replies that were shared. {reasons[0].upper()}{reasons[1:]}.", "bad")


def same_run(one: Chat, other: Chat, turn: int) -> bool:
    """Whether a turn of two chats was asked with the same inputs and came back the same, token for token, on both sides."""
    a, b = one[turn], other[turn]
    came = [[receipt.token_ids if receipt else None for receipt in (each.base, each.post)] for each in (a, b)]
    return None not in came[0] and came[0] == came[1] and a.comparison(one[:turn]) == b.comparison(other[:turn])


def _beside(shared: Shared, side: Side, here: str) -> str:
    """Both texts from shortly before they differ, where the link has its own."""
    output = shared.output(side)
    there = output.text if output else None
    if there is None or there == here:
        return ""
    start = max(0, common(there, here) - 24)
    before = "\u2026" if start else ""
    one, other = (before + short(text[start:], 80) for text in (there, here))
    return f" (shared: \u201c{one}\u201d, here: \u201c{other}\u201d)"


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """How long their common beginning is."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _written(texts: Mapping[Side, str], begun: render.Begun) -> Iterator[str]:
    """Of replies that were given a beginning, what their models wrote."""
    for side, given in begun.items():
        rest = short(texts[side].removeprefix(given.answer), 80)
        wrote = f"\u201c{rest}\u201d" if rest else "nothing"
        yield f"the {SIDE_NAMES[side]} model was given \u201c{short(given.whole, 80)}\u201d and wrote {wrote}"


def given_text(prompt: Prompt, tokenizer: Tokenizer) -> Split:
    """The text that a reply was given to begin with, as the reply itself is read."""
    reader = ReplyReader(tokenizer, prompt.question, prompt.marks, begun=prompt.reasons)
    reader.take(*prompt.prefill)
    return reader.split


def begun_of(chat: Chat, turn: int, tokenizers: Callable[[str], Mapping[Side, Tokenizer] | None]) -> dict[Side, Split]:
    """The text that each reply of a turn was given to begin with, where its tokenizers are here."""
    record = chat[turn]
    sides = [side for side in SIDES if render.prefill_of(record, side)]
    known = tokenizers(record.pair) if sides else None
    if known is None:
        return {}
    asked = record.comparison(chat[:turn])
    try:
        return {side: given_text(prompts.build(asked, side, known[side], known["post"]), known[side]) for side in sides}
    except UserError:  # a stranger's ids, or a conversation that these models cannot be asked
        return {}


def models_of(record: Record, name_of: Callable[[str, Side], str]) -> dict[Side, render.Model]:
    """Who wrote a kept turn; `name_of` knows how a side of a pair is called where no receipt says so."""
    found = {}
    for side in SIDES:
        receipt = record.receipt(side)
        found[side] = (
            render.Model(
                receipt.checkpoint.name,
                receipt.weights_sha256,
                receipt.engine,
                receipt.checkpoint.left_out,
                receipt.checkpoint.quantization,
            )
            if receipt
            else render.Model(name_of(record.pair, side))
        )
    return found


def same_model(one: render.Model, other: render.Model) -> bool:
    """Whether two replies are of one model; a fingerprint that is not known is no difference."""
    known = one.weights_sha256 and other.weights_sha256
    return one.name == other.name and (not known or one.weights_sha256 == other.weights_sha256)


def ends_of(pool: Pool, chat: Chat) -> list[dict[Side, str]]:
    """For each turn the tokens that ended its replies, where the tokenizers are in memory."""
    found: list[dict[Side, str]] = [{} for _ in chat]
    for pair in {record.pair for record in chat} & {pair.id for pair in pool.pairs}:
        lease = pool.peek(pair)
        if lease is None:
            continue
        with lease:
            for turn, record in enumerate(chat):
                if record.pair == pair:
                    found[turn] = render.ends({side: record.receipt(side) for side in SIDES}, lease.side)
    return found


def prompts_of(pool: Pool, chat: Chat, turn: int) -> dict[Side, Prompt]:
    """What was sent for a turn, rebuilt where its models are in memory.

    Raises:
        UserError: they are not, or they cannot be sent it (a turn that came with a link may be one of another tokenizer).
    """
    record = chat[turn]
    with _in_memory(pool, record) as lease:
        comparison = record.comparison(chat[:turn])
        return {side: lease.prompt(comparison, side) for side in SIDES}


def lenses_of(pool: Pool, chat: Chat, turn: int) -> dict[Side, Lens]:
    """Both replies of a turn read through both models, where these are in memory.

    Raises:
        UserError: they are not, or a reply cannot be read by both.
    """
    record = chat[turn]
    with _in_memory(pool, record) as lease:
        asked = record.comparison(chat[:turn])
        written = {side: receipt for side in SIDES if (receipt := record.receipt(side)) and receipt.token_ids}
        return {side: finish(lease.read(asked, side, receipt.token_ids)) for side, receipt in written.items()}


def _in_memory(pool: Pool, record: Record) -> Lease:
    lease = pool.peek(record.pair) if record.pair in {pair.id for pair in pool.pairs} else None
    if lease is None:
        raise UserError("The models of this turn are not in memory now; ask them something and look again.")
    return lease


def switches_of(pool: Pool, pair: str) -> tuple[str, ...] | None:
    """What the chat template of a pair reads; None where it is not in memory."""
    lease = pool.peek(pair)
    if lease is None:
        return None
    with lease:
        return chat_template.switches(lease.post.tokenizer)
