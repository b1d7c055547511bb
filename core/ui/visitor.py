"""One visitor: whose conversation every tab shows, what the browser keeps of it, and what of theirs is under way.

The server's half is a `Session` in a gr.State of the visitor's own, changed in place; the browser's half is
visitor.js. A session that was lost (it has expired, or the server was started again) is made anew from what the
browser kept, whichever tab asks first. A conversation belongs to an entry of the browser's history, and to one
tab of the browser, the only one that writes it.
"""

import secrets
from collections.abc import Callable
from itertools import pairwise
from threading import Lock
from typing import Annotated, Any, Literal

import gradio as gr
from pydantic import FailFast, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .. import links
from ..errors import UserError
from ..links import Shared
from ..pairs import find_pair
from ..pool import Pool
from ..steps import Stop
from ..types import MAX_TURNS, Chat, Comparison, Record, Turn, Value
from . import markup
from .room import QUIET, Update, Values
from .sidebar import Choices, Sidebar
from .versions import MOST_ASIDE, Aside, Versions

_ARRIVE = f"window.sameSeed.visitor.arrive({links.MAX_READ + 1})"
BUSY = "A reply is being written; stop it first, or wait until it has ended."
UNREADABLE = (
    "The conversation kept in this browser is from another version of the app and cannot be read; this is a new chat."
)


class Opened(Value):
    """A comparison that came from elsewhere, and what it came in ("link", "receipt")."""

    shared: Shared
    source: str


class Kept(Value):
    """What a browser keeps of one conversation: in JSON a system prompt stands only where it is not that of the turn before."""

    version: Literal[1] = 1
    records: Annotated[
        Chat, FailFast(), Field(max_length=MAX_TURNS + 1)
    ] = ()  # the last of them with all turns before it
    # Versions of turns that are not in sight (see Versions.of).
    aside: Annotated[tuple[Aside, ...], FailFast(), Field(max_length=MOST_ASIDE)] = ()
    opened: Opened | None = None

    @model_validator(mode="before")
    @classmethod
    def _said_again(cls, data: Any) -> Any:
        for before, record in pairwise(_kept_records(data)):
            record.setdefault("system", before.get("system"))
        return data

    @model_serializer(mode="wrap")
    def _said_once(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialize(self)
        for before, record in reversed([*pairwise(_kept_records(data))]):
            if record["system"] == before["system"]:
                del record["system"]
        return data

    @model_validator(mode="after")
    def _can_be_sent(self) -> "Kept":
        if self.records:
            self.records[-1].comparison(self.records[:-1])
        return self


def _kept_records(data: Any) -> list[dict[str, Any]]:
    """Every record in the data of a `Kept`, which may be anything, in its order."""

    def listed(name: str) -> list[dict[str, Any]]:
        each = data.get(name) if isinstance(data, dict) else None
        return [item for item in each if isinstance(item, dict)] if isinstance(each, list | tuple) else []

    nodes = (node.get("record") for node in listed("aside"))
    return [*listed("records"), *(record for record in nodes if isinstance(record, dict))]


class Session:
    """What the server holds of one visitor. `versions` is None where nobody has arrived, or what it held was lost."""

    def __init__(self) -> None:
        self.versions: Versions | None = None
        self.opened: Opened | None = None
        self.notice = ""  # what went wrong on arrival
        self.elsewhere = ""  # a name for the conversation of theirs that this tab could show instead
        self.slower = 1  # how many times less often than usual this visitor's browser wants to draw
        self.bytes_held = 0  # of its conversation, as the browser keeps it
        self._work: dict[str, Stop] = {}
        self._lock = Lock()

    def __deepcopy__(self, memo: Any) -> "Session":
        """Every visitor begins with one of their own."""
        return Session()

    @property
    def records(self) -> Chat:
        return self.versions.chat if self.versions else ()

    def follow(self, chat: Chat) -> None:
        """The conversation goes on as `chat`; turns that are no longer in sight stay as versions."""
        self.versions = (self.versions or Versions()).follow(chat)

    @property
    def waiting(self) -> Opened | None:
        """What came from elsewhere, while nothing has been run behind it."""
        return None if any(map(has_receipt, self.records)) else self.opened

    def begin(self, room: str) -> Stop | None:
        """What ends the work that may begin now; None while earlier work of this room goes on."""
        with self._lock:
            return None if room in self._work else self._work.setdefault(room, Stop())

    def restart(self, room: str) -> Stop:
        """What ends the work that begins now; earlier work of this room is stopped."""
        with self._lock:
            if room in self._work:
                self._work[room].press()
            self._work[room] = Stop()
            return self._work[room]

    def end(self, room: str, work: Stop) -> None:
        """This work has ended. Safe to call more than once, and when other work has begun since."""
        with self._lock:
            if self._work.get(room) == work:
                del self._work[room]

    def busy(self, room: str) -> bool:
        return room in self._work

    def stop(self, room: str) -> None:
        work = self._work.get(room)
        if work is not None:
            work.press()


def has_receipt(record: Record) -> bool:
    """Whether this turn was run by the app, rather than having come with a link (one that failed on both sides is not kept)."""
    return record.base is not None or record.post is not None


class Visitor:
    """The parts of the page that hold a visitor, and what every room may do with them."""

    def __init__(self, pool: Pool, sidebar: Sidebar, tabs: gr.Tabs):
        self.pool, self.sidebar, self.tabs = pool, sidebar, tabs
        self.session = gr.State(Session())
        # As an input: what the browser keeps of this conversation, from the moment that it is there. As an output: what it
        # should do (see visitor.js).
        self.keeper = gr.HTML(
            None,
            html_template="",
            js_on_load=(
                f"props.value = {_ARRIVE};"
                "window.sameSeed.keep = (order) => { props.value = window.sameSeed.visitor.obey(order); };"
                "watch('value', () => window.sameSeed.keep(props.value))"
            ),
            apply_default_css=False,
            visible="hidden",
            elem_id="keeper",
        )
        self._shows: list[Callable[[Session], Update]] = []
        self._arrivals: list[Callable[[Any], Any]] = []
        self._shown: list[Any] = []

    # --- for the rooms ----------------------------------------------------------------------------

    @property
    def held(self) -> set[Any]:
        """What a handler must be given so that `of` finds the visitor."""
        return {self.session, self.keeper}

    @property
    def outputs(self) -> list[Any]:
        """Everything that another conversation can change."""
        return list(dict.fromkeys([*self._shown, *self.sidebar.outputs, self.session, self.keeper, self.tabs]))

    def on_change(self, show: Callable[[Session], Update], outputs: list[Any]) -> None:
        """Let a room show whatever conversation the visitor has from now on."""
        self._shows.append(show)
        self._shown += outputs

    def of(self, values: Values) -> Session:
        """The visitor's session; when it has lost its conversation, what the browser kept is what the page shows."""
        session: Session = values[self.session]
        if session.versions is None:
            self._recover(session, values[self.keeper])
        return session

    def if_idle(self, act: Callable[[Values], Update], notice: Any) -> Callable[[Values], Update]:
        """`act`, which changes the conversation, refused while a reply is being written into it."""

        def acted(values: Values) -> Update:
            return {notice: markup.notice(BUSY, "error")} if self.of(values).busy("compare") else act(values)

        return acted

    def on_stop(self, listener: Any, room: str) -> None:
        """Let an event end what the visitor has under way in a room."""
        listener(lambda session: session.stop(room), self.session, None, queue=False, **QUIET)

    def keep(self, session: Session) -> dict[str, Any]:
        """What tells the browser to keep the conversation as it is now: the argument of `window.sameSeed.keep`."""
        return self._order(session, "keep")

    def replace(self, session: Session, chat: Chat) -> Update:
        """Another form of the same conversation, shown everywhere."""
        session.follow(chat)
        return self._show(session) | self._tell(session, "keep") | {self.tabs: gr.Tabs(selected="compare")}

    def new(self, session: Session, carry: bool = False) -> Update:
        """A new conversation, empty or with the texts of the last turn. The old one stays an entry of the browser's history."""
        last = [_told(record) for record in session.records[-1:]] if carry else []
        session.versions, session.opened, session.elsewhere = Versions.of(tuple(last)), None, ""
        return self._show(session) | self._tell(session, "begin")

    def on_open(
        self, listener: Any, find: Callable[[Values], Shared], source: str, asked: set[Any], notice: Any
    ) -> None:
        """Let an event show what `find` finds in `asked`, as a link to it would; the visitor's own conversation waits meanwhile.

        A UserError of `find`, or a pair that is not one of this app's, is a sentence in `notice` and nothing else.
        """

        def opened(values: Values) -> Update:
            session = self.of(values)
            elsewhere = _OWN if session.records else session.elsewhere
            try:
                self._open(session, find(values), source)
            except UserError as error:
                return {notice: markup.notice(str(error), "error")}
            session.elsewhere = elsewhere
            update = self._show(session) | self._tell(session, "begin", aside=True)
            return update | {self.tabs: gr.Tabs(selected="compare")}

        outputs = [*self.outputs, notice]
        listener(self.if_idle(opened, notice), asked | self.held, outputs, queue=False, **QUIET)

    def as_shared(self, session: Session) -> Record | None:
        """The replies that came with what waits, as they were shared: nobody has checked them. None where there are none to show."""
        waiting = session.waiting
        if waiting is None:
            return None
        return links.record(waiting.shared, lambda: self.sidebar.tokenizers(waiting.shared.comparison.pair))

    # --- arriving ---------------------------------------------------------------------------------

    def connect(self, demo: gr.Blocks) -> None:
        """Wire the arrival, once every room has said what it shows."""
        arriving = [self.session, self.keeper]
        arrived = demo.load(self.arrive, arriving, self.outputs, js=f"() => [null, {_ARRIVE}]", queue=False, **QUIET)
        for listen in self._arrivals:
            listen(arrived.then)

    def after_arrival(self, listen: Callable[[Any], Any]) -> None:
        """Wire what is looked at once the conversation is shown that this browser kept, or a link brought: `listen` is given the event."""
        self._arrivals.append(listen)

    def arrive(self, session: Session, brought: Any) -> Update:
        """A page was opened or loaded again. Somebody may have been quicker than that: then their reply goes on undisturbed."""
        if session.versions is None:
            self._recover(session, brought)
        opened = session.opened is not None and isinstance(brought, dict) and bool(brought.get("fresh"))
        told = self._tell(session, "begin_here" if opened or session.notice == UNREADABLE else "show", aside=opened)
        return told if session.busy("compare") else self.sidebar.arrived() | self._show(session) | told

    def _recover(self, session: Session, brought: Any) -> None:
        """From {"kept", "address", "fresh", "own", "last"} (see visitor.js). A link that cannot be used changes nothing."""
        found: dict[str, Any] = brought if isinstance(brought, dict) else {}
        opened, own, last = None, bool(found.get("own")), found.get("last")
        session.versions = Versions()
        try:
            told = found.get("kept") or "{}"
            kept = Kept.model_validate_json(told)
            session.bytes_held = len(told)
            session.versions, opened = Versions.of(kept.records, kept.aside), kept.opened
        except (ValueError, TypeError, UserError):  # a ValidationError is a ValueError
            session.notice = UNREADABLE
        session.opened = opened
        if found.get("fresh"):
            try:
                self._open(session, links.decode(str(found.get("address") or "")), "link")
            except UserError as error:
                session.notice, own = str(error), False
        empty = not any(map(has_receipt, session.records))
        session.elsewhere = _OWN if own else f"Continue {last}" if empty and isinstance(last, str) and last else ""

    def _open(self, session: Session, shared: Shared, source: str) -> None:
        """Raises UserError when the pair is unknown; then nothing is changed."""
        comparison = shared.comparison
        find_pair(self.pool.pairs, comparison.pair)
        session.versions = Versions.of(tuple(_record_of(comparison, turn) for turn in comparison.conversation.turns))
        session.opened = Opened(shared=shared, source=source)

    def _show(self, session: Session) -> Update:
        """The conversation everywhere, with the settings that it was made with."""
        update: Update = {self.session: session}
        known = {pair.id for pair in self.pool.pairs}
        if session.waiting is not None:
            update |= self.sidebar.show(Choices.of(session.waiting.shared.comparison))
        elif session.records and session.records[-1].pair in known:
            update |= self.sidebar.show(Choices.of(session.records[-1]))
        for show in self._shows:
            update |= show(session)
        return update

    def _tell(self, session: Session, order: str, aside: bool = False) -> Update:
        # Two equal values in a row would not reach the script.
        told = {**self._order(session, order, aside), "serial": secrets.token_hex(4)}
        return {self.session: session, self.keeper: told}

    def _order(self, session: Session, order: str, aside: bool = False) -> dict[str, Any]:
        versions = session.versions or Versions()
        text = Kept(records=versions.chat, aside=versions.aside, opened=session.opened).model_dump_json()
        session.bytes_held = len(text)
        return {"do": order, "kept": text, "ran": session.waiting is None, "aside": aside}


_OWN = "Back to my conversation"


def _told(record: Record) -> Record:
    """A turn without what came before it, so how it was made is not known any more."""
    return record.model_copy(
        update={
            "base": None,
            "post": None,
            "prefill_base": (),
            "prefill_post": (),
            "dial": None,
            "mark": None,
            "blind": record.blind if record.hidden else None,
        }
    )


def _record_of(comparison: Comparison, turn: Turn) -> Record:
    """An earlier turn that came with a link: its texts, under the settings of the link. How it was made is not known."""
    plain = comparison.model_copy(update={"prefill_base": (), "prefill_post": (), "dial": None})
    return Record.of(plain, turn, None, None)
