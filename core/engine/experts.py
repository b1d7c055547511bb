"""Mixtures of experts: how a pass computes them, and which of them each token goes to.

Transformers calls every layer's experts alike, with the hidden states of all tokens and, for each token, the experts that its
router chose; here that call is watched. In a narrow dtype two experts can be so close that rounding chooses between them, and
from there on two passes that are both right differ by what a whole expert says. Given the same routing they can be compared as
passes of any other model are. This file knows modules and positions, not lanes.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

ROW_BY_ROW = "row_by_row"


class Route(NamedTuple):
    """Of one layer, [tokens, experts of a token] each: the experts, int64, and the weights that their outputs are added with."""

    experts: torch.Tensor
    weights: torch.Tensor


def _row_by_row(
    module: torch.nn.Module, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """What the library's grouped products give when each token is alone; [tokens, hidden size] from [tokens, hidden size], and [tokens, experts of a token] twice."""
    grouped = ALL_EXPERTS_FUNCTIONS["grouped_mm"]
    alone = [slice(row, row + 1) for row in range(len(hidden))]
    return torch.cat([grouped(module, hidden[row], chosen[row], weights[row]) for row in alone])


ALL_EXPERTS_FUNCTIONS.register(ROW_BY_ROW, _row_by_row)


def without_neighbours(model: PreTrainedModel) -> str | None:
    """The implementation in which the shape of no product depends on where other tokens go; None for a model that has no choice.

    On a processor one token after the other. A GPU would wait for so many small products, so there it is the library's `batched_mm`, which copies the
    weights of a token's experts for each token; on a processor that took many times as long as all the rest.
    """
    if not modules_of(model):
        return None
    return ROW_BY_ROW if model.device.type == "cpu" else "batched_mm"


def modules_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The experts of each layer, where the library can compute them in several ways."""
    return [module for module in model.modules() if hasattr(module, "has_gate") and hasattr(module, "is_transposed")]


@contextmanager
def computed_by(model: PreTrainedModel, implementation: str | None) -> Iterator[None]:
    """Inside, experts are computed by this implementation of the library's; None, or a model without any, changes nothing."""
    before = model.config._experts_implementation
    if implementation is None or before in (None, implementation):
        yield
        return
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


@contextmanager
def taken_down(model: PreTrainedModel) -> Iterator[list[Route]]:
    """Inside, passes are watched: the list gets the route of each layer in turn, pass by pass."""
    routes: list[Route] = []

    def before(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        routes.append(Route(given[1].clone(), given[2].clone()))

    with ExitStack() as hooks:
        for module in modules_of(model):
            hooks.enter_context(module.register_forward_pre_hook(before))
        yield routes


@contextmanager
def sent_along(model: PreTrainedModel, routes: Sequence[Route], start: int = 0) -> Iterator[None]:
    """Inside, a token goes where `routes` say that its position does, whatever its router chooses; without routes it is left to that.

    Args:
        routes: of one prompt, layer by layer; the first row of each is of the token at position `start`. Positions before and behind
            (padding, slots with nobody in them) go where the nearest one does.
    """
    places: list[torch.Tensor] = []

    def at(model: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        positions = named.get("position_ids")
        places[:] = [(torch.arange(named["input_ids"].shape[1]) if positions is None else positions).flatten()]

    with ExitStack() as hooks:
        if routes:
            hooks.enter_context(model.register_forward_pre_hook(at, with_kwargs=True))
        for module, route in zip(modules_of(model) if routes else (), routes, strict=True):

            def instead(module: torch.nn.Module, given: tuple[Any, ...], route: Route = route) -> tuple[Any, ...]:
                rows = (places[0].to(route.experts.device) - start).clamp(0, len(route.experts) - 1)
                return (given[0], route.experts[rows], route.weights[rows].to(given[2].dtype))

            hooks.enter_context(module.register_forward_pre_hook(instead))
        yield
