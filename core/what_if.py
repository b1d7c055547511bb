"""What if: other comparisons that a finished one suggests, and what they say together.

A branch changes one token of a reply and lets both models go on, a handover lets each model go on from
the other's first tokens, a sweep turns the dial from one sibling to the other, and the grid tells the
part of the weights from the part of the template. Each of them is an ordinary comparison, so it has a
receipt and a link like any other. This file knows no tensors and no widgets.
"""

from collections.abc import Generator, Sequence
from itertools import product
from typing import Literal

from .difference import first_divergence
from .errors import UserError
from .lease import Lease
from .run import Run
from .types import SIDES, Comparison, Dial, FinishReason, Framing, Side, SideResult, Value, in_common

AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
GRID_FRAMINGS: tuple[Framing, Framing] = ("document", "chat")


# --- replies that begin otherwise ----------------------------------------------------------------------


def branch(comparison: Comparison, reply_ids: Sequence[int], step: int, token: int) -> Comparison:
    """Both models go on from a reply's first `step` tokens and `token` after them.

    Args:
        reply_ids: the whole reply, its prefilled beginning included.

    Raises:
        UserError: the reply has no such step.
    """
    if not 0 <= step < len(reply_ids):
        raise UserError(f"This reply has the tokens 1 to {len(reply_ids):,}; choose one of them.")
    if token < 0:
        raise UserError("A token has a number from 0 on; choose one of the candidates.")
    beginning = (*reply_ids[:step], token)
    return comparison.model_copy(update={"prefill_base": beginning, "prefill_post": beginning})


def handover(
    lease: Lease, comparison: Comparison, base_ids: Sequence[int], post_ids: Sequence[int], tokens: int
) -> Comparison:
    """Each model goes on from the first `tokens` tokens that the other one wrote, without the end of its turn.

    Args:
        base_ids: the base's whole reply, a prefilled beginning included.
        post_ids: the post-trained model's, likewise.

    Raises:
        UserError: the two models have different tokens.
    """
    lease.kin.need_same_ids("A handover")
    stops = lease.stop_ids("post")
    base, post = (tuple(id for id in ids[:tokens] if id not in stops) for ids in (base_ids, post_ids))
    return comparison.model_copy(update={"prefill_base": post, "prefill_post": base})


# --- the dial ------------------------------------------------------------------------------------------


class Point(Value):
    """One setting of the dial and what it wrote. `divergence` is the first step at which it differs from the base end, None where it does not."""

    amount: float
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    divergence: int | None


def sweep(
    lease: Lease,
    comparison: Comparison,
    space: Literal["logits", "weights"] = "logits",
    amounts: Sequence[float] = AMOUNTS,
) -> Generator[Point | None, None, None]:
    """The post-trained side's reply at every amount, from the smallest on; None several times a second in between.

    In the space of logits all of them are written at once; in the space of weights one after the other,
    because each takes a model of its own. Closing the generator stops them.

    Raises:
        UserError: one of them cannot be run.
    """
    asked: list[tuple[Comparison, Side]] = [
        (comparison.model_copy(update={"dial": Dial(amount=amount, space=space)}), "post") for amount in sorted(amounts)
    ]
    amount = iter(sorted(amounts))
    base_end: tuple[int, ...] | None = None
    for result in replies(lease, asked, at_once=space == "logits"):
        if result is None:
            yield None
            continue
        base_end = result.token_ids if base_end is None else base_end
        yield Point(
            amount=next(amount),
            divergence=first_divergence(base_end, result.token_ids),
            **in_common(result, Point) | {"text": result.whole},
        )


def replies(
    lease: Lease, asked: Sequence[tuple[Comparison, Side]], *, at_once: bool = True
) -> Generator[SideResult | None, None, None]:
    """One side of each comparison, in order, all at once or one after the other; None several times a second in between.

    Raises:
        UserError: one of them cannot be run, or failed.
    """
    runs: list[Run] = []
    try:
        if at_once:
            for comparison, side in asked:
                runs.append((yield from Run.begin(lease, comparison, sides=(side,))))
        for number, (comparison, side) in enumerate(asked):
            if not at_once:
                runs.append((yield from Run.begin(lease, comparison, sides=(side,))))
            for _ in runs[number].snapshots(lambda: 0.25):
                yield None
            yield runs[number].side_result(side)
    finally:
        for run in runs:
            run.stop()


# --- weights or template -----------------------------------------------------------------------------------


class GridCell(Value):
    """What one set of weights writes under one framing, and how likely it finds the assistant's reply there.

    `logprob` is the mean log-probability (nats per token) of the reply that the post-trained weights
    write under the chat template, teacher-forced by its token ids.
    """

    weights: Side
    framing: Framing
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float


class Grid(Value):
    """Both sets of weights under both framings, with the system prompt or without it.

    `by_weights` and `by_template` divide the gain from base weights on bare text to post-trained weights
    under the template, each as the mean over the two orders in which they can be put on (the Shapley
    value of two players, Shapley 1953); they add up to `total`. All in nats per token.
    """

    system: bool
    cells: tuple[GridCell, ...]

    def cell(self, weights: Side, framing: Framing) -> GridCell:
        return next(cell for cell in self.cells if (cell.weights, cell.framing) == (weights, framing))

    @property
    def total(self) -> float:
        return self.cell("post", "chat").logprob - self.cell("base", "document").logprob

    @property
    def by_weights(self) -> float:
        gains = (self.cell("post", framing).logprob - self.cell("base", framing).logprob for framing in GRID_FRAMINGS)
        return sum(gains) / 2

    @property
    def by_template(self) -> float:
        gains = (self.cell(side, "chat").logprob - self.cell(side, "document").logprob for side in SIDES)
        return sum(gains) / 2


def grids(lease: Lease, comparison: Comparison) -> Generator[Grid | None, None, None]:
    """The grid of a prompt without its system prompt and, where it has one, with it; None several times a second in between.

    Raises:
        UserError: one of the framings cannot be used, a side failed, or the two models have different tokens.
    """
    lease.kin.need_same_ids("The grid")
    plain = comparison.model_copy(update={"prefill_base": (), "prefill_post": (), "dial": None})
    bare = plain.model_copy(update={"conversation": plain.conversation.model_copy(update={"system": ""})})
    for asked in (bare, plain) if plain.conversation.system else (bare,):
        yield from _grid(lease, asked)


def _grid(lease: Lease, comparison: Comparison) -> Generator[Grid | None, None, None]:
    places = list(product(SIDES, GRID_FRAMINGS))
    framed = {
        framing: comparison.model_copy(update={"framing_base": framing, "framing_post": framing})
        for framing in GRID_FRAMINGS
    }
    found: list[SideResult] = []
    for result in replies(lease, [(framed[framing], side) for side, framing in places]):
        if result is None:
            yield None
        else:
            found.append(result)
    reference = found[places.index(("post", "chat"))].token_ids
    cells: list[GridCell] = []
    for (side, framing), result in zip(places, found, strict=True):
        scores = lease.logprobs(side, result.prompt_token_ids, reference)
        yield None
        cells.append(
            GridCell(
                weights=side,
                framing=framing,
                logprob=sum(scores) / len(scores),
                **in_common(result, GridCell),
            )
        )
    yield Grid(system=bool(comparison.conversation.system), cells=tuple(cells))
