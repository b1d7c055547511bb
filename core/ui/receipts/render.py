"""Verdicts, differences and receipts -> small pieces of HTML. Everything that came from a file is escaped here."""

import html
from collections.abc import Iterable

from ... import wording
from ...difference import Difference, InputDifference, Stretch
from ...types import SIDE_NAMES, SIDES, AnyReceipt, Divergence, Side, SideVerdict, Verdict
from ..markup import KIND, listed

_TONES = {"identical": "good", "diverged": "bad", "not replayable": "info"}


def summary(receipt: AnyReceipt) -> str:
    """What a receipt is of."""
    sampling, [engine, *_] = receipt.comparison.sampling, receipt.engines.values()
    asked = f"{len(receipt.prompt_ids):,} token ids" if receipt.prompt_ids else receipt.comparison.prompt
    facts = [
        ("Fingerprint", receipt.sha256[:16]),
        ("Prompt", _short(asked)),
        ("Pair", receipt.comparison.pair),
        ("Earlier turns", str(len(receipt.comparison.conversation.turns))),
        ("Seed, temperature", f"{sampling.seed}, {sampling.temperature:g}"),
        *((KIND[side], _wrote(receipt, side)) for side in receipt.sides),
        ("Machine", f"{engine.device}, {engine.dtype}, same-seed {receipt.app_version}"),
    ]
    return _facts(facts)


def _wrote(receipt: AnyReceipt, side: Side) -> str:
    found = receipt.side(side)
    return f"{found.checkpoint.name} (weights {found.weights_sha256[:8]}), {len(found.token_ids):,} tokens, {found.finish_reason}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "\u2026"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    return f"<dl class='facts'>{rows}</dl>"


def progress(text: str, fraction: float | None) -> str:
    share = "" if fraction is None else f" value='{fraction:.3f}'"
    return f"<p class='checking'><progress max='1'{share} aria-label='Replay'></progress> {html.escape(text)}</p>"


def verdict(found: Verdict) -> str:
    """The verdict, each side with its first differing step, and what differs about the machine."""
    sides = "".join(_side(side, judged) for side in SIDES if (judged := found.side(side)))
    return (
        f"<section class='verdict {_TONES[found.outcome]}' aria-label='Verdict'><h3>{html.escape(wording.headline(found))}</h3>"
        f"{listed(found.reasons)}<div class='verdict-sides'>{sides}</div>{_warnings(found.warnings)}</section>"
    )


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    return f"<details class='warnings'><summary>What differs about the machine ({len(warnings)})</summary>{listed(warnings)}</details>"


def _side(side: Side, judged: SideVerdict) -> str:
    sentences = wording.side_sentences(side, judged)
    body = f"<p>{html.escape(sentences[0])}</p>"
    if judged.divergence is not None:
        body += _divergence(judged.divergence) + f"<p>{html.escape(sentences[-1])}</p>"
    return f"<div class='verdict-side {side}'>{body}</div>"


def _divergence(found: Divergence) -> str:
    """Both tokens at the step where the runs diverge, with their logits and margins."""
    rows = "".join(
        f"<tr><th scope='row'>{name}</th><td><code>{html.escape(repr(choice.text) if choice.id is not None else choice.text)}</code></td>"
        f"<td>{'-' if choice.id is None else choice.id}</td><td>{_number(choice.logit)}</td><td>{_number(margin)}</td></tr>"
        for name, choice, margin in (
            ("Recorded", found.recorded, found.recorded_margin),
            ("Replayed", found.replayed, found.replayed_margin),
        )
    )
    head = "".join(
        f"<th scope='col'>{name}</th>" for name in (f"Token {found.step + 1:,}", "Text", "Id", "Logit", "Margin")
    )
    return f"<table class='divergence'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


# --- why did it change? ---------------------------------------------------------------------------------


def explanation(found: Difference) -> str:
    """The inputs that differ, the texts that were sent, and where the replies diverge."""
    tone = "bad" if found.unexplained else "good" if not found.inputs else "info"
    inputs = "".join(_input(change) for change in found.inputs)
    sent = "".join(
        f"<h4>Sent to the {SIDE_NAMES[side]} model</h4><pre tabindex='0'>{_marked(changes)}</pre>"
        for side, changes in found.sent.items()
    )
    divergences = listed(wording.divergence_sentence(each) for each in found.divergences)
    table = (
        f"<table class='changes'><thead><tr><th scope='col'>Input</th><th scope='col'>What changed</th></tr></thead><tbody>{inputs}</tbody></table>"
        if inputs
        else ""
    )
    return (
        f"<section class='verdict {tone}' aria-label='Why did it change'><h3>{html.escape(wording.explanation(found))}</h3>"
        f"{table}{divergences}{sent}</section>"
    )


def _input(change: InputDifference) -> str:
    if change.stretches:
        what = f"<span class='diff'>{_marked(change.stretches)}</span>"
    else:
        what = f"<del>{html.escape(change.first)}</del> <ins>{html.escape(change.second)}</ins>"
    return f"<tr><th scope='row'>{html.escape(change.name)}</th><td>{what}</td></tr>"


def _marked(changes: tuple[Stretch, ...]) -> str:
    tags = {"same": "{}", "removed": "<del>{}</del>", "added": "<ins>{}</ins>"}
    return "".join(tags[part.kind].format(html.escape(part.text)) for part in wording.shortened(changes))
