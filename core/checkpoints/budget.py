"""One budget of memory for a pair: the lanes and slots that both of its models get, from numbers alone.

What a model takes is measured elsewhere (memory.py); nothing here asks a device for anything, so what a card would grant can be
computed where there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


class Footprint(NamedTuple):
    """What a model takes: bytes of its weights and of the tables beside them, of its caches, and of experts that a decode pass copies for each slot."""

    weights: int
    cache: CacheBytes
    copied: int = 0


@dataclass(frozen=True)
class Need:
    """What one model needs where it is placed."""

    footprint: Footprint
    context: int  # the most tokens that it can use
    vocabulary: int
    placement: Placement

    def bytes(self, shape: Shape) -> int:
        """With an engine of this shape, and what the token lens reads of it."""
        rows = shape.slots + 1  # and the prompt that is read, in each lane; a reply that is scored
        positions = sum(shape.sizes) * rows + shape.sizes[-1]
        caches = self.footprint.cache.of(positions, len(shape.sizes) * rows + 1)
        scored = grain_of(self.placement.device, shape.chunk)
        logits = self.vocabulary * scored * (4 * _LOGITS_AT_ONCE + self.placement.dtype.itemsize)
        kept = STORE_BYTES + self.graphs(shape) + self.footprint.copied * shape.slots
        return self.footprint.weights + caches + logits + kept

    def graphs(self, shape: Shape) -> int:
        """What the graphs of its steps keep: nothing on a processor."""
        return 0 if self.placement.device.type == "cpu" else shape.slots * self.vocabulary * _DRAWN * 8

    def bytes_of_a_mix(self, shape: Shape) -> int:
        """A third model of the same size, with the longest lane for itself, for the dial in the space of weights."""
        rows = shape.slots + 2
        return self.footprint.weights + self.footprint.cache.of(shape.sizes[-1] * rows, rows) + self.graphs(shape)


class Plan(NamedTuple):
    """What a pair gets, and whether a mix of its weights fits beside it."""

    shape: Shape
    mix: bool


def plan(
    models: Sequence[Need], free: Mapping[torch.device, int], settings: Settings, like: Shape | None = None
) -> Plan:
    """Slots, chunk and lane lengths that fit all of these models.

    The longest context of at least `LONG_ENOUGH` tokens that leaves room for a mix of the weights; else the longest without. Where none is so long, a
    GPU has half of the slots, then a quarter, and only then a shorter context.

    Args:
        models: those of a pair that are still to be loaded; the last one is the one that a mix is beside.
        free: bytes, by device.
        like: the shape of a sibling that is loaded already; the same one is tried first, and none larger.

    Raises:
        NotEnoughMemory: not even the shortest context fits; says how much is needed and how much is there.
    """
    for shape, with_mix in _candidates(models, settings, like):
        needed = _needed(models, shape, with_mix)
        if all(needed[device] <= free[device] for device in needed):
            mixed = _needed(models, shape, with_mix=True)
            return Plan(shape, all(mixed[device] <= free[device] for device in mixed))
    device = max(needed, key=lambda device: needed[device] - free[device])
    whose = "These weights need" if len(models) == 1 else "The weights of this pair need"
    raise NotEnoughMemory(
        f"{whose} about {needed[device] / 2**30:.1f} GB with their caches, and {free[device] / 2**30:.1f} GB is free; choose a smaller pair, fewer --slots or a shorter --context."
    )


def _needed(models: Sequence[Need], shape: Shape, with_mix: bool) -> dict[torch.device, int]:
    needed: dict[torch.device, int] = {}
    for model in models:
        device = model.placement.device
        needed[device] = needed.get(device, SPARE_BYTES) + model.bytes(shape)
    if with_mix:
        needed[models[-1].placement.device] += models[-1].bytes_of_a_mix(shape)
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
