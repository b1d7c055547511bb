"""Whether it holds: visitors of all kinds at a server of their own, with faults, for some minutes.

    make soak MINUTES=30
    python -m benchmarks.soak --minutes 30 --save

The server is a process of its own with the embedded pair, on this machine; so are the visitors. They use the page as a
browser does (its own stream, and one real Chromium), the API, replays, the lens, experiments, links; they stop, hang up,
read slowly, send a megabyte or nonsense. Meanwhile forward passes fail, give no numbers, run out of memory and hang, and the
process is killed and started again. Every prompt carries a mark, and nobody may see another's. Memory is compared at
rest, before and after the time between two restarts. Then the scenario: thirty visitors who ask, read for twenty seconds and ask
again, somebody who asks for as much as they can, and newcomers, who want their first token within five seconds. At the end replies are asked again alone.

The exit status is 1 where anything was lost, crossed, without a sentence, or not the same again.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import report
from benchmarks.soak.book import MARK, OUTCOMES, Book, Crossed, Left, Told, is_sentence, percentile
from benchmarks.soak.process import Server
from benchmarks.soak.server import FAULTS
from benchmarks.soak.visitors import KINDS, Visit, reads
from core.ui import memory

HANG = 5  # seconds that a step may take on this server
HANG_AGAIN = 90  # seconds in which a second one ends it
FLAGS = ("--hang-seconds", str(HANG), "--hang-again", str(HANG_AGAIN))
READERS, READING, TOKENS = 30, 20.0, 100  # of the scenario: visitors, seconds, tokens of each reply
FLOOD = 20  # requests of one address at any time
SOON = 5.0  # seconds to the first token of a newcomer

Going = Callable[[], bool]


def live(visit: Visit, kind: str, turn: Callable[[Visit], None], going: Going) -> None:
    """One turn after the other, each noted."""
    while going():
        generation = visit.server.generation
        outcome, what = once(visit, turn)
        if outcome == "lost" and visit.server.killed_since(generation):
            outcome = "cut off and asked again"
            while visit.server.down:
                time.sleep(0.1)
        if outcome != "answered":
            visit.renew()
        visit.book.note(kind, outcome, what)
        if outcome == "told why not":
            visit.rest(0.5)


def once(visit: Visit, turn: Callable[[Visit], None]) -> tuple[str, str]:
    """What became of one turn, and what is to be said about it."""
    try:
        turn(visit)
    except Left:
        return "left", ""
    except Told as told:
        return "told why not" if is_sentence(str(told)) else "no sentence", str(told)
    except Crossed as crossed:
        return "crossed", str(crossed)
    except Exception as error:  # an answer that cannot be read, or a connection that ends, is as good as none
        return "lost", f"{type(error).__name__}: {error}"
    return "answered", ""


class Crowd:
    """Visitors who go on until they are sent away. Left as a `with` block, all of them have gone."""

    def __init__(self, server: Server, book: Book, seed: int, *, chromium: bool = False):
        self.server, self.book = server, book
        self._over = threading.Event()
        self._seed = seed
        self._threads: list[threading.Thread] = []
        if chromium:
            from benchmarks.soak.browsers import browse

            self._start(partial(self._browse, browse))

    def _browse(self, browse: Callable[[Server, Book, Going], None]) -> None:
        try:
            browse(self.server, self.book, self.going)
        except Exception as error:  # not seen is not held
            self.book.note("browser", "lost", f"no browser any more: {error!r}")

    def going(self) -> bool:
        return not self._over.is_set()

    def add(self, kind: str, turn: Callable[[Visit], None], seed: int | None = None) -> None:
        self._seed += 1
        visit = Visit(self.server, self.book, self._seed if seed is None else seed, self.going)
        self._start(partial(live, visit, kind, turn, self.going))

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def everybody(server: Server, book: Book, seed: int, chromium: bool) -> Crowd:
    crowd = Crowd(server, book, seed, chromium=chromium)
    for kind, number, turn in KINDS:
        for _ in range(number):
            crowd.add(kind, turn)
    return crowd


def faults(server: Server, book: Book, seconds: float) -> None:
    """One after the other, evenly; hangs far enough from each other that each is the first."""
    until, number = time.monotonic() + seconds, 0
    pause = min(15.0, seconds / (len(FAULTS) + 1))
    while until - time.monotonic() > pause:
        time.sleep(pause)
        name = FAULTS[number % len(FAULTS)]
        number += 1
        if name == "hang":
            if time.monotonic() - book.hung < 2 * HANG_AGAIN:
                continue
            book.hung = time.monotonic()
            threading.Timer(HANG + 3, server.fault, ["release"]).start()
        server.fault(name)
        book.faults[name] += 1
    time.sleep(max(0.0, until - time.monotonic()))


def at_rest(server: Server, seconds: float) -> dict[str, int]:
    """What the server has when nobody asks; after so long a rest it has given back what it had and did not use."""
    time.sleep(seconds)
    return server.measure()


def newcomers(server: Server, book: Book, seconds: float) -> dict[str, Any]:
    """The scenario: how long those wait for their first token who come where others read, and one asks for everything."""

    def read_and_ask_again(visit: Visit) -> None:
        if not hasattr(visit, "came"):
            visit.came = True  # type: ignore[attr-defined]
            visit.rest(visit.draw.random() * READING)
        else:
            visit.rest(READING)
        if visit.turns == 3:
            visit.renew()
        if visit.going():
            visit.read(TOKENS)
        else:
            raise Left

    waited: list[float] = []
    with Crowd(server, book, 20_000) as crowd:
        for _ in range(READERS):
            crowd.add("scenario: readers", read_and_ask_again)
        for _ in range(FLOOD):
            crowd.add("scenario: flood", lambda visit: visit.call("compare", visit.comparison(TOKENS)) and None, 66_000)
        until = time.monotonic() + seconds
        time.sleep(min(8.0, seconds / 3))
        seed = 30_000
        while time.monotonic() < until:
            seed += 1
            own = Book()
            own.note("scenario: newcomers", *once(Visit(server, own, seed, lambda: True), reads))
            waited += own.first
            book.add(own)
            time.sleep(1.0)
    return {
        "readers": READERS,
        "requests of one who floods": FLOOD,
        "newcomers": len(waited),
        "s to the first token, median": percentile(waited, 50),
        "p95": percentile(waited, 95),
        "slowest": max(waited, default=float("nan")),
        f"within {SOON:.0f} s": f"{sum(each <= SOON for each in waited)} of {len(waited)}",
    }


def asked_again(server: Server, book: Book, most: int) -> dict[str, int]:
    """So many of the kept replies once more, with nobody else there."""
    visit = Visit(server, book, 40_000, lambda: True)
    equal = 0
    kept = book.kept[:most]
    for asked, tokens in kept:
        visit.own = set(MARK.findall(asked["prompt"]))
        answer = visit.call("compare", asked)
        equal += [answer[side]["token_ids"] for side in ("base", "post")] == tokens
    return {"replies asked again alone": 2 * len(kept), "equal": 2 * equal}


def two_hangs(server: Server, book: Book) -> int:
    """The exit status of a server whose models hang twice."""
    time.sleep(max(0.0, book.hung + HANG_AGAIN + HANG + 3 - time.monotonic()))  # none before them counts
    with Crowd(server, book, 50_000) as crowd:
        crowd.add("hanging twice", reads)
        server.fault("hang")
        time.sleep(HANG + 3)
        answered = Visit(server, book, 51_000, lambda: True)
        while once(answered, reads)[0] != "answered":  # what is made anew is there
            time.sleep(0.5)
        server.down = True  # from here on it may end at any time
        server.fault("hang")
        book.faults["hang"] += 2
        status = server.wait()
        server.start()
    return status


def campaign(minutes: float, chromium: bool, out: report.Report) -> bool:
    """The tables; whether nothing happened that must not."""
    book, seconds = Book(), 60 * minutes
    mixed = min(240.0, max(5.0, 0.1 * seconds))
    rest = memory.PERIOD + 5 if minutes >= 10 else 2.0
    scenario = min(60.0, seconds / 4)
    with Server(FLAGS) as server:
        starts = [server.start()]
        with everybody(server, book, 0, chromium):
            time.sleep(mixed)
            server.kill()
            starts.append(server.start())
            book.faults["killed"] += 1
            time.sleep(mixed / 2)
        with everybody(server, book, 1_000, chromium):
            time.sleep(mixed / 2)
        before = at_rest(server, rest)
        steady = max(12.0, seconds - sum(starts) - 2 * mixed - scenario - 2 * rest - 8)
        with everybody(server, book, 2_000, chromium):
            faults(server, book, steady)
        after = at_rest(server, rest)
        scene = newcomers(server, book, scenario)
        again = asked_again(server, book, 40 if minutes >= 2 else 10)
        status = two_hangs(server, book) if minutes >= 2 else None
        ended = server.end()
        surprises = server.surprises()
    rows = book.rows()
    out.add(f"What became of the turns of {minutes:g} minutes", rows)
    out.add("The server", [{"figure": name, "value": value} for name, value in _figures(book, starts, before, after)])
    out.add("A newcomer", [scene])
    out.add("Asked again", [again])
    checks = {
        "exit status after SIGTERM": ended,
        "after two hangs": status,
        "tracebacks in its log of no injected fault": len(surprises),
    }
    out.add("How it ended", [checks])
    for what in (*book.wrong, *surprises):
        print(what, file=sys.stderr)
    for sentence, times in book.told.most_common():
        print(f"{times} times: {sentence}", file=sys.stderr)
    return held(rows, again, ended, status)


def held(rows: Sequence[dict[str, Any]], again: dict[str, int], ended: int, after_hangs: int | None) -> bool:
    """Whether nothing happened that must not; `after_hangs` is None where the server was not made to hang twice."""
    never = all(rows[0][outcome] == 0 for outcome in OUTCOMES[4:])
    same = again["equal"] == again["replies asked again alone"] > 0
    return never and same and ended == 143 and after_hangs in (None, 75)


def _figures(
    book: Book, starts: Sequence[float], before: dict[str, int], after: dict[str, int]
) -> list[tuple[str, Any]]:
    known = [name for name in before if name in after]
    return [
        ("seconds to start, slowest", max(starts)),
        ("seconds to the first token, p50", percentile(book.first, 50)),
        ("seconds to the first token, p95", percentile(book.first, 95)),
        *((f"{name}, steady state, at rest: start", before[name]) for name in known),
        *((f"{name}: end", after[name]) for name in known),
        *((f"{name}: change", f"{after[name] / before[name] - 1:+.1%}") for name in known),
        *((f"faults: {name}", number) for name, number in sorted(book.faults.items())),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--no-browser", action="store_true", help="without a real browser among the visitors")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    out = report.Report(report.command("benchmarks.soak", arguments), "cpu", flags.save)
    held = campaign(flags.minutes, not flags.no_browser, out)
    out.end()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
