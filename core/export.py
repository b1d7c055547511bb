"""A kept conversation as files that other programs read: Markdown, chat records, preference pairs.

The JSON Lines are those of TRL's and datasets' conversational formats: a "messages" list for each side,
and ("prompt", "chosen", "rejected") where the person marked one reply of a turn as the better one. Reasoning
is "reasoning_content" of its message, as most chat templates read it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from .types import SIDE_NAMES, SIDES, Chat, Comparison, Conversation, Mark, Message, Record, Side


def markdown(chat: Chat) -> str:
    """The conversation with both replies, for people."""
    blocks = ["# A comparison made with Same Seed"]
    for number, record in enumerate(chat, 1):
        blocks.append(f"## Turn {number}\n\n{_asked(record)}")
        blocks.append(f"**Prompt**\n\n{_quoted(record.turn.prompt)}")
        for side in SIDES:
            if reasoning := record.turn.reasoning(side):
                blocks.append(f"**{_model(record, side)}, reasoning**\n\n{_quoted(reasoning)}")
            blocks.append(f"**{_model(record, side)}**\n\n{_quoted(record.turn.reply(side))}")
        if record.mark:
            blind = (
                f", marked while the models were not named ({SIDE_NAMES[record.blind]} first)" if record.blind else ""
            )
            blocks.append(f"Better reply: {_MARKS[record.mark]}{blind}.")
    return "\n\n".join(blocks) + "\n"


_MARKS: dict[Mark, str] = {
    "base": SIDE_NAMES["base"],
    "post": SIDE_NAMES["post"],
    "tie": "a tie",
    "neither": "both are bad",
}


def _asked(record: Record) -> str:
    system = f"\n\n**System prompt**\n\n{_quoted(record.system)}" if record.system else ""
    return settings(record) + system


def settings(asked: Record | Comparison) -> str:
    """Everything that was chosen beside the texts, in one sentence."""
    sampling = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asked.sampling)
    switches = "".join(f"; {name} {value}" for name, value in asked.chat_template_kwargs.items())
    return f"Pair {asked.pair}; {sampling}{switches}; framing {asked.framing_base} (base) and {asked.framing_post} (post-trained); date {asked.today}."


def _model(record: Record, side: Side) -> str:
    """The model that wrote a reply, and by which weights."""
    kind = SIDE_NAMES[side].capitalize()
    receipt = record.receipt(side)
    return f"{kind}: {receipt.checkpoint.name} (weights {receipt.weights_sha256[:16]})" if receipt else kind


def _quoted(text: str) -> str:
    """A text exactly as it is, whatever marks are in it: a fence longer than any inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def messages(chat: Chat) -> str:
    """JSON Lines: one record for each side, its own conversation as a list of messages."""
    return _lines(
        {"messages": _dicts(_conversation(chat).messages(side)), "side": side, "model": _model(chat[-1], side)}
        for side in SIDES
        if chat
    )


def preferences(chat: Chat) -> str:
    """JSON Lines: one record for each turn where one reply was marked as the better one.

    The prompt carries the history of the side that was preferred: each side answered its own history,
    and from the second turn on the two are not the same. "blind" and "first" are there where the models were not named.
    """
    return _lines(_preference(chat[: number + 1]) for number, record in enumerate(chat) if record.mark in SIDES)


def _preference(chat: Chat) -> dict[str, Any]:
    turn = chat[-1].turn
    better: Side = "base" if chat[-1].mark == "base" else "post"
    worse: Side = "post" if better == "base" else "base"
    history = _conversation(chat[:-1], chat[-1].system).messages(better)
    return {
        "prompt": _dicts((*history, Message(role="user", text=turn.prompt))),
        "chosen": _dicts((turn.message(better),)),
        "rejected": _dicts((turn.message(worse),)),
    } | ({"blind": True, "first": chat[-1].blind} if chat[-1].blind else {})


def _conversation(chat: Chat, system: str | None = None) -> Conversation:
    """The turns under the system prompt of the last one: what was sent on that turn."""
    head = system if system is not None else chat[-1].system if chat else ""
    return Conversation(system=head, turns=tuple(record.turn for record in chat))


def _dicts(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [
        {"role": message.role, "content": message.text}
        | ({"reasoning_content": message.reasoning} if message.reasoning else {})
        for message in messages
    ]


def _lines(records: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
