"""A step as a function of tensors, recorded once so that Python does not run for every operation.

A decode step of a small model is some hundred tiny operations, and calling them from Python takes
longer than computing them; with two engines in one process they would also wait for each other's
interpreter lock. torch's tracer records the operations of one call, on a GPU a CUDA graph their kernels, and replaying
them gives the same bits. That is checked, not assumed: a recording that differs from what was recorded anywhere is thrown
away, and that is called instead.
"""

import inspect
import logging
import random
import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from itertools import count, islice
from queue import SimpleQueue
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from ..errors import UserError
from . import experts, packed, portable
from .portable import GivenUp, Portable
from .slots import Masks, SlotCache

log = logging.getLogger(__name__)

Tensors = Sequence[torch.Tensor]
StepFunction = Callable[..., Any]  # of what is given and what is held, tensors all of them; to a tensor, or several
Recording = Callable[[StepFunction, Tensors, Tensors], StepFunction]
Another = Callable[
    [random.Random], Tensors
]  # what a step might be given, which differs each time, in shapes that are always the same

_recording = threading.Lock()  # one at a time: the recorders, and what goes before them, have state of their own


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


def record(
    step: StepFunction,
    recorder: Recording,
    another: Another,
    held: Tensors,
    changed: Tensors,
) -> StepFunction:
    """A replayable recording of `step`, or `step` itself where recording changes a bit.

    Args:
        recorder: makes it, of the step, what it might be given, and what is held.
        another: what it might be given.
        held: what it has besides, and may write into; it is left dirty.
        changed: what of that a step goes on from, and says so by what it leaves there.

    Call it, and what it returns, inside `replaying`.
    """
    draw = random.Random(len(changed))
    with _recording, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation of torch.jit, and reminders of what is checked below
        try:
            recorded = recorder(step, another(draw), held)
        except (UserError, GivenUp):
            raise
        except Exception:
            log.warning("this model cannot be recorded; every step calls it from Python", exc_info=True)
            return step
    if all(_agrees(step, recorded, another(draw), held, changed) for _ in range(3)):
        return recorded
    log.warning("a recorded step differs from the model; every step calls it from Python")
    return step


def _agrees(step: StepFunction, recorded: StepFunction, given: Tensors, held: Tensors, changed: Tensors) -> bool:
    before = _copies(changed)  # the second pass must begin where the first did
    expected = _copies([*_each(step(*given, *held)), *changed])
    for mine, was in zip(changed, before, strict=True):
        mine.copy_(was)
    try:
        replayed = recorded(*given, *held)
    except RuntimeError:  # it is of other shapes than it is meant for
        return False
    return all(map(torch.equal, expected, [*_each(replayed), *changed]))


def _each(result: Any) -> Tensors:
    return result if isinstance(result, tuple) else (result,)


def _copies(tensors: Tensors) -> Tensors:
    return [tensor.clone() for tensor in tensors]


def replaying(device: torch.device) -> AbstractContextManager[Any]:
    """Where steps run: no operation is fused."""
    if device.type == "cuda":
        return nullcontext()
    unfused: AbstractContextManager[Any] = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return unfused


class Graph:
    """A recording for CUDA: the kernels of one call on the memory that they had then, started all at once.

    Args:
        pool: of memory, which graphs share that are replayed one after the other, each when the results of the one before were copied.
    """

    def __init__(self, step: StepFunction, given: Tensors, held: Tensors, pool: Any = None):
        self._given, self._graph = _copies(given), torch.cuda.CUDAGraph()
        step(*self._given, *held)  # what a library allocates or chooses at its first call
        with torch.cuda.graph(
            self._graph, pool=pool, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            self._result = step(*self._given, *held)

    def __call__(self, *tensors: torch.Tensor) -> Any:
        """What `step` would return for what is given; what is held is what it was. The next call writes over it."""
        for mine, new in zip(self._given, tensors, strict=False):
            mine.copy_(new)
        self._graph.replay()
        return self._result


class Graphs:
    """Steps on a GPU, by their shapes: each is recorded when it is first needed.

    Args:
        pool: as in `Graph`.
    """

    def __init__(self, pool: Any):
        self._pool = pool
        self._steps: dict[Hashable, StepFunction] = {}

    def of(
        self, shape: Hashable, step: StepFunction, another: Another, held: Tensors, changed: Tensors
    ) -> StepFunction:
        """`step` of this shape as a graph, or as it is where that changes a bit.

        The others as in `record`, but that others use what is held: what `another` has written there is written anew before it is looked at.
        """
        if shape not in self._steps:
            self._steps[shape] = self._record(step, another, held, changed)
        return self._steps[shape]

    @property
    def recorded(self) -> bool:
        """Whether all of them are graphs."""
        return all(isinstance(step, Graph) for step in self._steps.values())

    def _record(self, step: StepFunction, another: Another, held: Tensors, changed: Tensors) -> StepFunction:
        before = _copies(changed)
        try:
            return record(step, partial(Graph, pool=self._pool), another, held, changed)
        finally:
            for mine, was in zip(changed, before, strict=True):
                mine.copy_(was)


def _traced(step: StepFunction, given: Tensors, held: Tensors) -> StepFunction:
    """A recording for a processor, of tensors like these."""
    assert isinstance(step, Forward)
    examples = (*given, *held)
    if isinstance(step.model, Portable):
        return _trace(portable.program(step, examples), examples)
    return _with_packed_weights(step, examples)


def _traced_for_any(step: StepFunction, given: Tensors, held: Tensors) -> StepFunction:
    """The same of any number of rows and positions, of which only multiples and parts are taken: where a model counts them in Python, it is another."""
    assert isinstance(step, Forward)
    rows, length = _numbers_apart(step.model, held)
    cache = step.pattern.blank(rows, length)
    return _with_packed_weights(
        step, (*(each.new_zeros(rows, 1) for each in given), *cache.tensors()), free=(rows, length)
    )


def _with_packed_weights(step: Forward, examples: Tensors, free: Sequence[int] = ()) -> StepFunction:
    """Packed weights are given to each replay, for the tracer refuses them as constants."""
    weights = packed.memory_of(step.model)
    recorded = _trace(lambda *tensors: step(*tensors[len(weights) :]), (*weights, *examples), free)
    return partial(recorded, *weights)


def _numbers_apart(model: PreTrainedModel | Portable, held: Tensors) -> list[int]:
    """Two primes that divide no size of these tensors: whatever they divide in a recording follows from the rows, or from the length."""
    sizes = {size for tensor in (*model.parameters(), *model.buffers(), *held) for size in tensor.shape}
    primes = (n for n in count(5, 2) if all(n % d for d in range(2, n)))
    apart = (prime for prime in primes if all(size % prime for size in sizes))
    return list(islice(apart, 2))


def _trace(
    program: Callable[..., torch.Tensor], examples: tuple[torch.Tensor, ...], free: Sequence[int] = ()
) -> StepFunction:
    """The operations of one call, with the weights as constants that are not copied; sizes that are multiples of a number in `free` are what they are at each replay.

    `torch.jit.trace` would do the same and keep it for as long as the process runs: a class for every module, and all of
    their weights. This recording belongs to nobody but who holds it, at the price of names that are torch's own.
    """

    def call(*given: torch.Tensor) -> torch.Tensor:
        with _FixedShapes(free, given):
            return program(*given)

    graph, _ = torch._C._create_graph_by_tracing(call, examples, lambda tensor: "", True, False)
    if free:  # what every layer makes anew of the same sizes and positions; in portable arithmetic this was seen to change bits
        torch._C._jit_pass_inline(graph)
        torch._C._jit_pass_cse(graph)
    recorded: StepFunction = torch._C.CompilationUnit().create_function("step", graph)
    return recorded


class _FixedShapes(TorchFunctionMode):
    """Inside, shapes are numbers, as they are the same whenever a recording is replayed, but for those that are `free`.

    The tracer has all of them as tensors, and records what is computed of them. That would be in torch's default dtype at each
    replay, which any thread that loads a model sets for the whole process. Numbers of rows and of positions are only multiplied and divided.
    """

    def __init__(self, free: Sequence[int], given: Tensors):
        super().__init__()
        found = [size for tensor in given if tensor.layout == torch.strided for size in tensor.shape]
        self.free = {number: next(size for size in found if int(size) == number) for number in free}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _SHAPES:
            return torch.Size(map(self._size, found)) if isinstance(found, tuple) else self._size(found)
        return found

    def _size(self, size: Any) -> Any:
        number = int(size)
        if any(number and number % free == 0 for free in self.free):
            return self.free.get(number, size)
        return number


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


def ids_and_positions(draw: random.Random, like: torch.Tensor, vocabulary: int, length: int) -> list[torch.Tensor]:
    """Of each row by chance a token and its position, int64 as `like` [rows, 1]."""
    return [torch.tensor([[draw.randrange(end)] for _ in like], device=like.device) for end in (vocabulary, length)]


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
        self.length, self.recorded = length, False
        self.asked = cache.positions.device.type == "cuda"  # there it is recorded with its draw (ahead.py)
        self._cache, self._vocabulary = cache, vocabulary
        self._plain = Forward(model, masks, cache, by)
        self._run: StepFunction = self._plain

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: SlotCache, plain: bool = False
    ) -> torch.Tensor:
        """Logits [rows, 1, vocabulary]; `ids` and `positions` are int64 [rows, 1], and `cache` is written into. `plain` goes without the recording."""
        return (self._plain if plain else self._run)(ids, positions, *cache.upto(self.length, len(ids)))

    def record(self) -> None:
        """Record it over its own cache, which it leaves dirty."""
        self.asked = True
        self._record(self._plain, self._cache, _traced)

    def record_for_any(self, like: "DecodeStep | None") -> None:
        """The same in one recording for any rows and positions; or try that of `like` over this cache."""
        self.asked = True
        self._record(self._plain, self._cache, _traced_for_any if like is None else lambda *example: like._run)

    def replay(self, like: "DecodeStep") -> None:
        """Have the recording of another step, which is for any."""
        self._run, self.recorded = like._run, True

    def record_beside(self, given_up: Callable[[], bool]) -> None:
        """Record a step of portable arithmetic on a thread of one's own; others are served meanwhile, with the same bits.

        Nothing that they use is touched: caches are copied, and the mode is another one.
        """
        model = self._plain.model
        assert isinstance(model, Portable)
        cache = self._cache.over(self._cache.upto(self.length), self._cache.positions).blank()
        with suppress(GivenUp):
            self._record(Forward(model.beside(given_up), self._plain.masks, cache), cache, _traced)

    def _record(self, forward: Forward, cache: SlotCache, recorder: Recording) -> None:
        another = partial(ids_and_positions, like=cache.positions, vocabulary=self._vocabulary, length=cache.length)
        recorded = record(forward, recorder, another, cache.tensors(), cache.states())
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
        with torch.inference_mode(), replaying(torch.device("cpu")):
            while (it := self._asked.get()) is not None and not self._closed:
                try:
                    it.record_beside(lambda: self._closed)
                except Exception:  # it goes on as it is
                    log.exception("it could not be recorded")
