"""Small pieces of HTML that several rooms draw, and what both sides are called in them. Text is escaped here."""

import html
import re
from collections.abc import Iterable
from unicodedata import category

from ..types import SIDE_NAMES, SIDES, FinishReason, Framing, Side

FRAMING: dict[Framing, str] = {"document": "Document", "transcript": "Transcript", "chat": "Chat template"}
KIND: dict[Side, str] = {side: SIDE_NAMES[side].capitalize() for side in SIDES}
ENDED: dict[FinishReason, str] = {
    "eos": "Finished",
    "length": "Hit max tokens",
    "context": "Context is full",
    "stopped": "Stopped",
}


def notice(text: str, tone: str = "info") -> str:
    """The status line. It is the page's one live region; an empty one stays there so that changes are read out."""
    return f"<p class='notice {tone}' data-empty='{not text}'>{html.escape(text)}</p>"


def short(text: str, length: int) -> str:
    """A text on one line, its end cut off in sight."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}\u2026"


def counted(count: int, what: str) -> str:
    """So many of something, in words."""
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def given(inside: str) -> str:
    """HTML that a reply was given to begin with, told from what its model wrote."""
    return f"<mark class='given' title='given, not written by this model'>{inside}</mark>"


def listed(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


_RARE = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: str) -> str:
    """A text with its line breaks and its invisible characters (direction, joiners, marks) drawn, which then do nothing."""

    def drawn(found: re.Match[str]) -> str:
        unseen = category(found[0]) in ("Cc", "Cf", "Zl", "Zp")
        return f"<i class='unseen-character'>U+{ord(found[0]):04X}</i>" if unseen else found[0]

    shown = _RARE.sub(drawn, html.escape(text))
    return shown.replace("\n", "<i class='newline' aria-hidden='true'>\u21b5</i>\n")
