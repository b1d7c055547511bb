"""Both replies on a terminal while they are written: in two columns where it is wide, else one after the other.

What has been printed stays, and no text is lost, however long. In columns a row is printed when both sides have it
whole; what is beyond stands below for as long as it fits, and is printed when the other side comes so far or has ended.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..export import settings
from ..run import Run
from ..types import SIDE_NAMES, SIDES, Reply, Side
from .terminal import encodable, harmless

WIDE = 100  # cells of a terminal from which there are columns
GAP = " | "
COLOURS = ("bold cyan", "bold magenta")
DIM = ("dim", "dim")


def stream(run: Run, console: Console) -> None:
    """Print both replies while they are written, until both sides have settled."""
    console.print(Text(f"{_safe(settings(run.comparison), console)}\n", "dim"))
    if console.width >= WIDE and console.is_interactive:
        _in_columns(run, console)
    else:
        _in_turn(run, console)


class _Printer:
    """What has been printed of one side's reply, and what is still to be."""

    def __init__(self) -> None:
        self._before = self._printed = self.rest = ""
        self.settled = False

    def take(self, reply: Reply, console: Console) -> None:
        text = _safe(_all_of(reply), console)
        if not (self._before + text).startswith(self._printed):
            # A stray byte made characters before it unreadable: all of it once more, on a row of its own.
            self._before, self._printed = "\n", ""
        self.rest = (self._before + text)[len(self._printed) :]
        self.settled = reply.phase in ("done", "failed")

    def give(self, part: str) -> str:
        """The beginning of the rest, which counts as printed from now on."""
        self.rest = self.rest[len(part) :]
        self._printed += part
        return part


def _all_of(reply: Reply) -> str:
    """Reasoning, and the answer behind it."""
    thought = reply.reasoning.lstrip()
    return f"{thought}\n\n{reply.text}" if thought and reply.text else thought or reply.text


def _safe(text: str, console: Console) -> str:
    return encodable(harmless(text), console.file).expandtabs(4)


def _head(run: Run, side: Side, console: Console) -> tuple[str, str]:
    """Who writes a side's reply, and as what."""
    checkpoint = run.checkpoint(side)
    return _safe(checkpoint.info.name, console), f"{SIDE_NAMES[side]}; weights {checkpoint.weights_sha256[:8]}"


def _foot(reply: Reply) -> str:
    return f"{len(reply.token_ids):,} tokens, {reply.finish_reason or reply.phase}"


# --- one after the other --------------------------------------------------------------------------------


def _in_turn(run: Run, console: Console) -> None:
    """The first reply as it is written, then the second: what there is of it by then, and the rest as it is written."""
    begun: list[Side] = []
    waiting = {side: _Printer() for side in SIDES}
    for snapshot in run.snapshots():
        for side, printer in list(waiting.items()):
            if side not in begun:
                begun.append(side)
                name, kind = _head(run, side, console)
                head = Text.assemble((name, COLOURS[SIDES.index(side)]), (f" ({kind})", "dim"))
                console.print(head, soft_wrap=True)
            printer.take(snapshot.reply(side), console)
            console.print(Text(printer.give(printer.rest)), end="", soft_wrap=True)
            if not printer.settled:
                break
            console.print(Text(f"\n{_foot(snapshot.reply(side))}\n", "dim"))
            del waiting[side]


# --- in columns -----------------------------------------------------------------------------------------


def _in_columns(run: Run, console: Console) -> None:
    width = (console.width - len(GAP) - 1) // 2  # a last cell that stays free, so that no terminal breaks the row
    names, kinds = zip(*(_head(run, side, console) for side in SIDES), strict=True)
    console.print(_row(names, width, COLOURS), _row(kinds, width, DIM), sep="\n", soft_wrap=True)
    printers = [_Printer() for _ in SIDES]
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        for snapshot in run.snapshots():
            for side, printer in zip(SIDES, printers, strict=True):
                printer.take(snapshot.reply(side), console)
            found = [list(rows(printer.rest, width)) for printer in printers]
            pending = list(zip_longest(*found, fillvalue=""))
            whole = min(
                (_whole(each) for each, printer in zip(found, printers, strict=True) if not printer.settled),
                default=len(pending),
            )
            with console:  # in one piece, so that nothing flickers
                for row in pending[:whole]:
                    parts = [printer.give(part) for printer, part in zip(printers, row, strict=True)]
                    console.print(_row(parts, width), soft_wrap=True)
                below = pending[whole:][: console.height - 1]
                live.update(Group(*(_row(row, width) for row in below)), refresh=True)
    console.print(_row([_foot(snapshot.reply(side)) for side in SIDES], width, DIM), soft_wrap=True)


def _row(cells: Sequence[str], width: int, styles: Sequence[str] = ("", "")) -> Text:
    """A row of both columns."""
    left, right = (
        Text(set_cell_size(cell.rstrip("\n"), width), style) for cell, style in zip(cells, styles, strict=True)
    )
    right.rstrip()
    return Text.assemble(left, (GAP, "dim"), right)


def rows(text: str, width: int) -> Iterator[str]:
    """A text in rows of at most `width` cells, broken behind a space where there is one, and each with what ends it.

    What follows the text changes no row but the last one. Spaces at the end of a row may stand beyond its width.
    """
    start = space = used = 0
    for at, character in enumerate(text):
        if character == "\n":
            yield text[start : at + 1]
            start, used = at + 1, 0
            continue
        used += cell_len(character)
        if character == " ":
            space = at + 1
        elif used > width:
            end = space if space > start else at
            yield text[start:end]
            start, used = end, cell_len(text[end : at + 1])
    if start < len(text):
        yield text[start:]


def _whole(found: list[str]) -> int:
    """How many of these rows no further text can change."""
    return len(found) - 1 if found and not found[-1].endswith("\n") else len(found)
