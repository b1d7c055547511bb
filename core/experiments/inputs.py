"""Experiment "inputs": if it behaves differently, an input changed. One input at a time, and the control in which nothing changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..difference import first_divergence
from ..steps import Steps
from ..types import SIDE_NAMES, SIDES, Comparison, Framing, Result, Side, SideResult, Turn, named
from .lab import Lab, in_words, rounded, same_bits
from .values import Cell, Exhibit, Finding, Step, Table

PROMPT = "What is a good name for a cat?"
REPLY_TOKENS = 28
HISTORY = (Turn(prompt="I like the sea.", base=" I like the sea too.", post="The sea is beautiful!"),)
_OTHER_FRAMING: dict[Framing, Framing] = {"document": "transcript", "chat": "transcript", "transcript": "document"}


@dataclass(frozen=True)
class Variant:
    """A comparison in which one input differs from the first comparison."""

    changed: str
    to: str
    comparison: Comparison


@dataclass(frozen=True)
class Effect:
    """What a changed input did to a reply: where it diverges from the first comparison's, and by how much that decision had been won there."""

    step: int | None
    margin: float | None


def run(lab: Lab) -> Steps[Step, Finding]:
    start = lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS)
    variants, left_out = _possible(lab, _variants(lab, start))
    controls = [start] * 3
    results = yield from lab.ask(
        "One input at a time", [start, *(variant.comparison for variant in variants), *controls]
    )
    same_text = lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS, framing="document")
    (swapped,) = yield from lab.ask("The same tokens to both models: only the weights differ", [same_text])
    changed, control = results[1 : 1 + len(variants)], results[1 + len(variants) :]
    return _judge(results[0], variants, changed, control, swapped, left_out)


def _variants(lab: Lab, start: Comparison) -> list[Variant]:
    ask = lambda **changes: lab.comparison(PROMPT, **{"max_new_tokens": REPLY_TOKENS, **changes})  # noqa: E731
    framings: dict[str, Framing] = {f"framing_{side}": _OTHER_FRAMING[start.framing(side)] for side in SIDES}
    return [
        Variant("system prompt", "\u201cYou are a pirate.\u201d", ask(system="You are a pirate.")),
        Variant("temperature", "1.2", ask(temperature=1.2)),
        Variant("top-p", "0.3", ask(top_p=0.3)),
        Variant("seed", "99", ask(seed=99)),
        Variant("history", "one earlier turn", ask(turns=HISTORY)),
        Variant("framing", "transcript", start.model_copy(update=framings)),
    ]


def _possible(lab: Lab, variants: list[Variant]) -> tuple[list[Variant], list[str]]:
    """Those that this pair can be asked, and a sentence for each other (some chat templates refuse a system prompt)."""
    refused = {variant.changed: lab.why_not(variant.comparison) for variant in variants}
    left_out = [f"Changing the {changed} was left out: {why}" for changed, why in refused.items() if why]
    return [variant for variant in variants if not refused[variant.changed]], left_out


def compared(first: Result, other: Result, side: Side) -> Effect:
    """Compares one side of two results."""
    mine = first.side(side)
    return _effect(mine, first_divergence(mine.token_ids, other.side(side).token_ids))


def _effect(reply: SideResult, step: int | None) -> Effect:
    return Effect(step, reply.margins[step] if step is not None and step < len(reply.margins) else None)


def _judge(
    first: Result,
    variants: Sequence[Variant],
    changed: Sequence[Result],
    control: Sequence[Result],
    swapped: Result,
    left_out: Sequence[str],
) -> Finding:
    effects = [{side: compared(first, result, side) for side in SIDES} for result in changed]
    broken = [side for side in SIDES if not all(same_bits(first.side(side), again.side(side)) for again in control)]
    moved = {side: sum(row[side].step is not None for row in effects) for side in SIDES}
    weights_step = first_divergence(swapped.base.token_ids, swapped.post.token_ids)
    if broken:
        sentence = f"With nothing changed, the {named(broken)} reply was not the same every time. {first.post.engine.certification.capitalize()}."
    elif not all(moved.values()):
        still = [side for side in SIDES if not moved[side]]
        sentence = f"With nothing changed, nothing differed ({len(control)} of {len(control)} times). But the {named(still)} model gave the same reply whatever was changed, so this pair does not show the contrast."
    else:
        sentence = f"With nothing changed, nothing differed ({len(control)} of {len(control)} times, bit by bit). Changing one input changed the base reply in {moved['base']} of {len(variants)} cases and the post-trained reply in {moved['post']}."
    return Finding(
        outcome="not shown" if broken or not all(moved.values()) else "shown",
        sentence=sentence,
        details=(*left_out, _weights_detail(swapped, weights_step), *_untouched(variants, effects)),
        figures={
            "controls": len(control),
            "control_identical": not broken,
            "inputs_changed": len(variants),
            **{f"{side}_replies_changed": moved[side] for side in SIDES},
            "weights_alone_diverge_at_token": None if weights_step is None else weights_step + 1,
        },
        tables=(_table(first, variants, changed, control, swapped, weights_step),),
        exhibits=(
            Exhibit(label="The first comparison", result=first),
            *(
                Exhibit(label=f"Changed: {variant.changed} ({variant.to})", result=result)
                for variant, result in zip(variants, changed, strict=True)
            ),
            Exhibit(label="Only the weights differ: the same tokens to both", result=swapped),
        ),
    )


def _weights_detail(swapped: Result, step: int | None) -> str:
    if swapped.base.prompt_token_ids != swapped.post.prompt_token_ids:
        return "The two models cannot be sent the very same tokens here (their tokenizers begin a text differently), so the weights were not changed alone."
    if step is None:
        return "The two models were sent the very same tokens and gave the same reply: here the weights alone make no difference."
    return f"The two models were sent the very same tokens, with the same noise. Only the weights differ, and the replies diverge at token {step + 1}."


def _untouched(variants: Sequence[Variant], effects: Sequence[dict[Side, Effect]]) -> list[str]:
    """Says which change did not reach a reply, so that nobody takes an input for an effect."""
    kept = [
        f"{variant.changed} ({SIDE_NAMES[side]})"
        for variant, row in zip(variants, effects, strict=True)
        for side in SIDES
        if row[side].step is None
    ]
    return [f"A changed input need not change the reply; it did not for: {', '.join(kept)}."] if kept else []


def _table(
    first: Result,
    variants: Sequence[Variant],
    changed: Sequence[Result],
    control: Sequence[Result],
    swapped: Result,
    weights_step: int | None,
) -> Table:
    rows: list[dict[str, Cell]] = [{"Changed": "nothing (the first comparison)", "To": "", **_cells(first)}]
    rows += [{"Changed": "nothing (control)", "To": "", **_cells(again, first)} for again in control]
    rows += [
        {"Changed": variant.changed, "To": variant.to, **_cells(result, first)}
        for variant, result in zip(variants, changed, strict=True)
    ]
    if swapped.base.prompt_token_ids == swapped.post.prompt_token_ids:
        apart = {side: _effect(swapped.side(side), weights_step) for side in SIDES}
        rows.append({"Changed": "weights", "To": "the sibling's, sent the same tokens", **_cells(swapped, apart=apart)})
    title = "What was changed, and where the reply first diverges from the first comparison's (for the weights: from its sibling's)"
    return Table.of(title, rows, dict)


def _cells(result: Result, first: Result | None = None, apart: Mapping[Side, Effect] | None = None) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for side in SIDES:
        effect = apart[side] if apart else compared(first, result, side) if first else None
        where = None if effect is None else "never" if effect.step is None else effect.step + 1
        name = SIDE_NAMES[side].capitalize()
        cells |= {
            f"{name} reply": in_words(result.side(side)),
            f"{name} diverges at token": where,
            f"{name} margin there": rounded(effect.margin) if effect else None,
        }
    return cells
