"""The visitors of a soak: what each kind does in one turn. Every prompt carries a mark that nobody else's has."""

import json
import secrets
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from random import Random
from typing import Any

import httpx

from core import receipts
from core.types import DEFAULT_SAMPLING

from .book import Book, Crossed, Left, Lost, Told, check_own
from .process import HEADER, Server

SECONDS = 120.0  # without a word, after which a turn is lost
KEPT = 40  # replies that are asked again alone
HUGE = 390_000  # characters
LONG = 60_000  # characters: enough to be built apart


class Visit:
    """One visitor with an address of their own.

    Args:
        going: whether it goes on; a visitor who reads asks it now and then.
    """

    def __init__(self, server: Server, book: Book, seed: int, going: Callable[[], bool]):
        self.server, self.book, self.going = server, book, going
        self.draw = Random(seed)
        self.address = f"10.{seed >> 16 & 255}.{seed >> 8 & 255}.{seed & 255}"
        self.client = httpx.Client(base_url=server.url, headers={HEADER: self.address}, timeout=SECONDS)
        self.stays = False  # to the end of a turn, though all have been sent away
        self.renew()

    def renew(self) -> None:
        """A new chat."""
        self.session, self.turns = uuid.uuid4().hex, 0
        self.own: set[str] = set()  # marks of this chat

    def look(self, line: str) -> None:
        """At what comes. Raises Left where the visitors have been sent away, and Crossed."""
        check_own(line, self.own)
        if not (self.stays or self.going()):
            raise Left

    def prompt(self) -> str:
        self.mark = f"mark{secrets.token_hex(6)}"
        self.own.add(self.mark)
        words = self.draw.choice(("Tell me about", "What is", "Once upon a time there was", "Write a list of"))
        return f"{words} {self.mark} and the sea."

    def rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.going() and (left := until - time.monotonic()) > 0:
            time.sleep(min(0.1, left))

    # --- the API ------------------------------------------------------------------------------

    def comparison(self, tokens: int, prompt: str = "") -> dict[str, Any]:
        sampling = {**DEFAULT_SAMPLING.model_dump(), "seed": self.draw.randrange(10_000), "max_new_tokens": tokens}
        return {"pair": "embedded", "prompt": prompt or self.prompt(), "sampling": sampling, "today": "2026-01-31"}

    def call(self, name: str, *data: Any) -> Any:
        """What an endpoint answers."""
        joined = self.client.post(f"/gradio_api/call/{name}", json={"data": data})
        _accepted(joined)
        answer, event = None, ""
        with self.client.stream("GET", f"/gradio_api/call/{name}/{joined.json()['event_id']}") as stream:
            for line in stream.iter_lines():
                self.look(line)
                field, _, value = line.partition(": ")
                if field == "event":
                    event = value
                elif field == "data" and event == "error":
                    raise Told(str((json.loads(value) or {}).get("error", "")))
                elif field == "data" and event in ("generating", "complete"):
                    answer = (json.loads(value) or [None])[0] or answer
        if answer is None:
            raise Lost(f"/{name} ended without an answer")
        return answer

    # --- the page's own stream ------------------------------------------------------------------

    def views(self, tokens: int, prompt: str, pause: float = 0.0) -> Generator[dict[str, Any], None, None]:
        """Ask on the page; every line of its log, as transcript.js reads them. `pause` is between two of them, in seconds."""
        asked = self.server.events["ask"]
        data = [tokens if value == DEFAULT_SAMPLING.max_new_tokens else value for value in asked["data"]]
        told = {"prompt": prompt, "at": self.turns}
        body = {**asked, "data": data, "event_data": told, "session_hash": self.session}
        began, seen = time.monotonic(), False
        _accepted(self.client.post("/gradio_api/queue/join", json=body))
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                self.look(line)
                for what in _log_lines(line):
                    if not seen and (what.get("base") or what.get("post")):
                        seen = True
                        self.book.saw_first(time.monotonic() - began)
                    yield what
                if '"msg":"process_completed"' in line[:40]:
                    return
                time.sleep(pause)
        raise Lost("the stream ended before the reply")

    def read(self, tokens: int, pause: float = 0.0) -> None:
        """One turn of the chat, to its end."""
        prompt, end = self.prompt(), None
        for what in self.views(tokens, prompt, pause):
            if "error" in what:
                raise Told(str(what["error"]))
            end = what if "end" in what else end
        if end is None:
            raise Lost("the reply ended without its row")
        if prompt not in str(end["end"]):
            raise Crossed(f"{self.mark} is not in the row that stays")
        self.turns += 1
        if "side failed" in str(end["said"]):
            raise Told(str(end["said"]))


def _accepted(answer: httpx.Response) -> None:
    """Raises Told where the server did not take it."""
    if answer.status_code >= 400:
        try:
            detail = answer.json().get("detail", "")
        except ValueError:
            detail = answer.text
        raise Told(str(detail))


def _log_lines(line: str) -> Iterator[dict[str, Any]]:
    """What the script of the page is told by one message of the stream."""
    if not line.startswith("data: "):
        return
    message = json.loads(line[6:])
    if message["msg"] == "process_completed" and not message["success"]:
        raise Told(str(message["output"].get("error") or ""))
    if message["msg"] in ("unexpected_error", "server_stopped"):
        raise Told(str(message.get("message") or ""))
    if message["msg"] == "told":
        yield message["line"]


# --- one turn of each kind -------------------------------------------------------------------------------------------


def reads(visit: Visit) -> None:
    """Three turns of a chat, then a new one."""
    if visit.turns == 3:
        visit.renew()
    visit.read(visit.draw.randrange(20, 80))
    visit.rest(visit.draw.random())


def reads_slowly(visit: Visit) -> None:
    visit.renew()
    visit.read(60, pause=0.25)


def hangs_up(visit: Visit) -> None:
    """In the middle of a reply, as a tab that is closed."""
    visit.renew()
    leaves = visit.draw.randrange(1, 7)
    with closing(visit.views(400, visit.prompt())) as views:
        for seen, what in enumerate(views):
            if "error" in what:
                raise Told(str(what["error"]))
            if seen == leaves:
                raise Left


def stops(visit: Visit) -> None:
    """As the Stop of the page; what was written until then stays."""
    visit.renew()
    prompt, pressed, end = visit.prompt(), False, None
    for what in visit.views(400, prompt):
        if "error" in what:
            raise Told(str(what["error"]))
        if not pressed and "base" in what:
            pressed = True
            body = {**visit.server.events["halt"], "session_hash": visit.session}
            _accepted(visit.client.post("/gradio_api/run/predict", json=body))
        end = what if "end" in what else end
    if end is None or prompt not in str(end["end"]):
        raise Lost("what was written before the stop is gone")
    raise Left


def asks(visit: Visit) -> None:
    asked, visit.stays = visit.comparison(visit.draw.randrange(10, 60)), True
    answer = visit.call("compare", asked)
    if answer["comparison"]["prompt"] != asked["prompt"]:
        raise Crossed(f"{visit.mark} has the receipt of another")
    receipts.within(answer)
    visit.book.keep(asked, answer, KEPT)


def replays(visit: Visit) -> None:
    answer = visit.call("compare", visit.comparison(30))
    verdict = visit.call("replay", answer["receipt"])
    if verdict["outcome"] != "identical":
        raise Lost(f"the replay of a receipt is not identical: {verdict}")


def reads_a_lens(visit: Visit) -> None:
    answer = visit.call("compare", visit.comparison(40))
    report = visit.call("lens", answer, visit.draw.choice(("base", "post")), visit.draw.choice(("identical", "own")))
    if not report:
        raise Lost("an empty lens")


def experiments(visit: Visit) -> None:
    visit.renew()
    verdict = visit.call("experiment", visit.draw.choice(("inputs", "correction")), None)
    if not verdict:
        raise Lost("an experiment without a verdict")


def asks_for_too_much(visit: Visit) -> None:
    """A prompt that is longer than any context, which is read and refused; or one that is built apart."""
    start, size = visit.prompt(), visit.draw.choice((LONG, HUGE))
    prompt = f"{start} {'the sea and ' * (size // 12)}"[:size]
    try:
        visit.call("compare", visit.comparison(5, prompt))
    except Told as told:
        if "context" in str(told) or "characters" in str(told):
            visit.rest(3)
            raise Left from None
        raise
    raise Lost("a prompt that fits into no context was answered")


def sends_nonsense(visit: Visit) -> None:
    """What is no comparison, no receipt and no experiment; each is one sentence."""
    visit.prompt()
    name, given = visit.draw.choice(
        (
            ("compare", {"pair": 5}),
            ("compare", []),
            ("replay", {"schema_version": 1}),
            ("lens", "x"),
            ("experiment", "?"),
        )
    )
    try:
        visit.call(name, given)
    except Told as told:
        visit.rest(1)
        if str(told):
            raise Left from None
        raise
    raise Lost("nonsense was answered")


# Kind, how many there are at once, one turn.
KINDS: tuple[tuple[str, int, Callable[[Visit], None]], ...] = (
    ("read and ask again", 4, reads),
    ("read slowly", 1, reads_slowly),
    ("hang up", 2, hangs_up),
    ("stop", 1, stops),
    ("API", 3, asks),
    ("API, replay", 1, replays),
    ("API, lens", 1, reads_a_lens),
    ("API, experiment", 1, experiments),
    ("huge prompts", 1, asks_for_too_much),
    ("nonsense", 1, sends_nonsense),
)
