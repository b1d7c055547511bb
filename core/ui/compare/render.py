"""Values -> what the browser shows: chat messages and small pieces of HTML.

Everything that a person or a model wrote is escaped here, on the server. Markdown of the post-trained
side keeps its formatting but loses raw HTML, images and math; the base side is shown exactly as it is.
"""

import html
from collections.abc import Mapping
from typing import Any

from ...prompts import Piece, Prompt
from ...types import SIDE_NAMES, SIDES, Chat, Deviation, Record, Reply, Side, Snapshot
from ..escaping import safe_markdown, safe_plain
from ..markup import ENDED, KIND, visible
from ..visitor import has_receipt

_NOTHING_YET = "\u200b"  # an empty message would not be drawn at all


def message(role: str, text: str) -> dict[str, Any]:
    """A chat message; content as a list, because plain strings lose their indentation."""
    return {"role": role, "content": [{"type": "text", "text": text or _NOTHING_YET}]}


def chat_messages(
    chat: Chat, side: Side, prompt: str | None = None, reply: Reply | None = None
) -> list[dict[str, Any]]:
    """One pane: the finished turns and, when there is one, the turn under way."""
    safe = safe_markdown if side == "post" else safe_plain
    messages = []
    for record in chat:
        messages += [message("user", safe(record.turn.prompt)), message("assistant", safe(record.turn.reply(side)))]
    if prompt is not None:
        messages.append(message("user", safe(prompt)))
        if reply is not None and reply.token_ids:
            messages.append(message("assistant", safe(reply.text)))
    return messages


def head(name: str, side: Side) -> str:
    """The bar above a pane: which model, and which stage of training."""
    return f"<div class='pane-head {side}'><span class='dot' aria-hidden='true'></span><h2>{html.escape(name)}</h2><span class='tag'>{KIND[side]}</span></div>"


def strip(side: Side, reply: Reply, weights_sha256: str | None = None, deviation: Deviation | None = None) -> str:
    """The bar below a pane: status, time to first token, speed, tokens, the fingerprint of the weights and how they were checked."""
    state, label = _state(reply)
    first = f"{reply.seconds_to_first_token * 1000:.0f}<small> ms</small>" if reply.seconds_to_first_token else "-"
    speed = f"{reply.tokens_per_second:.0f}<small> tok/s</small>" if reply.tokens_per_second else "-"
    checked = f"; {deviation}" if deviation else ""
    weights = (
        f"<code title='sha256 of the weights: {weights_sha256}{checked}'>{weights_sha256[:8]}</code>"
        if weights_sha256
        else "-"
    )
    cells = (
        ("Status", f"<i class='pulse' aria-hidden='true'></i>{label}"),
        ("First token", first),
        ("Speed", speed),
        ("Tokens", str(len(reply.token_ids))),
        ("Weights", weights),
    )
    body = "".join(
        f"<div class='{title.lower().replace(' ', '-')}'><dt>{title}</dt><dd>{value}</dd></div>"
        for title, value in cells
    )
    return f"<dl class='strip {side} is-{state}'>{body}</dl>"


def _state(reply: Reply) -> tuple[str, str]:
    match reply.phase:
        case "queued":
            return "queued", f"Waiting, {reply.ahead} ahead" if reply.ahead else "Waiting, next"
        case "reading":
            return "reading", "Reading prompt"
        case "writing":
            return "writing", "Writing"
        case "failed":
            return "failed", "Failed"
        case "done":
            return reply.finish_reason or "eos", ENDED[reply.finish_reason or "eos"]
    return "idle", "Ready"


def finished_reply(record: Record, side: Side) -> Reply:
    """A reply as it stood when its turn ended, for showing a chat that was kept."""
    receipt = record.receipt(side)
    if not has_receipt(record):
        return Reply(text=record.turn.reply(side))
    if receipt is None:
        return Reply(phase="failed", text=record.turn.reply(side))
    usage = receipt.usage
    speed = (usage.output_tokens - 1) / usage.seconds_decoding if usage.seconds_decoding > 0 else None
    return Reply(
        phase="done",
        text=record.turn.reply(side),
        token_ids=receipt.token_ids,
        finish_reason=receipt.finish_reason,
        seconds_to_first_token=usage.seconds_to_first_token,
        tokens_per_second=speed,
    )


def announcement(snapshot: Snapshot) -> str:
    """One sentence for screen readers when both replies have ended."""
    replies = ((KIND[side], snapshot.reply(side)) for side in SIDES)
    return " ".join(
        f"{kind} model: {_state(reply)[1].lower()}, {len(reply.token_ids)} tokens." for kind, reply in replies
    )


def banner(text: str, tone: str) -> str:
    """What is said above the panes about a comparison that came from elsewhere."""
    return f"<p class='banner {tone}'>{html.escape(text)}</p>"


# --- turns: marks, links, receipts -------------------------------------------------------------------

_MARKS = (("base", "Base"), ("post", "Post-trained"), ("tie", "Tie"), ("neither", "Both bad"))


def turns(chat: Chat) -> str:
    """A row for each turn, the last one in sight and the earlier ones folded away."""
    if not chat:
        return ""
    rows = [_turn_row(number, record) for number, record in enumerate(chat)]
    earlier = "".join(reversed(rows[:-1]))
    fold = f"<details><summary>Earlier turns ({len(chat) - 1})</summary>{earlier}</details>" if earlier else ""
    return f"<section class='turns' aria-label='Turns: marks, links and receipts'>{rows[-1]}{fold}</section>"


def _turn_row(number: int, record: Record) -> str:
    label = f"turn {number + 1}"
    words = html.escape(" ".join(record.turn.prompt.split())[:80])
    head = f"<b>Turn {number + 1}</b><span class='words'>{words}</span>"
    if not has_receipt(record):
        return f"<div class='turn'>{head}<span class='muted'>came with a link</span></div>"
    marks = "".join(
        f"<button type='button' data-do='mark' data-turn='{number}' data-value='{value}' aria-pressed='{'true' if record.mark == value else 'false'}'>{text}</button>"
        for value, text in _MARKS
    )
    receipt = record.base is not None and record.post is not None
    actions = [("link", "Copy link"), *([("receipt", "Receipt")] if receipt else [])]
    buttons = "".join(
        f"<button type='button' data-do='{what}' data-turn='{number}' aria-label='{text}, {label}'>{text}</button>"
        for what, text in actions
    )
    return (
        f"<div class='turn'>{head}<span class='marks' role='group' aria-label='Better reply, {label}'>"
        f"<span class='muted'>Better</span>{marks}</span><span class='does'>{buttons}</span></div>"
    )


# --- exactly what was sent ------------------------------------------------------------------------

NOTHING_SENT = "<p class='muted'>Nothing has been sent yet. After you press Compare, the whole text that each model was sent appears here, character for character.</p>"
REBUILT_LATER = "<p class='muted'>Press Compare to see exactly what is sent; the models of this conversation are not in memory now.</p>"


def not_sent(reason: str) -> str:
    """Why what was sent cannot be shown."""
    return f"<p class='muted'>{html.escape(reason)}</p>"


def sent(prompts: Mapping[Side, Prompt]) -> str:
    """Both prompts side by side: every character, control tokens marked, re-sent history told from what is new."""
    return f"<div class='sent-grid'>{''.join(_sent_side(side, prompt) for side, prompt in prompts.items())}</div>"


def _sent_side(side: Side, prompt: Prompt) -> str:
    count, resent = len(prompt.token_ids), prompt.resent
    tokens = f"{count:,} tokens" + (f", {resent:,} re-sent" if resent else "")
    notes = "".join(f"<p class='muted'>{html.escape(note)}</p>" for note in prompt.notes)
    return (
        f"<section class='sent {side}' aria-label='Sent to the {SIDE_NAMES[side]} model'>"
        f"<header><span class='dot' aria-hidden='true'></span><b>{KIND[side]}</b><span>{tokens}</span><code title='sha256 of the token ids: {prompt.sha256}'>sha256 {prompt.sha256[:12]}</code></header>"
        f"{notes}<pre tabindex='0'>{''.join(_sent_runs(prompt.pieces))}</pre></section>"
    )


def _sent_runs(pieces: tuple[Piece, ...]) -> list[str]:
    """The history (with the template around it) dimmed, this turn in full ink."""
    last_old = max((i for i, piece in enumerate(pieces) if piece.origin in ("system", "history")), default=-1)
    runs = []
    for i, piece in enumerate(pieces):
        age = "old" if i <= last_old else "new"
        runs.append(
            f"<mark class='{age}'>{html.escape(piece.text)}</mark>"
            if piece.control
            else f"<span class='{age}'>{visible(piece.text)}</span>"
        )
    return runs
