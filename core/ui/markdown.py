"""Markdown that a model wrote -> HTML that nothing in it can leave: no raw HTML, no images, links that open elsewhere."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.token import Token

_LEVEL = {f"h{n}": f"h{min(6, n + 3)}" for n in range(1, 7)}  # headings of a reply stand below those of the page
_DEEPEST = 16  # levels of lists and quotes; deeper, their marks are text
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


# `reference` is off so that a later line can never change a block that is already on the page.
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True})
    .enable(["table", "strikethrough"])
    .disable(["reference", "image"])
)
_MARKDOWN.add_render_rule("link_open", _link_open)
_MARKDOWN.validateLink = lambda url: not _NO_LINK.match(url)  # type: ignore[method-assign]
_ENDS = ["paragraph", "reference", "blockquote"]  # what a list or a quote may end
_MARKDOWN.block.ruler.at("blockquote", _not_too_deep(blockquote), {"alt": [*_ENDS, "list"]})
_MARKDOWN.block.ruler.at("list", _not_too_deep(list_block), {"alt": _ENDS})


class GrowingMarkdown:
    """Markdown of a text that only grows: what can no longer change is neither parsed nor drawn again.

    A block is settled once the two lines that begin the next one are complete (a table needs both to be one). One
    top-level block is one element.
    """

    def __init__(self) -> None:
        self._settled: list[str] = []
        self._read = ""  # the text of the settled blocks

    def blocks(self, text: str) -> list[str]:
        """The HTML of each top-level block."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # the parser counts lines so
        if not text.startswith(self._read):
            self._settled, self._read = [], ""
        tail = text[len(self._read) :]
        tokens, lines = _MARKDOWN.parse(tail), tail.split("\n")
        starts = [at for at, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]
        found = [_html(tokens[at:end]) for at, end in pairwise([*starts, len(tokens)])]
        begins = [(tokens[at].map or [0])[0] for at in starts]
        settled = max((n for n, line in enumerate(begins) if line < len(lines) - 2), default=0)
        blocks = [*self._settled, *found]
        if settled:
            self._settled += found[:settled]
            self._read += "\n".join(lines[: begins[settled]]) + "\n"
        return blocks


def markdown(text: str) -> str:
    return "".join(GrowingMarkdown().blocks(text))


def _html(tokens: Sequence[Token]) -> str:
    for token in tokens:
        token.tag = _LEVEL.get(token.tag, token.tag)
    return str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})).strip()
