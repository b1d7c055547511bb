"""A loaded pair of tiny random models, as a lease: what everything above the engines works on."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from core.checkpoints.fingerprint import weights_sha256
from core.checkpoints.loading import Checkpoint
from core.checkpoints.tokenizers import stop_ids
from core.engine import Engine
from core.engine.engine import Shape
from core.errors import UserError
from core.lease import Lease
from core.local import LocalLease
from core.pairs import Pair
from core.pool import Pool, Progress
from core.settings import Settings
from core.steps import Steps, finish
from core.types import DEFAULT_SAMPLING, SIDES, CheckpointInfo, Comparison, Lens, LensContext, Result, Sampling, Side
from tests import tiny

PAIR = Pair(id="tiny", title="Tiny pair", base="tiny-base", post="tiny-chat")


def nowhere(comparison: Comparison, lease: LocalLease) -> Steps[None, Result]:
    raise UserError("a test starts none")
    yield


@contextmanager
def tiny_lease(
    dtype: torch.dtype = torch.float32,
    base_seed: int = 1,
    post_seed: int = 2,
    slots: int = 3,
    attention: str = "eager",
    **changes,
) -> Iterator[LocalLease]:
    """Two siblings with random weights: the base has no chat template, the post-trained one ends its turns."""
    checkpoints: list[Checkpoint] = []
    for name, seed, tokenizer in (
        (PAIR.base, base_seed, tiny.tokenizer(adds_bos=True)),
        (PAIR.post, post_seed, tiny.tokenizer(tiny.CHATML, eos=tiny.TURN_END, adds_bos=True)),
    ):
        model = tiny.model(seed=seed, attn_implementation="eager", **changes).to(dtype).requires_grad_(False)
        engine = Engine(model, tiny.VOCABULARY, Shape(slots=slots, chunk=16, sizes=(64, 256), threads=1), attention)
        info = CheckpointInfo(name=name, source="tiny", revision=None, parameters=0)
        checkpoints.append(
            Checkpoint(info, weights_sha256(model), tokenizer, stop_ids(tokenizer, model), model, engine)
        )
    try:
        yield LocalLease(PAIR, dict(zip(SIDES, checkpoints, strict=True)), lambda: None, nowhere)
    finally:
        for checkpoint in checkpoints:
            checkpoint.close()


def changed(lease: LocalLease, side: Side, **changes) -> LocalLease:
    """The lease with one of its models told otherwise."""
    return replace(lease, loaded={**lease.loaded, side: replace(lease.loaded[side], **changes)})


class OnePair:
    """What the page uses of a pool, over one loaded pair."""

    def __init__(self, lease: Lease):
        self.lease = lease
        self.pairs, self.default, self.settings = (PAIR,), PAIR, Settings()

    def open(self, id: str, tokens: int | None = None) -> Generator[Progress, None, Lease]:
        yield Progress("Loading")
        return self.lease

    def peek(self, id: str) -> Lease:
        return self.lease


def loaded(pool: Pool) -> list[str]:
    """Names of the models that a pool has in memory."""
    return sorted(entry.loading.result().info.name for entry in list(pool._entries.values()) if entry.ready)


def whole(
    lease: Lease, asked: Comparison, side: Side, reply_ids: Sequence[int], context: LensContext = "identical"
) -> Lens:
    """The whole lens at once."""
    return finish(lease.read(asked, side, reply_ids, context))


def comparison(prompt: str = "The quick brown fox", **changes) -> Comparison:
    settings = {name: changes.pop(name) for name in list(changes) if name in Sampling.model_fields}
    sampling = Sampling.model_validate({**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 40, **settings})
    return Comparison(**{"pair": PAIR.id, "prompt": prompt, "sampling": sampling, "today": "2026-11-24", **changes})
