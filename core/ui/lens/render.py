"""What-ifs -> HTML. Everything that a person or a model wrote is escaped here, on the server."""

import html
from collections.abc import Mapping, Sequence

from ...prompts import Prompt
from ...types import SIDES, Dial, Reply, Side, Snapshot
from ...what_if import GRID_FRAMINGS, Grid, Point
from .. import markup
from ..markup import ENDED, FRAMING, KIND

SOON = "<p class='muted'>Both models are at work; what they give appears here, one after the other.</p>"
NOTHING = "<p class='muted'>What you try appears here. A branch, a handover or a turn of the dial is a comparison of its own: once it is here, Open in Compare gives it a receipt and a link. The sweep and the grid are several at once, and stay here.</p>"


def replies(title: str, dial: Dial | None, sent: Mapping[Side, Prompt], snapshot: Snapshot) -> str:
    """Both replies, what they were given to begin with told from what was written after it."""
    sides = "".join(_reply(side, None if side == "base" else dial, sent[side], snapshot.reply(side)) for side in SIDES)
    return f"<h2>{html.escape(title)}</h2><div class='what-if-pair'>{sides}</div>"


def _reply(side: Side, dial: Dial | None, prompt: Prompt, reply: Reply) -> str:
    given = "".join(piece.text for piece in prompt.pieces if piece.origin == "prefill")
    begun = markup.given(html.escape(given)) if given else ""
    kind = KIND[side] if dial is None else f"Dial at {dial.amount:g}, {dial.space}"
    state = ENDED[reply.finish_reason] if reply.finish_reason else "Writing" if reply.token_ids else "Waiting"
    count = f"{state}, {len(reply.token_ids)} tokens" + (f" after {prompt.prefilled} given" if given else "")
    return (
        f"<section class='what-if {side}' aria-label='{kind}'><header><span class='dot' aria-hidden='true'></span><b>{kind}</b><span>{count}</span></header>"
        f"<pre tabindex='0'>{begun}{html.escape(reply.written[len(given) :])}</pre></section>"
    )


def sweep(points: Sequence[Point], space: str) -> str:
    """One row for each setting, what it shares with the base end dimmed."""
    rows = "".join(_point(point, points[0]) for point in points)
    return (
        f"<table class='sweep'><caption>The post-trained side with the dial from base to beyond, in the space of {space}</caption>"
        f"<thead><tr><th scope='col'>Dial</th><th scope='col'>Leaves the base at</th><th scope='col'>Reply</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _point(point: Point, base: Point) -> str:
    same = _common(point.text, base.text)
    where = f"token {point.divergence + 1}" if point.divergence is not None else "never"
    named = {0.0: " (base)", 1.0: " (post-trained)"}.get(point.amount, "")
    text = f"<span class='old'>{html.escape(point.text[:same])}</span>{html.escape(point.text[same:])}"
    return f"<tr><th scope='row'>{point.amount:g}{named}</th><td>{where}</td><td class='text'>{text}</td></tr>"


def _common(first: str, second: str) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def grids(found: Sequence[Grid]) -> str:
    """Two by two: weights down, framing across; and to which of them the gain belongs."""
    return "".join(_grid(grid) for grid in found)


def _grid(grid: Grid) -> str:
    title = "With the system prompt" if grid.system else "Without a system prompt"
    heads = "".join(f"<th scope='col'>{FRAMING[framing]}</th>" for framing in GRID_FRAMINGS)
    rows = "".join(
        f"<tr><th scope='row'>{KIND[side]} weights</th>{''.join(_cell(grid, side, framing) for framing in GRID_FRAMINGS)}</tr>"
        for side in SIDES
    )
    said = (
        f"From base weights on bare text to post-trained weights under the template, the assistant's reply gains {grid.total:+.2f} nats per token: "
        f"{grid.by_weights:+.2f} by the weights, {grid.by_template:+.2f} by the template."
    )
    return f"<table class='grid'><caption>{title}</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table><p>{said}</p>"


def _cell(grid: Grid, side: Side, framing: str) -> str:
    cell = next(cell for cell in grid.cells if (cell.weights, cell.framing) == (side, framing))
    facts = f"{ENDED[cell.finish_reason]}, {len(cell.token_ids)} tokens; the assistant's reply: {cell.logprob:.2f} nats per token"
    return f"<td class='text'><pre tabindex='0'>{html.escape(cell.text)}</pre><small>{facts}</small></td>"
