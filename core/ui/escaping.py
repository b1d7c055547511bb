"""What a person or a model wrote, made harmless for the widget that draws it as Markdown.

The widget's Markdown is not ours, so nothing here depends on how it reads a doubtful line: whatever
could begin code or HTML goes out as an entity, and the code that is left is marked in a way that can be
read in one way only. page.js turns a copied message back into the very text that was written.
"""

import re
from collections.abc import Iterator

# An opening fence: its indentation, perhaps the marker of a list item, the fence, the info string.
_OPENS = re.compile(r"( *)((?:[-*+]|\d{1,9}[.)]) {1,4})?(`{3,}|~{3,})([^`~&<!\]\\]*)")
_ITEM = re.compile(r" *(?:[-*+]|\d{1,9}[.)]) ")
_TICKS = re.compile(r"`+")
# What could begin HTML, an image, code or a link definition (which may swallow the line after it), with the
# backslashes before it: these would escape the entity.
_HARMFUL = re.compile(r"(?<!\\)\\*+(?:[&<`]|!\[|\]:|~{3,})")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")

# A blank line of ours. Nobody writes one like it, so page.js can take it out again.
_BLANK = " " * 13


def safe_plain(text: str) -> str:
    """Plain text for the pane that shows it exactly. The widget would run HTML in it."""
    return text.replace("&", "&#x26;").replace("<", "&#x3C;")


def safe_markdown(text: str) -> str:
    """Markdown with raw HTML, images and math made harmless; code is shown as it was written."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    shown: list[str] = []
    at, in_list = 0, False
    while at < len(lines):
        opening = _OPENS.fullmatch(lines[at])
        if opening and (in_list or opening[2] or len(opening[1]) <= 3):
            in_list = in_list or bool(opening[2])
            block, at = _fenced(lines, at, opening, in_list)
            shown += block
        else:
            in_list = in_list or bool(_ITEM.match(lines[at]))
            shown.append(_safe_line(lines[at]))
            at += 1
    return "\n".join(shown)


def _fenced(lines: list[str], at: int, opening: re.Match[str], in_list: bool) -> tuple[list[str], int]:
    """A fenced block from its opening line, and where the text goes on.

    In a list every line of it is indented at least as far as its fence, so that it cannot leave its item
    before it is closed; the fence is longer than any run like it inside. Where it may not be read as
    a fence, a blank line before makes it an indented code block, which is code as well.
    """
    indent, marker, fence, info = opening[1], opening[2] or "", opening[3], opening[4]
    width = len(indent + marker) if in_list else 0
    closing = re.compile(rf" *{fence[0]}{{{len(fence)},}}[ \t]*")
    end, closed = at + 1, False
    while end < len(lines) and not closed:
        closed = bool(closing.fullmatch(lines[end])) and _indent(lines[end]) <= width + 3
        if not closed and lines[end].strip(" \t") and _indent(lines[end]) < width:
            break
        end += 1
    content = lines[at + 1 : end - closed]
    longest = max((len(run) for line in content for run in re.findall(f"{fence[0]}+", line)), default=0)
    fence = fence[0] * max(len(fence), longest + 1)
    head = [_BLANK] if marker or width > 3 else []
    tail = [" " * width + fence] if closed or end < len(lines) else []
    return [*head, (indent + marker if in_list else "") + fence + info, *content, *tail], end


def _indent(line: str) -> int:
    spaces = line.expandtabs(4)
    return len(spaces) - len(spaces.lstrip(" "))


def _safe_line(line: str) -> str:
    """One line outside a fence. Its code spans become elements, so that nothing around them can take them apart."""
    parts, start = [], 0
    for begin, end, ticks in _code_spans(line):
        code = _PUNCTUATION.sub(_entity, line[begin + ticks : end - ticks])
        parts += [_inert(line[start:begin]), f'<code class="ticks-{ticks}">{code}</code>']
        start = end
    return "".join([*parts, _inert(line[start:])])


def _code_spans(line: str) -> Iterator[tuple[int, int, int]]:
    """Beginning, end and number of backticks of every code span: two runs of backticks of the same length (CommonMark 6.1)."""
    runs = list(_TICKS.finditer(line))
    partner: dict[int, int] = {}
    last: dict[int, int] = {}  # length of a run -> the nearest one of that length further on
    for i in reversed(range(len(runs))):
        length = len(runs[i][0])
        if length in last:
            partner[i] = last[length]
        last[length] = i
    i = 0
    while i < len(runs):
        begin = runs[i].start()
        if i in partner and line[begin - 1 : begin] != "\\":
            yield begin, runs[partner[i]].end(), len(runs[i][0])
            i = partner[i]
        i += 1


def _inert(text: str) -> str:
    return _HARMFUL.sub(lambda found: "".join(map(_escaped, found[0])), text)


def _escaped(character: str) -> str:
    return character if character in "!]" else f"&#x{ord(character):X};"


def _entity(found: re.Match[str]) -> str:
    return f"&#x{ord(found[0]):X};"
