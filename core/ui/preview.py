"""What a framing makes of a prompt, in three lines: the real rendering, by the tokenizers alone."""

import html
from collections.abc import Iterable, Mapping

from ..errors import UserError
from ..prompts import Piece, Prompt, Tokenizer, build
from ..types import SIDES, Comparison, Side
from .markup import KIND, short, visible

EXAMPLE = "What is the capital of France?"
NOT_HERE = "<p class='muted'>What is sent is shown here once these models are on this machine.</p>"
_LINES = 3
_WORDS = 34  # characters that are left of what a person or a model wrote

# Whoever asks says what stands in the prompt box; it is asked again a moment after somebody has typed there.
READ_BOX = "(_, ...chosen) => [document.querySelector('#prompt textarea')?.value ?? '', ...chosen]"
SCRIPT = """
let soon;
document.addEventListener("input", (event) => {
  if (!event.target.matches("#prompt textarea") || !element.checkVisibility()) return;
  clearTimeout(soon);
  soon = setTimeout(() => trigger("typed"), 300);
});
"""


def preview(comparison: Comparison, tokenizers: Mapping[Side, Tokenizer] | None) -> str:
    """The last three lines of what each side would be sent, with people's words cut short: where the reply begins."""
    if tokenizers is None:
        return NOT_HERE
    return "".join(_side(comparison, side, tokenizers) for side in SIDES)


def _side(comparison: Comparison, side: Side, tokenizers: Mapping[Side, Tokenizer]) -> str:
    try:
        sent = _lines(build(comparison, side, tokenizers[side], tokenizers["post"]))
    except UserError as error:
        sent = f"<p class='muted'>{html.escape(str(error))}</p>"
    return f"<section class='sent {side}' aria-label='{KIND[side]} is sent'><header><b>{KIND[side]}</b> is sent{', for example' if comparison.prompt == EXAMPLE else ''}</header>{sent}</section>"


def _lines(prompt: Prompt) -> str:
    lines: list[list[Piece]] = [[]]
    for piece in map(_short, prompt.pieces):
        for part in piece.text.splitlines(keepends=True):
            if lines[-1] and lines[-1][-1].text.endswith("\n"):
                lines.append([])
            lines[-1].append(Piece(part, piece.origin, piece.control))
    before = "\u2026" if len(lines) > _LINES else ""
    return f"<pre tabindex='0'>{before}{''.join(_drawn(line) for line in lines[-_LINES:])}</pre>"


def _short(piece: Piece) -> Piece:
    written = piece.origin != "template"
    return Piece(short(piece.text, _WORDS), piece.origin) if written else piece


def _drawn(line: Iterable[Piece]) -> str:
    tags = {True: "mark", False: "span"}
    return "".join(f"<{tags[each.control]}><bdi>{visible(each.text)}</bdi></{tags[each.control]}>" for each in line)
