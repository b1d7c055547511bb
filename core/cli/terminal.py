"""What commands share: print that is safe on any console, progress on one line, and signals. Knows no library until one is used."""

import codecs
import io
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TextIO

from ..steps import Stop

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from ..pool import Progress

SIGNALLED = 128  # added to the number of a signal it is the exit status after it, as shells count
INTERRUPTED = SIGNALLED + signal.SIGINT  # after Ctrl+C

# C0 and C1 controls, and those of bidirectional text: what could move the cursor, change colours or reorder what is read.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    """Every character as JSON escapes it: \\u001b."""
    return re.sub("(....)", r"\\u\1", text.encode("utf-16-be", "surrogatepass").hex())


def harmless(text: str) -> str:
    """The text as a terminal may have it: its control characters as escapes, all but tabs and ends of lines."""
    return _CONTROL.sub(lambda found: escaped(found[0]), text)


def use_escapes() -> None:
    """What a console cannot write goes out as escapes, which keep JSON what it is, and never ends a command."""
    codecs.register_error("json-escapes", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json-escapes")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return escaped(error.object[error.start : error.end]), error.end


def encodable(text: str, stream: IO[str]) -> str:
    """The text with escapes where a stream will write them, so that its width is known."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "json-escapes").decode(encoding)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text: exactly as it is into a file or a pipe, made harmless on a terminal."""
    stream = stream or sys.stdout
    print(harmless(text) if stream.isatty() else text, file=stream)


def console_of(stream: TextIO) -> "Console | None":
    """rich's console of a stream that is a terminal; None for a file or a pipe, whatever the environment says."""
    if not stream.isatty():
        return None
    from rich.console import Console

    return Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)


class Saying:
    """Prints progress, as a `with` block: on a terminal one line that is gone at its end; else what is new, and of one thing every further tenth."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix, self._last = prefix, ""
        self._live: Live | None = None

    def __enter__(self) -> "Saying":
        console = console_of(sys.stderr)
        if console is not None and console.is_interactive:
            from rich.live import Live

            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: "Progress") -> None:
        if progress.fraction is None:
            new, share = progress.text, ""
        else:  # what stands behind a colon is a count
            new = f"{progress.text.partition(':')[0]} {int(progress.fraction * 10)}"
            share = f" ({progress.fraction:.0%})"
        line = f"{self._prefix}{progress.text}{share}"
        if self._live is not None:
            from rich.text import Text

            line = encodable(harmless(line), sys.stderr).replace("\n", " ")
            self._live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)
        elif new != self._last:
            say(line, sys.stderr)
        self._last = new


@contextmanager
def stopped_by(stop: Stop, *signals: signal.Signals) -> Iterator[list[int]]:
    """The first of these signals presses `stop`, and a second one does what it does elsewhere; yields the list of those that came.

    One that is ignored (Ctrl+C for a job in the background) stays so.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in signals}
    heard = [number for number, act in before.items() if act in (signal.default_int_handler, signal.SIG_DFL)]

    def restore() -> None:
        for number in heard:
            signal.signal(number, before[number])

    def press(number: int, frame: object) -> None:
        restore()
        came.append(number)
        stop.press()

    for number in heard:
        signal.signal(number, press)
    try:
        yield came
    finally:
        restore()
