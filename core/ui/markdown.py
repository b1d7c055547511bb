"""Markdown that a model wrote -> HTML that nothing in it can leave: no raw HTML, no images, links that open elsewhere.

Formulas stand between `$` and `$`, `\\(` and `\\)`, or for a line of their own `$$` and `$$`, `\\[` and `\\]`. What is not closed yet,
or cannot be read, is shown as it was written.
"""

import html
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from . import formulas
from .highlighting import highlighted

_LEVEL = {f"h{n}": f"h{min(6, n + 3)}" for n in range(1, 7)}  # headings of a reply stand below those of the page
_DEEPEST = 16  # levels of lists and quotes; deeper, their marks are text
MOST = 20_000  # characters of code and formulas in one answer that other people's parsers are given
_CLOSING = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
_ON_LINES_OF_THEIR_OWN = ("\\[", "$$")
_AMOUNT = re.compile(r"\d[\d.,]*\s+[a-zA-Z]{2}")  # "$5 and ...": money, not a formula
_NO_LINK = re.compile(r"\s*(javascript|vbscript|data|file):", re.IGNORECASE)


def _link_open(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    href = tokens[at].attrs.get("href", "")
    tokens[at].attrs = {"href": href, "rel": "noopener noreferrer nofollow", "target": "_blank"}
    return renderer.renderToken(tokens, at, options, env)


def _not_too_deep(rule: Callable[..., bool]) -> Callable[..., bool]:
    """The parser's own limit would leave out the rest of the text."""

    def applies(state: StateBlock, *lines: Any) -> bool:
        return state.level < _DEEPEST and rule(state, *lines)

    return applies


def _fence(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    """Code has its colours once it is all there, so that none of them changes while it is written."""
    token = tokens[at]
    language = (unescapeAll(token.info).split() or [""])[0]
    complete = env["finished"] or _is_closed(token)
    code = (_once(env, highlighted, token.content, language) if complete else None) or html.escape(token.content)
    known = f' class="language-{html.escape(language)}"' if language else ""
    return f'<pre tabindex="0"><code{known}>{code}</code></pre>\n'


def _is_closed(fence: Token) -> bool:
    start, end = fence.map or (0, 0)
    lines = fence.content.count("\n") + (fence.content[-1:] not in ("", "\n"))
    return end - start == lines + 2


def _formula_lines(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """What begins a line as a formula of its own is a paragraph up to where that is closed, whatever its lines look like.

    Like TeX's own it holds no empty line, so that one that is never closed takes nothing else with it.
    """
    opening = state.src[state.bMarks[start] + state.tShift[start] :][:2]
    if opening not in _ON_LINES_OF_THEIR_OWN or state.is_code_block(start):
        return False
    if silent:
        return True
    last, begins = start, state.bMarks[start] + state.tShift[start] + 2
    while _CLOSING[opening] not in state.src[begins : state.eMarks[last]]:
        if last + 1 >= end or state.isEmpty(last + 1) or state.sCount[last + 1] < state.blkIndent:
            break
        last += 1
        begins = state.bMarks[last]
    state.line = last + 1
    state.push("paragraph_open", "p", 1).map = [start, state.line]
    inline = state.push("inline", "", 0)
    inline.content = state.getLines(start, state.line, state.blkIndent, False).strip()
    inline.map, inline.children = [start, state.line], []
    state.push("paragraph_close", "p", -1)
    return True


def _formula(state: StateInline, silent: bool) -> bool:
    opening = next((mark for mark in _CLOSING if state.src.startswith(mark, state.pos)), None)
    if opening is None:
        return False
    begins = state.pos + len(opening)
    ends = _end_of_formula(state, opening, begins)
    if ends is None:
        if opening == "$":
            return False
        latex, ends = None, state.posMax  # not closed yet
    else:
        latex = state.src[begins:ends]
        ends += len(opening)
    if not silent:
        display = opening in _ON_LINES_OF_THEIR_OWN
        drawn = _once(state.env, formulas.mathml, latex, display) if latex is not None else None
        if drawn is None:
            _as_written(state, state.src[state.pos : ends])
        else:
            state.push("formula", "math", 0).content = drawn
    state.pos = ends
    return True


def _end_of_formula(state: StateInline, opening: str, begins: int) -> int | None:
    """Where its closing mark stands; None where it has none, or is none."""
    if opening != "$":
        at = state.src.find(_CLOSING[opening], begins, state.posMax)
        return at if at >= 0 else None
    found = re.compile(r"[^$\\\n]*(?:\\.[^$\\\n]*)*").match(
        state.src, begins, min(state.posMax, begins + formulas.LONGEST)
    )
    assert found is not None
    latex, at = found[0], found.end()
    closed = state.src.startswith("$", at) and at < state.posMax
    before, after = state.src[begins - 2 : begins - 1] if begins > 1 else "", state.src[at + 1 : at + 2]
    beside = before.isalnum() or after.isalnum() or "$" in (before, after)
    bare = not latex or latex[0].isspace() or latex[-1].isspace() or _AMOUNT.match(latex) is not None
    return at if closed and not beside and not bare else None


def _once(env: Any, draw: Callable[[str, Any], Any], text: str, how: str | bool) -> Any:
    """What `draw` makes of a text, which all views of one answer share; None where the answer has had its share of it."""
    known, asked = env["known"], (text, how)
    if asked not in known:
        env["left"] -= len(text)
        known[asked] = draw(text, how) if env["left"] >= 0 else None
    return known[asked]


def _as_written(state: StateInline, text: str) -> None:
    first, *rest = text.split("\n")
    state.pending += first
    for line in rest:
        state.push("softbreak", "br", 0)
        state.pending += line


# `reference` is off so that a later line can never change a block that is already on the page.
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True})
    .enable(["table", "strikethrough"])
    .disable(["reference", "image"])
)
_MARKDOWN.add_render_rule("link_open", _link_open)
_MARKDOWN.validateLink = lambda url: not _NO_LINK.match(url)  # type: ignore[method-assign]
_MARKDOWN.add_render_rule("fence", _fence)
_MARKDOWN.add_render_rule("formula", lambda renderer, tokens, at, options, env: tokens[at].content)
_MARKDOWN.inline.ruler.before("escape", "formula", _formula)
_MARKDOWN.block.ruler.before("table", "formula", _formula_lines, {"alt": ["paragraph", "blockquote", "list"]})
_ENDS = ["paragraph", "reference", "blockquote"]  # what a list or a quote may end
_MARKDOWN.block.ruler.at("blockquote", _not_too_deep(blockquote), {"alt": [*_ENDS, "list"]})
_MARKDOWN.block.ruler.at("list", _not_too_deep(list_block), {"alt": _ENDS})


class GrowingMarkdown:
    """Markdown of a text that only grows: what can no longer change is neither parsed nor drawn again.

    A block is settled once the two lines that begin the next one are complete (a table needs both to be one). One
    top-level block is one element. A text that is `finished` has its colours in code that nobody closed, too.
    """

    def __init__(self, finished: bool = False) -> None:
        self._env: dict[str, Any] = {"finished": finished, "known": {}, "left": MOST}
        self._settled: list[str] = []
        self._read = ""  # the text of the settled blocks

    def blocks(self, text: str) -> list[str]:
        """The HTML of each top-level block."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # the parser counts lines so
        if not text.startswith(self._read):
            self._settled, self._read = [], ""
        tail = text[len(self._read) :]
        tokens, lines = _MARKDOWN.parse(tail, self._env), tail.split("\n")
        starts = [at for at, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]
        found = [_html(tokens[at:end], self._env) for at, end in pairwise([*starts, len(tokens)])]
        begins = [(tokens[at].map or [0])[0] for at in starts]
        settled = max((n for n, line in enumerate(begins) if line < len(lines) - 2), default=0)
        blocks = [*self._settled, *found]
        if settled:
            self._settled += found[:settled]
            self._read += "\n".join(lines[: begins[settled]]) + "\n"
        return blocks


def markdown(text: str) -> str:
    """The HTML of a text that has ended."""
    return "".join(GrowingMarkdown(finished=True).blocks(text))


_TAGS = re.compile(r"(<math.*?</math>|<[^>]*>)", re.DOTALL)


def marked(text: str, given: str, mark: Callable[[str], str]) -> str | None:
    """The same with `mark` around all that is shown of its beginning `given`. None where that would change how the text is set."""
    whole = markdown(text)
    sign = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
    rest = text[len(given) :]
    # White space is not seen, so on either side of it is the same to the eye, and may not be to Markdown.
    for at in dict.fromkeys((len(given), len(given.rstrip()), len(text) - len(rest.lstrip()))):
        cut = markdown(text[:at] + sign + text[at:])
        parts = _TAGS.split(cut)
        last = next((n for n, part in enumerate(parts) if sign in part), 1)
        if last % 2 or cut.replace(sign, "") != whole:
            continue
        before, after = parts[last].split(sign)
        shown = [*parts[:last], before]
        return "".join(mark(part) if _is_shown(part) else part for part in shown) + after + "".join(parts[last + 1 :])
    return None


def _is_shown(part: str) -> bool:
    return part.startswith("<math") or not (part.startswith("<") or part.isspace() or not part)


def _html(tokens: Sequence[Token], env: dict[str, Any]) -> str:
    for token in tokens:
        token.tag = _LEVEL.get(token.tag, token.tag)
    return str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, env)).strip()
