"""A running turn line by line: its row with the first view, what is new in each one after it, and how the turn ended.

A view costs its own line and nothing of the chat. The script that draws them is transcript.js.
"""

from typing import Any

from ...types import SIDES, Side
from ..markdown import GrowingMarkdown
from . import render
from .session import Live, common

Line = dict[str, Any]


class Log:
    """`blind` is the side that stands first where the models are not named: then nothing but both texts is told."""

    def __init__(self, turn: int, prompt: str, blind: Side | None = None):
        self._turn, self._blind = turn, blind is not None
        self._first = {"row": render.running_row(turn, prompt, blind)}
        self._begun = False
        self._base = ""
        self._blocks: list[str] = []
        self._facts: dict[Side, str] = {}
        self._thought: dict[Side, str] = dict.fromkeys(SIDES, "")
        self._growing = GrowingMarkdown()

    def waiting(self, notice: str) -> Line:
        """Before the models are there."""
        return self._line(waiting=notice)

    def view(self, live: Live, heads: str) -> Line:
        """What is new since the last view. `heads` names the models above this turn; empty where those of the turn before wrote it."""
        what: dict[str, Any] = {}
        snapshot = live.snapshot
        if not self._begun:
            self._begun, what["heads"] = True, heads
            what["caption"] = "" if self._blind else render.caption(live.comparison)
        if not snapshot.base.text.startswith(self._base):
            self._base, what["again"] = "", True
        begun = live.begun.get("base", render.WROTE_ALL).answer
        breaks, text = render.opening(snapshot.base.text, begun)
        _, before = render.opening(self._base, begun)
        if fresh := text[len(before) :]:
            what |= {"base": fresh} if before else {"breaks": breaks, "base": fresh}
        written = snapshot.post.text
        begun = live.begun.get("post", render.WROTE_ALL).answer
        unset = self._blind or begun  # what is marked is set once it is all there
        blocks = (
            [f"<div class='plain'>{render.plain(written, begun)}</div>"] if unset else self._growing.blocks(written)
        )
        if blocks != self._blocks:
            what["post"] = _change(self._blocks, blocks)
        told = () if self._blind else SIDES
        thought = {side: snapshot.reply(side).reasoning.lstrip("\n") for side in told}
        grown = {
            side: _delta(self._thought[side], thought[side]) for side in told if thought[side] != self._thought[side]
        }
        if grown:
            what["thought"] = grown
        facts = {
            side: render.said(snapshot.reply(side), live.ends.get(side), len(live.comparison.prefill(side)))
            for side in told
        }
        if changed := {side: fact for side, fact in facts.items() if self._facts.get(side) != fact}:
            what["facts"] = changed
        self._base, self._blocks, self._facts, self._thought = snapshot.base.text, blocks, facts, thought
        return self._line(**what)

    def end(self, **what: Any) -> Line:
        """The row that stays, or why there is none."""
        return {"turn": self._turn, **what}

    def _line(self, **what: Any) -> Line:
        first, self._first = self._first, {}
        return {"turn": self._turn, **first, **what}


def _change(before: list[str], after: list[str]) -> list[Any]:
    """[first block that changed, how much of it stays, its rest, *blocks after it]"""
    first = common(before, after)
    changed = after[first:] or [""]
    return [first, *_delta(before[first] if first < len(before) else "", changed[0]), *changed[1:]]


def _delta(before: str, after: str) -> list[Any]:
    """[how much of the text before stays, what follows it], counted as a script does: in UTF-16 code units."""
    stays = common(before, after)
    return [len(after[:stays].encode("utf-16-le")) // 2, after[stays:]]
