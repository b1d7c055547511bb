"""One budget of memory for a pair: the lanes and slots that both of its models get, from numbers alone.

What a model takes is measured elsewhere (memory.py); nothing here asks a device for anything, so what a card would grant can be
computed where there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch

from ..engine.device import Placement
from ..engine.engine import STORE_BYTES, Shape, lane_sizes
from ..engine.lane import GRAIN, grain_of
from ..engine.slots import CacheBytes
from ..errors import NotEnoughMemory
from ..settings import Settings, usable_cores

SPARE_BYTES = 2**29  # left free on each device: scores of a chunk, the draw, what an allocator cannot use
LONG_ENOUGH = 4096  # tokens of context that are worth more than slots, or than room for a mix of the weights
SHORTEST = 1024  # tokens of context below which nothing is served
_DRAWN = 8  # float64 numbers of each word in each slot, which the graphs of an engine on a GPU keep for its draws
_LOGITS_AT_ONCE = 3  # parts of each model's, float32, while the token lens reads


class OneLayer(NamedTuple):
    """The name of a layer's module, and what of a model's bytes is in it."""

    name: str
    weights: int
    cache: CacheBytes


class Footprint(NamedTuple):
    """What a model takes: bytes of its weights and of the tables beside them, of its caches, and of experts that a decode pass copies for each slot."""

    weights: int
    cache: CacheBytes
    copied: int = 0
    layers: tuple[OneLayer, ...] = ()  # where they may lie apart
    rest: tuple[str, ...] = ()  # then, the names of the modules that are in none


@dataclass(frozen=True)
class Need:
    """What one model needs where it is placed."""

    footprint: Footprint
    context: int  # the most tokens that it can use
    vocabulary: int
    placement: Placement

    def bytes(self, shape: Shape) -> int:
        """With an engine of this shape, and what the token lens reads of it."""
        caches = self.footprint.cache.of(*_cached(shape))
        scored = grain_of(self.placement.device, shape.chunk)
        logits = self.vocabulary * scored * (4 * _LOGITS_AT_ONCE + self.placement.dtype.itemsize)
        kept = STORE_BYTES + self.graphs(shape) + self.footprint.copied * shape.slots
        return self.footprint.weights + caches + logits + kept

    def laid_out(
        self, shape: Shape, free: Mapping[torch.device, int]
    ) -> tuple[dict[str, torch.device], dict[torch.device, int]]:
        """Where each module goes, as `device_map` of transformers has it, and how many bytes of all that are on each device.

        Where it is spread, each card in turn gets as many whole layers as is its share of what is free, and the first one all else.
        """
        if not shape.spread or not self.footprint.layers:
            return {"": self.placement.read_on}, {self.placement.device: self.bytes(shape)}
        cards, layers = self.placement.cards, self.footprint.layers
        sizes = [layer.weights + layer.cache.of(*_cached(shape)) for layer in layers]
        taken = dict.fromkeys(cards, STORE_BYTES + self.footprint.copied * shape.slots)
        taken[cards[0]] = self.bytes(shape) - sum(sizes)
        ends = list(accumulate(max(0, free[card] - taken[card]) for card in cards))
        where = dict.fromkeys(self.footprint.rest, cards[0])
        for layer, size, end in zip(layers, sizes, accumulate(sizes), strict=True):
            middle = (end - size / 2) / sum(sizes) * ends[-1]
            where[layer.name] = card = next(each for each, its in zip(cards, ends, strict=True) if middle <= its)
            taken[card] += size
        return where, taken

    def graphs(self, shape: Shape) -> int:
        """What the graphs of its steps keep: nothing on a processor."""
        return 0 if self.placement.device.type == "cpu" else shape.slots * self.vocabulary * _DRAWN * 8

    def bytes_of_a_mix(self, shape: Shape) -> int:
        """A third model of the same size, with the longest lane for itself, for the dial in the space of weights."""
        rows = shape.slots + 2
        return self.footprint.weights + self.footprint.cache.of(shape.sizes[-1] * rows, rows) + self.graphs(shape)


def _cached(shape: Shape) -> tuple[int, int]:
    """Positions and rows of all caches."""
    rows = shape.slots + 1  # and the prompt that is read, in each lane; a reply that is scored
    return sum(shape.sizes) * rows + shape.sizes[-1], len(shape.sizes) * rows + 1


class Plan(NamedTuple):
    """What a pair gets, and whether a mix of its weights fits beside it."""

    shape: Shape
    mix: bool


def must_spread(models: Sequence[Need], empty: Mapping[torch.device, int], settings: Settings) -> bool:
    """Whether there are several cards, and these models do not fit on one each, though nothing else were there."""
    if not all(model.placement.cards for model in models):
        return False
    try:
        return not plan(models, empty, settings)
    except NotEnoughMemory:
        return True


def plan(
    models: Sequence[Need],
    free: Mapping[torch.device, int],
    settings: Settings,
    like: Shape | None = None,
    spread: bool = False,
) -> Plan:
    """Slots, chunk and lane lengths that fit all of these models.

    The longest context of at least `LONG_ENOUGH` tokens that leaves room for a mix of the weights; else the longest without. Where none is so long, a
    GPU has half of the slots, then a quarter, and only then a shorter context.

    Args:
        models: those of a pair that are still to be loaded; the last one is the one that a mix is beside.
        free: bytes, by device.
        like: the shape of a sibling that is loaded already; the same one is tried first, and none larger.
        spread: each of them over all cards.

    Raises:
        NotEnoughMemory: not even the shortest context fits; says how much is needed and how much is there.
    """
    for each, with_mix in _candidates(models, settings, like):
        shape = replace(each, spread=spread)
        needed = _needed(models, free, shape, with_mix)
        if all(needed[device] <= free[device] for device in needed):
            mixed = _needed(models, free, shape, with_mix=True)
            return Plan(shape, all(mixed[device] <= free[device] for device in mixed))
    short = list(needed) if spread else [max(needed, key=lambda device: needed[device] - free[device])]
    need, there = (sum(sizes[device] for device in short) / 2**30 for sizes in (needed, free))
    whose = "These weights need" if len(models) == 1 else "The weights of this pair need"
    raise NotEnoughMemory(
        f"{whose} about {need:.1f} GB with their caches, and {there:.1f} GB is free; choose a smaller pair, fewer --slots or a shorter --context."
    )


def _needed(
    models: Sequence[Need], free: Mapping[torch.device, int], shape: Shape, with_mix: bool
) -> dict[torch.device, int]:
    needed: dict[torch.device, int] = {}
    for model in models:
        left = {device: size - needed.get(device, SPARE_BYTES) for device, size in free.items()}
        _, taken = model.laid_out(shape, left)
        for device, size in taken.items():
            needed[device] = needed.get(device, SPARE_BYTES) + size
    for device, size in taken.items() if with_mix else ():  # it is as its parent is
        needed[device] += models[-1].bytes_of_a_mix(shape) * size // sum(taken.values())
    return needed


def _candidates(models: Sequence[Need], settings: Settings, like: Shape | None) -> Iterator[tuple[Shape, bool]]:
    """Shapes with and without room for a mix, the best first."""
    gpu = models[0].placement.device.type != "cpu"
    threads = settings.threads or max(1, usable_cores() // 2)
    slots = settings.slots or (16 if gpu else 4)
    fewer = [slots, slots // 2, slots // 4] if gpu and not settings.slots else [slots]
    context = min(*(model.context for model in models), settings.context or (16384 if gpu else 4096))
    if like is not None:
        fewer, context = [like.slots], min(context, like.sizes[-1])
    chunk = like.chunk if like is not None else _chunk(context, models[0].placement)
    contexts = [context]
    while contexts[-1] > SHORTEST:
        contexts.append(contexts[-1] // 2)
    long = [each for each in contexts if each >= LONG_ENOUGH] or contexts[:1]

    def shape(slots: int, context: int) -> Shape:
        return Shape(slots, chunk, lane_sizes(context, chunk), threads)

    if like is None:
        yield from ((shape(slots, each), True) for each in long)
    yield from ((shape(some, each), False) for some in fewer for each in long)
    yield from ((shape(some, each), False) for each in contexts if each not in long for some in fewer)


def _chunk(context: int, placement: Placement) -> int:
    """A longer one is read faster, token by token. On a processor none may cost some of the context, and what portable arithmetic writes is kept by chunks, too."""
    if placement.device.type != "cpu":
        return 256
    if placement.portable:
        return GRAIN
    return next(chunk for chunk in (4 * GRAIN, 2 * GRAIN, GRAIN) if chunk == GRAIN or context % chunk == 0)
