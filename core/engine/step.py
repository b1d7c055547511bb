"""One forward pass as a function of tensors, recorded once so that Python does not run for every operation.

A decode step of a small model is some hundred tiny operations, and calling them from Python takes
longer than computing them; with two engines in one process they would also wait for each other's
interpreter lock. torch's tracer records the operations of one call, and replaying them gives the
same bits. That is checked, not assumed: a recording that differs from the model anywhere is thrown
away, and the model itself is called instead.
"""

import inspect
import logging
import random
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from ..errors import UserError
from . import experts, portable
from .portable import GivenUp, Portable
from .slots import Masks, SlotCache

log = logging.getLogger(__name__)

StepFunction = Callable[
    ..., torch.Tensor
]  # (ids, positions, *tensors of a cache) -> logits [rows, queries, vocabulary]

_tracing = threading.Lock()  # one at a time: the tracer, and what goes before it, have state of their own


def forward_pass(
    model: PreTrainedModel | Portable, masks: Masks, cache: SlotCache, ids: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Logits [rows, queries, vocabulary] of one pass of `ids`, int64 [rows, queries], at the positions of `cache`, which it writes into."""
    logits: torch.Tensor = model(
        input_ids=ids,
        position_ids=cache.positions,
        attention_mask=masks.at(cache.positions, cache.length),
        use_cache=True,
        **{cache_argument(model): cache},
        **options,
    ).logits
    return logits


def cache_argument(model: PreTrainedModel | Portable) -> str:
    """What a model calls the cache that it is given: those without attention have a name of their own for it."""
    return "cache_params" if "cache_params" in inspect.signature(model.forward).parameters else "past_key_values"


class Forward(torch.nn.Module):
    """The model's forward pass over the tensors of a cache like `pattern`, written in place; `by` is how its experts are computed."""

    def __init__(self, model: PreTrainedModel | Portable, masks: Masks, pattern: SlotCache, by: str | None = None):
        super().__init__()
        self.model, self.masks, self.pattern, self.by = model, masks, pattern, by

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        """Logits [rows, queries, vocabulary] for `ids` and `positions`, both int64 [rows, queries]."""
        cache = self.pattern.over(tensors, positions)
        if isinstance(self.model, Portable):
            return forward_pass(self.model, self.masks, cache, ids)
        with experts.computed_by(self.model, self.by):
            return forward_pass(self.model, self.masks, cache, ids)


def record(forward: Forward, cache: SlotCache, vocabulary: int) -> StepFunction:
    """A replayable recording of `forward` over this cache's shapes, or `forward` itself where recording changes a bit.

    Call it, and what it returns, under `torch.jit.optimized_execution(False)`: no operation is fused.
    """
    rows = cache.positions.shape[0]
    zeros = torch.zeros_like(cache.positions)
    with _tracing, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation of torch.jit, and reminders of what is checked below
        try:
            examples = (zeros, zeros, *cache.tensors())
            program = portable.program(forward, examples) if isinstance(forward.model, Portable) else forward
            recorded = _trace(program, examples)
        except (UserError, GivenUp):
            raise
        except Exception:
            log.warning("this model cannot be recorded; every step calls it from Python", exc_info=True)
            return forward
    draw = random.Random(rows)
    for _ in range(3):
        ids = torch.tensor([[draw.randrange(vocabulary)] for _ in range(rows)], device=zeros.device)
        positions = torch.tensor([[draw.randrange(cache.length)] for _ in range(rows)], device=zeros.device)
        before = [state.clone() for state in cache.states()]  # the second pass must begin where the first did
        expected = [forward(ids, positions, *cache.tensors()).clone(), *(state.clone() for state in cache.states())]
        for state, was in zip(cache.states(), before, strict=True):
            state.copy_(was)
        replayed = [recorded(ids, positions, *cache.tensors()), *cache.states()]
        if not all(map(torch.equal, expected, replayed)):
            log.warning("a recorded step differs from the model; every step calls it from Python")
            return forward
    return recorded


def _trace(program: Callable[..., torch.Tensor], examples: tuple[torch.Tensor, ...]) -> StepFunction:
    """The operations of one call, with the weights as constants that are not copied.

    `torch.jit.trace` would do the same and keep it for as long as the process runs: a class for every module, and all of
    their weights. This recording belongs to nobody but who holds it, at the price of a name that is torch's own.
    """

    def call(*given: torch.Tensor) -> torch.Tensor:
        with _FixedShapes():
            return program(*given)

    graph, _ = torch._C._create_graph_by_tracing(call, examples, lambda tensor: "", True, False)
    recorded: StepFunction = torch._C.CompilationUnit().create_function("step", graph)
    return recorded


class _FixedShapes(TorchFunctionMode):
    """Inside, shapes are numbers, as they are the same whenever a recording is replayed.

    The tracer has them as tensors, and records what is computed of them. That would be in torch's default dtype at each
    replay, which any thread that loads a model sets for the whole process.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _SHAPES:
            return torch.Size(map(int, found)) if isinstance(found, tuple) else int(found)
        return found


_SHAPES = (torch.Tensor.shape.__get__, torch.Tensor.size, torch.Tensor.numel, torch.Tensor.__len__)  # type: ignore[attr-defined]


class AttentionKernels(TorchFunctionMode):
    """Inside, `names` gets the kernels that torch chooses for sdpa: it goes by shapes, masks, the device and its software."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            chosen = SDPBackend(torch._fused_sdp_choice(*args, **(kwargs or {})))
            self.names.add(chosen.name.removesuffix("_ATTENTION").lower())
        return func(*args, **(kwargs or {}))


class DecodeStep:
    """A decode step over the first `length` positions of a cache, before and after it is recorded; the bits are the same.

    Args:
        cache: of the shape that it is for.
        vocabulary: its recording is tried with ids below this.
        by: as in `Forward`.
    """

    def __init__(
        self,
        model: PreTrainedModel | Portable,
        masks: Masks,
        cache: SlotCache,
        length: int,
        vocabulary: int,
        by: str | None = None,
    ):
        self.length, self.asked, self.recorded = length, False, False
        self._cache, self._vocabulary = cache, vocabulary
        self._plain = Forward(model, masks, cache, by)
        self._run: StepFunction = self._plain

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: SlotCache, plain: bool = False
    ) -> torch.Tensor:
        """Logits [rows, 1, vocabulary]; `ids` and `positions` are int64 [rows, 1], and `cache` is written into. `plain` goes without the recording."""
        return (self._plain if plain else self._run)(ids, positions, *cache.upto(self.length))

    def record(self) -> None:
        """Record it over its own cache, which it leaves dirty."""
        self.asked = True
        self._record(self._plain, self._cache)

    def record_beside(self, given_up: Callable[[], bool]) -> None:
        """Record a step of portable arithmetic on a thread of one's own; others are served meanwhile, with the same bits.

        Nothing that they use is touched: caches are copied, and the mode is another one.
        """
        model = self._plain.model
        assert isinstance(model, Portable)
        cache = self._cache.over(self._cache.upto(self.length), self._cache.positions).blank()
        with suppress(GivenUp):
            self._record(Forward(model.beside(given_up), self._plain.masks, cache), cache)

    def _record(self, forward: Forward, cache: SlotCache) -> None:
        recorded = record(forward, cache, self._vocabulary)
        if recorded is not forward:
            self._run, self.recorded = recorded, True


class Recorder:
    """Records one after the other, on a thread that begins with the first."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[DecodeStep | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, it: DecodeStep) -> None:
        """Have it recorded, unless it is, or was asked for."""
        if it.asked or it.recorded:
            return
        it.asked = True
        self._asked.put(it)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Give up what is under way; returns when it has ended."""
        self._closed = True
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)  # of this thread alone
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            while (it := self._asked.get()) is not None and not self._closed:
                try:
                    it.record_beside(lambda: self._closed)
                except Exception:  # it goes on as it is
                    log.exception("it could not be recorded")
