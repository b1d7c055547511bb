"""A running turn as one string that only grows, a line of JSON for each view.

Gradio sends what a string has grown by, so a view costs its own line on the wire and nothing of the chat; and the
script that reads it (transcript.js) misses nothing when two views are drawn as one.
"""

import json
import secrets
from typing import Any

from ...types import SIDES, Side
from ..markdown import GrowingMarkdown
from . import render
from .session import Live, common


class Log:
    """`blind` is the side that stands first where the models are not named: then nothing but both texts is told."""

    def __init__(self, turn: int, prompt: str, blind: Side | None = None):
        self._turn, self._blind = turn, blind is not None
        self._text = self._line(row=render.running_row(turn, prompt, blind))
        self._begun = False
        self._base = ""
        self._blocks: list[str] = []
        self._facts: dict[Side, str] = {}
        self._thought: dict[Side, str] = dict.fromkeys(SIDES, "")
        self._growing = GrowingMarkdown()

    def waiting(self, notice: str) -> str:
        """Before the models are there."""
        self._text += self._line(waiting=notice)
        return self._text

    def view(self, live: Live, heads: str) -> str:
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
        self._text += self._line(**what)
        return self._text

    def end(self, **what: Any) -> str:
        """A new log with one line, which stays small when it is sent a second time: the row that stays, or why there is none."""
        self._text = self._line(
            serial=secrets.token_hex(4), **what
        )  # two equal values in a row would not reach the script
        return self._text

    def _line(self, **what: Any) -> str:
        return json.dumps({"turn": self._turn, **what}, ensure_ascii=False, separators=(",", ":")) + "\n"


def _change(before: list[str], after: list[str]) -> list[Any]:
    """[first block that changed, how much of it stays, its rest, *blocks after it]"""
    first = common(before, after)
    changed = after[first:] or [""]
    return [first, *_delta(before[first] if first < len(before) else "", changed[0]), *changed[1:]]


def _delta(before: str, after: str) -> list[Any]:
    """[how much of the text before stays, what follows it], counted as a script does: in UTF-16 code units."""
    stays = common(before, after)
    return [len(after[:stays].encode("utf-16-le")) // 2, after[stays:]]
