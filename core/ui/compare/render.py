"""Turns -> rows of HTML, and small pieces of it.

Everything that a person or a model wrote is escaped here, on the server. The base reply is plain text; the
post-trained one is Markdown (see markdown.py).
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...lease import Card
from ...prompts import Piece, Prompt
from ...reasoning import Split
from ...reproduce import Code
from ...run import speed
from ...types import (
    DEFAULT_SAMPLING,
    SIDE_NAMES,
    SIDES,
    Chat,
    Comparison,
    EngineInfo,
    Framing,
    Lens,
    Record,
    Reply,
    Side,
    SideReceipt,
    Snapshot,
)
from ..markdown import markdown
from ..markdown import marked as marked_markdown
from ..markup import ENDED, FRAMING, KIND, counted, given, short, visible
from ..visitor import has_receipt

_RETURN = "\u21b5"
_DOT = " <span class='middot'>\u00b7</span> "
_MARKS = (("base", "Base"), ("post", "Post-trained"), ("tie", "Tie"), ("neither", "Both bad"))
_USUAL: dict[Side, Framing] = {"base": "document", "post": "chat"}
_DOES = {"base": "continues the text", "post": "answers it"}
_AT_ONCE = 30  # turns that are drawn at once, and fewer where they have
_CHARACTERS = 200_000  # characters together


@dataclass(frozen=True)
class Model:
    """Who wrote a reply, as far as that is known."""

    name: str
    weights_sha256: str | None = None
    engine: EngineInfo | None = None
    left_out: tuple[str, ...] = ()
    quantization: str = ""


# --- which column is whose -------------------------------------------------------------------------------


def heads(models: Mapping[Side, str], turn: int, again: bool = False) -> str:
    """The names of both models above the turns that they wrote, from `turn` on, as a row of its own.

    They are said `again` where the turn before has the same and is not drawn.
    """
    lens = "<button type='button' class='lens-switch' role='switch' aria-checked='false'><i aria-hidden='true'></i>Lens</button>"
    said = " data-again" if again else ""
    return f"<li class='heads' data-turn='{turn}'{said}>{''.join(models[side] for side in SIDES)}{lens}</li>"


def model(side: Side, model: Model) -> str:
    """Which model, which stage of training, and its weights' fingerprint with how they were checked."""
    engine, sha256 = model.engine, model.weights_sha256
    stored = f", weights stored as {html.escape(model.quantization)}" if model.quantization else ""
    checked = f"; {engine.deviation}" if engine and engine.deviation else ""
    weights = (
        f"<code class='weights' title='Fingerprint of the weights (sha256): {sha256}{stored}{html.escape(checked)}'>{sha256[:8]}</code>"
        if sha256
        else ""
    )
    lacks = f"; not loaded: {', '.join(model.left_out)}" if model.left_out else ""
    alone = f", text alone: pictures and sounds are not read{html.escape(lacks)}" if lacks else ""
    return (
        f"<p class='model {side}'><i class='dot' aria-hidden='true'></i><b>{html.escape(model.name)}</b>"
        f"<span>{KIND[side].lower()}, {_DOES[side]}{stored}{alone}</span>{weights}</p>"
    )


def blind_heads(turn: int, order: Sequence[Side], models: Mapping[Side, str]) -> str:
    """The names A and B above a turn whose models are not named, or were not when it was marked; then with the models in that order."""
    names = (
        f"<p class='model'><b>{name}</b></p>{models.get(side, '')}" for name, side in zip("AB", order, strict=True)
    )
    columns = "".join(f"<div class='blind-model'>{name}</div>" for name in names)
    return f"<li class='heads' data-turn='{turn}'>{columns}</li>"


# --- which turns are drawn -------------------------------------------------------------------------------


def first_of(chat: Chat, end: int) -> int:
    """The first of the turns before `end` that are drawn together: at least the last of them."""
    start, characters = end - 1, chat[end - 1].turn.characters if end else 0
    while (
        start > max(0, end - _AT_ONCE) and (characters := characters + chat[start - 1].turn.characters) <= _CHARACTERS
    ):
        start -= 1
    return max(0, start)


def gap(start: int, end: int) -> str:
    """Turns that are not drawn until somebody asks for them."""
    count = end - start
    return (
        f"<li class='gap' data-turn='{start}' data-end='{end}'><button type='button' data-do='earlier'>Show earlier turns ({count:,})</button></li>"
        if count
        else ""
    )


# --- one turn as a row -----------------------------------------------------------------------------------


# The text that a reply was given to begin with, where it was given any and that can be spelled here.
Begun = Mapping[Side, Split]
_NOTHING: Begun = {}
WROTE_ALL = Split("", "", "")


def row(
    turn: int,
    record: Record,
    ends: Mapping[Side, str],
    versions: tuple[int, int] = (1, 1),
    begun: Begun = _NOTHING,
) -> str:
    """A finished turn. `ends` names the token with which a side ended by itself."""
    if record.hidden:
        return _hidden_row(turn, record, begun)
    under = caption(record) if has_receipt(record) else "brought along: how it was made is not known here"
    under += f"{_DOT}<b>marked blind</b>" if record.blind else ""
    return _row(
        turn,
        record.turn.prompt,
        under,
        _replies(record, ends, begun),
        _actions(turn, record, versions),
        order=order_of(record.blind),
    )


def order_of(first: Side | None) -> tuple[Side, Side]:
    """Both sides from left to right."""
    return ("post", "base") if first == "post" else ("base", "post")


def _hidden_row(turn: int, record: Record, begun: Begun) -> str:
    """A turn whose models are not named: two texts, and which is the better one."""
    order = order_of(record.blind)
    texts = {
        side: f"<div class='text plain' dir='auto'>{plain(record.turn.reply(side), begun.get(side, WROTE_ALL).answer)}</div>"
        for side in SIDES
    }
    marks = ((order[0], "A"), (order[1], "B"), *_MARKS[2:])
    buttons = "".join(
        f"<button type='button' data-do='mark' data-value='{value}' aria-pressed='false'>{name}</button>"
        for value, name in marks
    )
    group = f"<div class='actions'><div class='marks' role='group' aria-label='Better reply, turn {turn + 1}'><span aria-hidden='true'>Better</span>{buttons}</div></div>"
    under = "which model wrote which reply is said when one is marked"
    return _row(turn, record.turn.prompt, under, texts, group, "turn blind", order)


def plain(text: str, begun: str = "") -> str:
    """A text as it is; the line breaks that it begins with are marks."""
    before, rest = opening(text, begun)
    return before + html.escape(rest)


def shared_row(turn: int, record: Record, begun: Begun = _NOTHING) -> str:
    """A turn that came with a link and was not run here."""
    check = "<div class='offers'><button type='button' data-do='check'>Check: run it here</button></div>"
    under = f"<b>as shared, not checked</b>{_DOT}{caption(record)}"
    return _row(turn, record.turn.prompt, under, _replies(record, {}, begun), check, "turn shared")


def _replies(record: Record, ends: Mapping[Side, str], begun: Begun) -> dict[Side, str]:
    return {side: _reply(record, side, ends.get(side), begun.get(side, WROTE_ALL)) for side in SIDES}


def _reply(record: Record, side: Side, end: str | None, begun: Split) -> str:
    reply, tokens = finished_reply(record, side), len(prefill_of(record, side))
    content = body(side, reply, end, begun.answer)
    return _thought(reply, begun.reasoning) + _text(side, content) + _stands(said(reply, end, tokens))


def _thought(reply: Reply, begun: str = "") -> str:
    """What was thought before an answer, folded above it; a running reply's is filled by the script."""
    count = f", {reply.reasoning_tokens:,} tokens" if reply.reasoning_tokens else ""
    thought = plain(reply.reasoning.strip("\n"), begun.strip("\n"))
    return (
        f"<details class='thought'{'' if thought else ' hidden'}><summary>Reasoning<span>{count}</span></summary>"
        f"<div class='plain' dir='auto'>{thought}</div></details>"
    )


def _text(side: Side, content: str) -> str:
    return f"<div class='text {'plain' if side == 'base' else 'markdown'}' dir='auto'>{content}</div>"


def _stands(fact: str) -> str:
    return f"<p class='stands'>{fact}</p>"


def running_row(turn: int, prompt: str, blind: Side | None = None) -> str:
    """The same row while its replies are being written; the script fills it."""
    if blind:
        texts = dict.fromkeys(SIDES, "<div class='text plain' dir='auto'></div><p class='stands' hidden></p>")
        return _row(turn, prompt, "", texts, "", "turn blind", order_of(blind))
    return _row(turn, prompt, "", {side: _thought(Reply()) + _text(side, "") + _stands("") for side in SIDES}, "")


def _row(
    turn: int,
    prompt: str,
    under: str,
    replies: Mapping[Side, str],
    actions: str,
    kind: str = "turn",
    order: Sequence[Side] = SIDES,
) -> str:
    sections = []
    for name, side in zip("AB", order, strict=True):
        who, look = (f"Reply {name}", "reply") if "blind" in kind else (f"{KIND[side]} reply", f"reply {side}")
        head = name if "blind" in kind else KIND[side]
        sections.append(
            f"<section class='{look}' data-side='{side}' aria-label='{who}, turn {turn + 1}'><h3 class='side'>{head}</h3>{replies[side]}</section>"
        )
    size = "prompt long" if len(prompt) > 240 or prompt.count("\n") > 5 else "prompt"
    return (
        f"<li class='{kind}' data-turn='{turn}'><h2 class='{size}'><span class='number' aria-hidden='true'>{turn + 1}</span>"
        f"<span class='words' dir='auto'>{html.escape(prompt)}</span></h2><div class='sides'>{''.join(sections)}</div>"
        f"<div class='foot'><p class='caption'>{under}</p>{actions}</div></li>"
    )


def _actions(turn: int, record: Record, versions: tuple[int, int]) -> str:
    if not has_receipt(record):
        return ""
    label = f"turn {turn + 1}"
    receipt = record.base is not None and record.post is not None
    does = (
        ("retry", "Retry"),
        ("edit", "Edit"),
        ("copy", "Copy"),
        ("link", "Copy link"),
        *([("receipt", "Receipt")] if receipt else []),
        ("code", "Get code"),
        ("delete", "Delete"),
        ("sent", "What was sent"),
    )
    buttons = "".join(
        f"<button type='button' data-do='{do}' title='{name}' aria-label='{name}, {label}'>{name}</button>"
        for do, name in does
    )
    marks = "".join(
        f"<button type='button' data-do='mark' data-value='{value}' aria-pressed='{str(record.mark == value).lower()}'>{name}</button>"
        for value, name in _MARKS
    )
    return (
        f"<div class='actions'>{_versions(label, *versions)}<div class='does' role='group' aria-label='{label.capitalize()}'>{buttons}</div>"
        f"<div class='marks' role='group' aria-label='Better reply, {label}'><span aria-hidden='true'>Better</span>{marks}</div>"
        f"<div class='dial' role='group' aria-label='Dial, {label}'><label>From base (0) to post-trained (1) <input type='number' min='0' max='1.5' step='0.25' value='{record.dial.amount if record.dial else 0.5:g}'></label>"
        f"<button type='button' data-do='dial' title='0 is the base model, 1 the post-trained one, more is too much of it'>Ask again</button></div></div>"
    )


def _versions(label: str, shown: int, count: int) -> str:
    if count < 2:
        return ""
    earlier, later = (
        f"<button type='button' data-do='version' data-versions='[{to}]' aria-label='{name} version of {label}'{'' if 1 <= to <= count else ' disabled'}>{sign}</button>"
        for to, name, sign in ((shown - 1, "Earlier", "\u2039"), (shown + 1, "Later", "\u203a"))
    )
    return f"<div class='versions' role='group' aria-label='Versions of {label}'>{earlier}<span>{shown}/{count}</span>{later}</div>"


def opening(text: str, begun: str = "") -> tuple[str, str]:
    """How a reply begins, as HTML, and the rest of it: its line breaks as marks that take no lines, and what it was given."""
    rest = text.lstrip("\n")
    breaks = len(text) - len(rest)
    title = f"begins with {counted(breaks, 'line break')}"
    drawn = f"<i class='breaks' title='{title}'>{_RETURN * breaks}</i> " if breaks else ""
    if not begun or not text.startswith(begun):
        return drawn, rest
    words = begun[breaks:]
    return given(drawn + html.escape(words)), rest[len(words) :]


def body(side: Side, reply: Reply, end: str | None, begun: str = "") -> str:
    """A reply as HTML; one without words is said in words, with what could be done about it."""
    if reply.text.strip():
        return plain(reply.text, begun) if side == "base" else _formatted(reply.text, begun)
    if reply.phase == "failed":
        return _silent(
            "This side failed.", html.escape(reply.error or "The other reply is whole; Retry asks both again.")
        )
    if reply.phase != "done":
        return ""
    token = f"<code>{html.escape(end or 'its end of text')}</code>"
    again = "<button type='button' data-do='reseed'>Try the next seed</button>"
    if side == "base":
        again += " <button type='button' data-do='reframe'>Ask it as a transcript</button>"
    if reply.reasoning.strip():
        return _silent("It ended before an answer", "All that it wrote is its reasoning.", again)
    if reply.finish_reason == "eos" and len(reply.token_ids) <= 1:
        why = "The first token that it drew was the one that ends a text: that is a reply too."
        return _silent(f"Ended at once with {token}", why, again)
    if reply.finish_reason == "eos":
        why = f"It drew {len(reply.token_ids)} tokens, and none of them is a letter."
        return _silent(f"Only white space, then {token}", why, again)
    if reply.finish_reason == "stopped":
        return _silent("Stopped before the first word", "")
    return _silent("Only white space", f"It drew {len(reply.token_ids)} tokens, and none of them is a letter.", again)


def _formatted(text: str, begun: str) -> str:
    if not begun or not text.startswith(begun):
        return markdown(text)
    return marked_markdown(text, begun, given) or f"<div class='plain'>{plain(text, begun)}</div>"


def _silent(what: str, why: str, offers: str = "") -> str:
    return f"<p class='silent'><b>{what}</b> {why}</p>{f'<p class=offers>{offers}</p>' if offers else ''}"


def said(reply: Reply, end: str | None, tokens: int = 0) -> str:
    """How a reply stands, in one line of HTML; `tokens` of it were given."""
    return _DOT.join(
        filter(None, (given(f"begins with {counted(tokens, 'given token')}") if tokens else "", _said(reply, end)))
    )


def _said(reply: Reply, end: str | None) -> str:
    match reply.phase:
        case "queued" if reply.ahead is None:
            return "Waiting for a free machine"
        case "queued":
            return f"Waiting, {reply.ahead} ahead" if reply.ahead else "Waiting, next"
        case "reading":
            return "Reading prompt"
        case "idle":
            return ""
        case "failed":
            return "Failed"
    count = counted(len(reply.token_ids), "token")
    count += f" ({reply.reasoning_tokens:,} of reasoning)" if reply.reasoning_tokens else ""
    if reply.phase == "writing":
        return f"Writing, {count}"
    read = f"Read {reply.usage.prompt_tokens:,}, wrote" if reply.usage else "Wrote"
    how = f"ended with <code>{html.escape(end)}</code>" if reply.finish_reason == "eos" and end else _ended(reply)
    return f"<span class='wrote'{_speed(reply)}>{read} {count}</span>{_DOT}{how}"


def _ended(reply: Reply) -> str:
    return ENDED[reply.finish_reason or "eos"].lower()


def _speed(reply: Reply) -> str:
    first, rate = reply.seconds_to_first_token, reply.tokens_per_second
    known = [f"first token after {first * 1000:.0f} ms"] if first else []
    known += [f"{rate:.0f} tokens a second"] if rate else []
    return f" title='{', '.join(known)}'" if known else ""


def caption(asked: Comparison | Record) -> str:
    """The seed, the temperature, and whatever is not as the page opens with."""
    sampling = asked.sampling
    system = asked.system if isinstance(asked, Record) else asked.conversation.system
    parts = [("seed", str(sampling.seed)), ("temperature", f"{sampling.temperature:g}")]
    parts += [
        (name.replace("_", " "), f"{getattr(sampling, name):g}")
        for name in ("max_new_tokens", "top_p", "top_k", "min_p", "repetition_penalty")
        if getattr(sampling, name) != getattr(DEFAULT_SAMPLING, name)
    ]
    for side in SIDES:
        framing = asked.framing_base if side == "base" else asked.framing_post
        parts += [(f"{SIDE_NAMES[side]} framed as", FRAMING[framing].lower())] if framing != _USUAL[side] else []
    parts += [("system prompt", f"\u201c{short(system, 48)}\u201d")] if system else []
    parts += [(name, short(str(value), 24)) for name, value in asked.chat_template_kwargs.items()]
    parts += [("dial", f"{asked.dial.amount:g} in {asked.dial.space}")] if asked.dial else []
    parts += [("", "portable")] if isinstance(asked, Record) and _is_portable(asked) else []
    return _DOT.join(f"{html.escape(name)} <b>{html.escape(value)}</b>".lstrip() for name, value in parts)


def _is_portable(record: Record) -> bool:
    receipts = [receipt for side in SIDES if (receipt := record.receipt(side))]
    return bool(receipts) and all(receipt.engine.is_portable for receipt in receipts)


def prefill_of(asked: Comparison | Record, side: Side) -> tuple[int, ...]:
    """The token ids that a reply was given to begin with."""
    return asked.prefill_base if side == "base" else asked.prefill_post


def finished_reply(record: Record, side: Side) -> Reply:
    """A reply as it stood when its turn ended, for showing a chat that was kept."""
    receipt = record.receipt(side)
    text, reasoning = record.turn.reply(side), record.turn.reasoning(side)
    if not has_receipt(record):
        return Reply(text=text, reasoning=reasoning)
    if receipt is None:
        return Reply(phase="failed", text=text, reasoning=reasoning)
    usage = receipt.usage
    return Reply(
        phase="done",
        text=text,
        reasoning=reasoning,
        reasoning_tokens=receipt.reasoning_tokens,
        token_ids=receipt.token_ids,
        finish_reason=receipt.finish_reason,
        usage=usage,
        seconds_to_first_token=usage.seconds_to_first_token,
        tokens_per_second=speed(usage.output_tokens, usage.seconds_decoding),
    )


def ends(written: Mapping[Side, Reply | SideReceipt | None], checkpoint: Callable[[Side], Card]) -> dict[Side, str]:
    """The token with which each side ended by itself, as its tokenizer writes it."""
    by_itself = {side: reply.token_ids for side, reply in written.items() if reply and reply.finish_reason == "eos"}
    ended = {side: token_ids[-1] for side, token_ids in by_itself.items() if token_ids}
    return {side: str(checkpoint(side).tokenizer.convert_ids_to_tokens(id)) for side, id in ended.items()}


def announcement(snapshot: Snapshot) -> str:
    """One sentence for screen readers when both replies have ended."""
    replies = ((KIND[side], snapshot.reply(side)) for side in SIDES)
    return " ".join(
        f"{kind} model: {'failed' if reply.phase == 'failed' else _ended(reply)}, {len(reply.token_ids)} tokens."
        for kind, reply in replies
    )


# --- the lens in place -----------------------------------------------------------------------------

_SHOWN = 3  # candidates of each model for a token


def tokens(lens: Lens) -> list[list[Any]]:
    """A short list for each token, as transcript.js reads it; it puts every text in as text."""
    return [
        [
            shift.text,
            shift.first_choice_rank,
            *(round(value, 3) for value in (shift.logprob_base, shift.logprob_post)),
            *(
                [[each.text, round(each.logprob, 3), each.id] for each in top[:_SHOWN]]
                for top in (shift.top_base, shift.top_post)
            ),
            None if shift.agreed else [drawn.text, drawn.id],
        ]
        for shift in lens.shifts
        for drawn in [shift.drawn_post if lens.side == "base" else shift.drawn_base]
    ]


# --- the code for a turn ----------------------------------------------------------------------------


def code(code: Code) -> str:
    """A turn in three languages, each with a button that copies it."""
    names = (("Command line", code.command), ("Python", code.python), ("HTTP", code.http))
    return "".join(
        f"<section class='code' aria-label='{name}'><header><b>{name}</b><button type='button' data-do='copy-code'>Copy</button></header>"
        f"<pre tabindex='0'>{html.escape(text)}</pre></section>"
        for name, text in names
    )


# --- exactly what was sent ------------------------------------------------------------------------


def sent(prompts: Mapping[Side, Prompt]) -> str:
    """Both prompts side by side: every character, control tokens marked, re-sent history told from what is new."""
    return f"<div class='sent-grid'>{''.join(_sent_side(side, prompt) for side, prompt in prompts.items())}</div>"


def _sent_side(side: Side, prompt: Prompt) -> str:
    count, resent = len(prompt.token_ids), prompt.resent
    tokens = f"{count:,} tokens" + (f", {resent:,} re-sent" if resent else "")
    notes = "".join(
        f"<p class='muted'>{html.escape(note)}</p>" for note in filter(None, (*prompt.notes, prompt.remembers))
    )
    return (
        f"<section class='sent {side}' aria-label='Sent to the {SIDE_NAMES[side]} model'>"
        f"<header><span class='dot' aria-hidden='true'></span><b>{KIND[side]}</b><span>{tokens}</span><code title='Fingerprint of what was sent (sha256 of its token ids): {prompt.sha256}'>fingerprint {prompt.sha256[:12]}</code></header>"
        f"{notes}<pre tabindex='0'>{''.join(_sent_runs(prompt.pieces))}</pre></section>"
    )


def _sent_runs(pieces: Iterable[Piece]) -> list[str]:
    """The history (with the template around it) dimmed, this turn in full ink; no piece turns its neighbours round."""
    pieces = tuple(pieces)
    last_old = max((i for i, piece in enumerate(pieces) if piece.origin in ("system", "history")), default=-1)
    runs = []
    for i, piece in enumerate(pieces):
        age = "old" if i <= last_old else "new"
        text = visible(piece.text)
        run = f"<mark class='{age}'><bdi>{text}</bdi></mark>" if piece.control else f"<bdi class='{age}'>{text}</bdi>"
        runs.append(given(run) if piece.origin == "prefill" else run)
    return runs
