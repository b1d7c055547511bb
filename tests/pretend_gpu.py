"""A GPU that is not there, or several: tensors that say "cuda:0" and keep their numbers on the processor. Knows torch, nothing of the product.

Every operation is really computed, so whole engines run and their replies can be compared. What a GPU would not
do, or would not do the same way twice, is a `Fault`, raised where it happens and again when the GPU is left, since
whoever caught it may have gone on:

- tensors of two devices in one operation;
- an operation that `torch.use_deterministic_algorithms` refuses, or a write to one place twice;
- a wait of the host for the GPU where there must be none (`no_waits`);
- an operation on one stream that does not wait for another stream whose result it needs, or whose memory it takes; a look at what is
  still on its way to the host;
- in a graph (torch.cuda.CUDAGraph) a wait, a copy from or to the host, and at its replay memory that was given back;
- more memory than the card has; memory that is still held at the end.

A graph has the operations of its capture, over memory and not over tensors: what was there before stays where it is, what was made inside is made anew, and
numbers of Python are what they were. After the capture nothing is as if it had run, as on a GPU, which only notes it.

Kernels, waits and the bytes that they move are counted, memory allocation by allocation. Sums along rows begin where each row is aligned, as
torch's on CUDA do, so their last bits depend on the row where its length is no multiple of four.

torch's own FakeTensorMode has no numbers to sample from, and without a CUDA build it fails at the first copy.
"""

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
T = torch.Tensor
BLOCK = 512  # bytes; the least that torch's allocator gives, and what sizes are rounded up to

# Refused under torch.use_deterministic_algorithms(True), of what a decoder might call; and cumsum of floats.
REFUSED = {"kthvalue", "median", "nanmedian", "histc", "put_", "bincount", "scatter_reduce", "scatter_reduce_"}
# By the place of the dimension and the indices among their arguments: what may write to one place twice
INDEXED = {
    "index_copy", "index_copy_", "index_add", "index_add_", "scatter", "scatter_", "scatter_add", "scatter_add_",
}  # fmt: skip
WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
TO_PYTHON = {T.tolist, T.numpy, T.__array__, T.item, T.__bool__, T.__int__, T.__float__, T.__index__}
TO_A_DEVICE: dict[Any, torch.device | None] = {T.to: None, T.cpu: CPU, T.cuda: torch.device("cuda", 0)}
MADE_OF_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray}


class Fault(RuntimeError):
    """What a GPU would not do, or not in the same way twice."""


class MixedDevices(Fault):
    """Tensors of two devices in one operation."""


class NotRepeatable(Fault):
    """The bits of this operation may differ from one run to the next."""


class Waited(Fault):
    """The host waits for the GPU where there must be no wait."""


class Raced(Fault):
    """Two streams use the same memory, and neither waits for the other."""


class NotCapturable(Fault):
    """What a graph cannot hold, or what it holds no longer."""


class MemoryKept(Fault):
    """Memory of the GPU is held by somebody when it is left."""


class OnGpu(torch.Tensor):
    """A tensor on a GPU that is not there."""

    inner: torch.Tensor  # type: ignore[assignment]  # what torch calls so nobody uses here
    card: int

    @staticmethod
    def __new__(cls, inner: torch.Tensor, card: int) -> "OnGpu":
        with torch._C.DisableTorchFunction():
            return torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device="cpu",
            )

    def __init__(self, inner: torch.Tensor, card: int):
        self.inner, self.card = inner, card

    def record_stream(self, stream: Any) -> None:  # torch's own asks what a stream is before it asks anybody else
        _gpus[-1].record(self, stream)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.inner!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _gpus[-1].run(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _gpus[-1].run(func, args, kwargs or {})  # what C++ calls by itself


class Stream:
    """An order of operations; `seen` says up to which operation of the others it has waited."""

    def __init__(self, gpu: "Gpu", card: int = 0):
        self.gpu, self.card, self.now = gpu, card, 0
        gpu.streams.append(self)
        self.seen: dict[Stream, int] = {}

    def knows(self, other: "Stream", moment: int) -> bool:
        """Whether what this stream does next comes after what `other` did then."""
        return other is self or max(self.seen.get(other, 0), self.gpu.host.get(other, 0)) >= moment

    def everything(self) -> dict["Stream", int]:
        return {**self.seen, self: self.now}

    def wait_stream(self, other: "Stream") -> None:
        self.seen = _later(self.seen, other.everything())

    def synchronize(self) -> None:
        self.gpu.wait("a stream", self)


class Event:
    """A moment of a stream."""

    def __init__(self, gpu: "Gpu"):
        self.gpu = gpu

    def record(self) -> None:
        self.moment = self.gpu.stream.everything()

    def everything(self) -> dict["Stream", int]:
        return self.moment

    def synchronize(self) -> None:
        self.gpu.wait("an event", self)


def _later(one: dict[Stream, int], other: dict[Stream, int]) -> dict[Stream, int]:
    return {stream: max(one.get(stream, 0), other.get(stream, 0)) for stream in {*one, *other}}


class Memory:
    """One allocation: how large it is, on which stream of which card it was made, and when which stream used it last."""

    def __init__(self, storage: Any, size: int, home: Stream, freed: Callable[[Any], None], pool: "Pool | None"):
        self.key, self.size, self.home, self.pool = int(storage._cdata), size, home, pool
        self.written: tuple[Stream, int] | None = None
        self.read: dict[Stream, int] = {}
        self.recorded: set[Stream] = set()  # streams that the allocator was told of
        self.alive = weakref.ref(storage, freed)

    def uses(self) -> list[tuple[Stream, int]]:
        return [*self.read.items(), *([self.written] if self.written else [])]


class Pool:
    """Memory that graphs share for what they make: `peak` bytes, as long as one of them or what they made is there."""

    def __init__(self) -> None:
        self.live = self.peak = 0


@dataclass(frozen=True, eq=False)
class Place:
    """A tensor of a graph: where it is in which memory."""

    memory: Memory
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def over(self, storage: Any) -> torch.Tensor:
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class Graph:
    """What stands in for torch.cuda.CUDAGraph."""

    def __init__(self, gpu: "Gpu"):
        self.gpu, self.pool = gpu, Pool()
        self.operations: list[tuple[Any, Any, Any, list[Place]]] = []
        self.made: set[Memory] = set()
        self.used: dict[Memory, bool] = {}  # of what was there before: whether it is written
        self._before: dict[Memory, torch.Tensor] = {}

    def about_to_write(self, tensors: Sequence[torch.Tensor], memory: dict[int, Memory]) -> None:
        for tensor in tensors:
            its = memory[_key(tensor)]
            if its not in self.made and its not in self._before:
                self._before[its] = _bytes(tensor.untyped_storage()).clone()

    def add(self, func: Any, args: Any, kwargs: Any, found: Sequence[torch.Tensor], memory: dict[int, Memory]) -> None:
        def place(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or _key(leaf) not in memory:
                return leaf
            its = memory[_key(leaf)]
            if its not in self.made:
                self.used[its] = its in self._before
            return Place(its, leaf.dtype, leaf.storage_offset(), tuple(leaf.shape), leaf.stride())

        args, kwargs = tree_map(place, (args, kwargs))
        self.made |= {memory[_key(tensor)] for tensor in found} - self.used.keys()
        self.operations.append((func, args, kwargs, [place(tensor) for tensor in found]))

    def end(self) -> None:
        """Nothing has run: what was there is as it was, and what was made is anything."""
        for memory, before in self._before.items():
            _bytes(memory.alive()).copy_(before)
        self._before.clear()
        for memory in self.made:
            if (storage := memory.alive()) is not None:
                _bytes(storage).fill_(255)

    def replay(self) -> None:
        with torch._C.DisableTorchFunction():
            self._replay()

    def _replay(self) -> None:
        if any(memory.alive() is None for memory in self.used):
            raise self.gpu.fault(NotCapturable("a graph uses memory that was given back"))
        written = {memory.key for memory, is_written in self.used.items() if is_written}
        results = {memory.key for memory in self.made if memory.alive() is not None}
        self.gpu._use({memory.key for memory in self.used} - written, written | results, "a graph")
        self.gpu.count("graph")
        there: dict[Memory, Any] = {}

        def tensor(leaf: Any) -> Any:
            return leaf.over(there.get(leaf.memory) or leaf.memory.alive()) if isinstance(leaf, Place) else leaf

        for func, args, kwargs, found in self.operations:
            given = tree_map(tensor, (args, kwargs))
            made = _tensors(_in_its_own_order(func, *given))
            name = func.overloadpacket.__name__
            self.gpu.count(f"replayed:{name}", _moved(name, given[0], given[1], made))
            for place, new in zip(found, made, strict=True):
                if place.memory in self.made and place.memory not in there:
                    there[place.memory] = place.memory.alive() or new.untyped_storage()
                    tensor(place).copy_(new)


def _bytes(storage: Any) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class _Made(TorchFunctionMode):
    """Sees what has no tensor among its arguments: the functions that make one."""

    def __init__(self, gpu: "Gpu"):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.gpu.run(func, args, kwargs or {})


class _Launches(TorchDispatchMode):
    """Sees every operation that one function comes to."""

    def __init__(self, gpu: "Gpu"):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.gpu.launch(func, args, kwargs or {})


_gpus: list["Gpu"] = []


def _tensors(*trees: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _where(tensor: torch.Tensor) -> torch.device:
    """The device of a tensor, also where torch is not asked by its own name for it."""
    return torch.device("cuda", tensor.card) if isinstance(tensor, OnGpu) else tensor.device


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class Gpu:
    """The card, its allocator and its streams; or several.

    Args:
        size: bytes of memory, of each.
        cards: how many.
    """

    def __init__(self, size: int, cards: int = 1):
        self.size, self.cards = size, cards
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.faults: list[Exception] = []
        self.allocated_on, self.reserved_on, self.peak_on = Counter[int](), Counter[int](), Counter[int]()
        self.streams: list[Stream] = []
        self.defaults = [Stream(self, card) for card in range(cards)]
        self.default = self.defaults[0]
        self.host: dict[Stream, int] = {}  # up to which operation of each stream the host has waited
        self._memory: dict[int, Memory] = {}
        self._pinned: dict[int, Any] = {}
        self._on_the_way: dict[int, tuple[Any, Stream, int]] = {}  # to the host, until the stream has done so much
        self._pools: weakref.WeakValueDictionary[Any, Pool] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()
        self._thread = threading.local()

    # --- what happened -----------------------------------------------------------------------------------------

    def count(self, what: str, amount: int = 0) -> None:
        with self._lock:
            self.counts[what] += 1
            self.bytes[what] += amount

    def clear(self) -> None:
        """Count from nothing."""
        self.counts.clear()
        self.bytes.clear()
        self.peak_on = self.allocated_on.copy()

    @property
    def allocated(self) -> int:
        """Bytes, on all cards."""
        return self.allocated_on.total()

    @property
    def reserved(self) -> int:
        return self.reserved_on.total()

    @property
    def peak(self) -> int:
        return self.peak_on.total()

    def total(self, kind: str) -> int:
        """How many things of a kind were counted: "kernel", "wait" or "copy"."""
        return sum(count for what, count in self.counts.items() if what.startswith(kind))

    def moved(self, kind: str) -> int:
        """How many bytes they read and wrote."""
        return sum(count for what, count in self.bytes.items() if what.startswith(kind))

    def fault(self, error: Exception) -> Exception:
        self.faults.append(error)
        return error

    @contextmanager
    def no_waits(self, none: bool = True) -> Iterator[None]:
        """Inside, on this thread, the host must not wait; or may again."""
        before = getattr(self._thread, "no_waits", False)
        self._thread.no_waits = none
        try:
            yield
        finally:
            self._thread.no_waits = before

    def wait(self, what: str, *streams: Stream | Event, amount: int = 0) -> None:
        """The host waits until these streams, or that of this thread, have done what they were asked."""
        self._not_in_a_graph(what, Waited)
        if getattr(self._thread, "no_waits", False):
            raise self.fault(Waited(f"the host waits for the GPU: {what}"))
        self.count(f"wait:{what}", amount)
        with self._lock:
            for stream in streams or [self.stream]:
                self.host = _later(self.host, stream.everything())

    # --- graphs --------------------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph | None:
        """What this thread captures."""
        found: Graph | None = getattr(self._thread, "graph", None)
        return found

    @contextmanager
    def capture(self, graph: Graph, *, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """As torch.cuda.graph, which waits for the whole GPU."""
        if stream in self.defaults or capture_error_mode != "thread_local":
            raise self.fault(NotCapturable("others use the default stream, and a capture may end by what they do"))
        self.wait("synchronize", *self.streams)
        if pool is not None:
            graph.pool = self._pools.setdefault(pool, graph.pool)
        with self.on(stream):
            self._thread.graph = graph
            try:
                yield
            finally:
                self._thread.graph = None
                with torch._C.DisableTorchFunction():
                    graph.end()

    def _not_in_a_graph(self, what: str, kind: type[Fault]) -> None:
        if self.graph is not None:
            raise self.fault(kind(f"while a graph is captured: {what}"))

    # --- streams -----------------------------------------------------------------------------------------------

    @property
    def stream(self) -> Stream:
        """The one on which this thread computes, of the card on which it does."""
        return self.stream_on(self.card)

    def stream_on(self, card: int) -> Stream:
        """The one on which this thread computes on a card."""
        chosen: dict[int, Stream] = getattr(self._thread, "streams", {})
        return chosen.get(card, self.defaults[card])

    @property
    def card(self) -> int:
        """On which this thread computes."""
        return getattr(self._thread, "card", 0)

    def named(self, device: Any = None) -> int:
        """The number of the card that is named so, or of that on which this thread computes."""
        index = None if device is None else torch.device(device).index
        return self.card if index is None else index

    @contextmanager
    def at(self, card: int) -> Iterator[None]:
        before, self._thread.card = self.card, card
        try:
            yield
        finally:
            self._thread.card = before

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before = getattr(self._thread, "streams", {})
        self._thread.streams = {**before, stream.card: stream}
        try:
            with self.at(stream.card):
                yield
        finally:
            self._thread.streams = before

    def _use(self, read: set[int], written: set[int], what: str) -> None:
        """One operation on this thread's stream, over memory by its keys."""
        with self._lock:
            stream = self.stream
            stream.now += 1
            for key in read | written:
                memory = self._memory[key]
                others = memory.uses() if key in written else [memory.written] if memory.written else []
                if not all(stream.knows(*use) for use in others):
                    raise self.fault(Raced(f"{what} does not wait for what another stream does to its memory"))
                if key in written:
                    memory.written, memory.read = (stream, stream.now), {}
                else:
                    memory.read[stream] = stream.now

    # --- memory ------------------------------------------------------------------------------------------------

    def _take(self, tensor: torch.Tensor) -> int:
        """The key of a tensor's memory, which is allocated now where it is new."""
        storage, key = tensor.untyped_storage(), _key(tensor)
        with self._lock:
            if key not in self._memory:
                size = -(-storage.nbytes() // BLOCK) * BLOCK
                pool = self.graph.pool if self.graph is not None else None
                self._allocate(size, pool, self.card)
                self._memory[key] = Memory(storage, size, self.stream, partial(self._free, key), pool)
        return key

    def _allocate(self, size: int, pool: Pool | None, card: int) -> None:
        more = size
        if pool is not None:
            pool.live += size
            more = max(0, pool.live - pool.peak)
            if more:
                pool.peak += more
                weakref.finalize(pool, self._give_back, more, card)
        taken = self.allocated_on[card]
        if taken + more > self.size:
            told = f"CUDA out of memory. Tried to allocate {size} bytes; {taken} of {self.size} are taken"
            raise self.fault(torch.OutOfMemoryError(told))
        self.allocated_on[card] += more
        for most in (self.peak_on, self.reserved_on):
            most[card] = max(most[card], self.allocated_on[card])

    def _free(self, key: int, gone: Any) -> None:
        with self._lock:
            memory = self._memory.pop(key)
            if memory.pool is None:
                self.allocated_on[memory.home.card] -= memory.size
            else:
                memory.pool.live -= memory.size
            for stream, moment in memory.uses():
                if stream not in memory.recorded and not memory.home.knows(stream, moment):
                    self.fault(Raced("memory is given back while another stream may still use it"))

    def _give_back(self, size: int, card: int) -> None:
        with self._lock:
            self.allocated_on[card] -= size

    def record(self, tensor: OnGpu, stream: Stream) -> None:
        """As Tensor.record_stream: the memory is not given away before this stream has done what it was asked until then."""
        self._memory[self._take(tensor.inner)].recorded.add(stream)

    def empty_cache(self) -> None:
        self.reserved_on = self.allocated_on.copy()

    def check_returned(self) -> None:
        gc.collect()
        if self.allocated:
            sizes = sorted((memory.size for memory in self._memory.values()), reverse=True)
            raise self.fault(MemoryKept(f"{len(sizes)} allocations are still held, of {sizes[:8]} bytes"))

    # --- one operation -----------------------------------------------------------------------------------------

    def launch(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One aten operation of tensors that are all on one GPU."""
        name = func.overloadpacket.__name__
        given = {
            _key(tensor) for tensor in _tensors(args, kwargs)
        } & self._memory.keys()  # no single number of the host's
        self._check_repeatable(name, args)
        if name in WAITING or _looks_for_true(name, args):
            self.wait(name)
        written = _tensors(_mutated(func, args, kwargs))
        if self.graph is not None:
            self.graph.about_to_write(written, self._memory)
        result = _in_its_own_order(func, args, kwargs)
        found = _tensors(result)
        new = {self._take(tensor) for tensor in found} - given
        mutated = {_key(tensor) for tensor in written}
        if self.graph is not None and (new or mutated):
            self.graph.add(func, args, kwargs, found, self._memory)
        if name.startswith(("empty", "new_empty")) or (found and not new and not mutated):
            return result  # memory alone, or another view of it
        self._use(given, new | mutated, name)
        self.count(f"kernel:{name}", _moved(name, args, kwargs, found))
        if torch.are_deterministic_algorithms_enabled() and name.startswith(("index_put", "_index_put")):
            self._sort(args)
        return result

    def _sort(self, args: Any) -> None:
        """What index_put does for determinism: sorts the indices, and copies a tensor there and back whose indexed dimensions are not the first ones, all at once."""
        self.count("kernel:sort for index_put")
        indexed = [index is not None for index in args[1]]
        if not args[0].is_contiguous() or indexed != sorted(indexed, reverse=True):
            for way in ("there", "back"):
                self.count(f"kernel:copy for index_put {way}", 2 * args[0].nbytes)

    def _check_repeatable(self, name: str, args: Any) -> None:
        if name in REFUSED or (name in ("cumsum", "cumsum_") and args[0].is_floating_point()):
            raise self.fault(NotRepeatable(f"{name} has no deterministic implementation on CUDA"))
        if name in INDEXED and not _unique(args[2], args[1] % args[0].dim() if args[2].dim() > 1 else 0):
            raise self.fault(NotRepeatable(f"{name} writes to one place twice, in no fixed order"))
        if (
            name.startswith(("index_put", "_index_put"))
            and args[2].numel() > 1
            and not _unique_places(args[0], args[1])
        ):
            raise self.fault(NotRepeatable(f"{name} writes to one place twice, in no fixed order"))

    # --- one function ------------------------------------------------------------------------------------------

    def put(self, tensor: torch.Tensor) -> OnGpu:
        """This tensor on the GPU, with memory of its own."""
        if isinstance(tensor, OnGpu):
            return tensor
        with torch._C.DisableTorchFunction():
            return self._arrived(tensor.detach().clone())

    def _arrived(self, tensor: torch.Tensor) -> OnGpu:
        """On the GPU: what a copy made."""
        self._not_in_a_graph("a copy from the host", NotCapturable)
        key = self._take(tensor)
        self._use(set(), {key}, "a copy to the GPU")
        return OnGpu(tensor, self.card)

    def move(self, model: torch.nn.Module, where: Mapping[str, torch.device] = MappingProxyType({})) -> Any:
        """The model with its parameters and buffers on the GPU, or on the cards that modules are named with; weights that are tied stay tied."""
        moved: dict[int, torch.nn.Parameter] = {}
        for path, module in model.named_modules():
            with self.at(next((self.named(where[name]) for name in where if f"{path}.".startswith(f"{name}.")), 0)):
                self._move(module, moved)
        return model

    def _move(self, module: torch.nn.Module, moved: dict[int, torch.nn.Parameter]) -> None:
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                if id(parameter) not in moved:
                    moved[id(parameter)] = torch.nn.Parameter(self.put(parameter.data), requires_grad=False)
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = self.put(buffer)

    def mode(self) -> _Made:
        return _Made(self)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        every = _tensors(args, kwargs)
        on_gpu = [tensor for tensor in every if isinstance(tensor, OnGpu)]
        device = kwargs.get("device")
        if func in TO_A_DEVICE:
            return self._to(func, args, kwargs)
        if not on_gpu and not _is_cuda(device):
            return self._on_the_host(func, args, kwargs)
        with self.at(on_gpu[0].card if device is None else self.named(device)):
            return self._on_a_card(func, args, kwargs, every, on_gpu)

    def _on_a_card(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], every: list[torch.Tensor], on_gpu: list[OnGpu]
    ) -> Any:
        device = kwargs.get("device")
        if func == T.device.__get__:
            return torch.device("cuda", self.card)
        if func == T.is_cuda.__get__ or func == T.is_cpu.__get__:  # type: ignore[attr-defined]
            return bool(func == T.is_cuda.__get__)  # type: ignore[attr-defined]
        if func is T.get_device:
            return self.card
        if func is T.__iter__:
            return iter(self._run(T.unbind, args, {}))
        if func is T.__deepcopy__:  # which would copy below the level of operations
            return self._run(T.clone, args[:1], {})
        plain_args, plain_kwargs = tree_map(
            lambda leaf: leaf.inner if isinstance(leaf, OnGpu) else leaf, (args, kwargs)
        )
        if device is not None:
            plain_kwargs["device"] = CPU
        if func in MADE_OF_NUMBERS:
            made = func(*plain_args, **plain_kwargs)
            self.wait("a pageable copy to the device", amount=made.nbytes)
            return self._arrived(made.clone())
        if func is T.copy_ and isinstance(args[0], OnGpu) != isinstance(args[1], OnGpu):
            self.wait("copy_ between the devices", amount=args[0].nbytes)
            self._use(set(), {_key(args[0].inner)}, "copy_") if isinstance(args[0], OnGpu) else None
            func(*plain_args, **plain_kwargs)
            return args[0]
        if func is T.copy_ and args[0].card != args[1].card:
            plain_args = (plain_args[0], self._across(args[1], args[0].card).inner, *plain_args[2:])
            on_gpu, every = [args[0]], [args[0]]
        if on_gpu:  # none where something is made there like a tensor of the host
            self._check_devices(func, args, every)
        if func in TO_PYTHON:
            self.wait(func.__name__)
            return func(*plain_args, **plain_kwargs)
        wrapped = {id(tensor.inner): tensor for tensor in on_gpu}
        with _Launches(self):
            result = func(*plain_args, **plain_kwargs)

        def back(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or isinstance(leaf, OnGpu):
                return leaf
            return wrapped[id(leaf)] if id(leaf) in wrapped else OnGpu(leaf, self.card)

        return tree_map(back, result) if device is None or _is_cuda(device) else result

    def _on_the_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What concerns no tensor of the GPU; there is memory that is pinned for copies to it."""
        for tensor in _tensors(args, kwargs) if self._on_the_way else ():
            _, stream, moment = self._on_the_way.get(_key(tensor), (None, self.default, 0))
            if self.host.get(stream, 0) < moment:
                raise self.fault(Raced("a look at what is still on its way to the host"))
        if func is T.is_pinned:
            return _key(args[0]) in self._pinned
        pinned = kwargs.pop("pin_memory", False) or func is T.pin_memory
        result = args[0].clone() if func is T.pin_memory else func(*args, **kwargs)
        if pinned:
            storage, key = result.untyped_storage(), _key(result)
            self._pinned[key] = weakref.ref(storage, lambda gone: self._pinned.pop(key))
        return result

    def _check_devices(self, func: Any, args: tuple[Any, ...], every: list[torch.Tensor]) -> None:
        """A tensor of the host, or of another card, among those of a card, as torch sees it: one number of the host's is one number, all else is an error."""
        strangers = [
            tensor for tensor in every if (tensor.card != self.card if isinstance(tensor, OnGpu) else tensor.dim())
        ]
        if not strangers:
            return
        if func in (T.__getitem__, T.__setitem__) and isinstance(args[0], OnGpu):
            value = args[2] if func is T.__setitem__ else None
            if all(tensor is not value and not isinstance(tensor, OnGpu) for tensor in strangers):
                self.wait("indices brought to the device")
        raise self.fault(
            MixedDevices(
                f"{func}: Expected all tensors to be on the same device, but found at least two, cuda:{self.card} and {_where(strangers[0])}"
            )
        )

    def _to(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source, rest, target, given = args[0], list(args[1:]), TO_A_DEVICE[func], kwargs
        for i, arg in enumerate(rest):
            if isinstance(arg, str | torch.device):
                target, rest[i] = torch.device(arg), CPU
            elif isinstance(arg, torch.Tensor):
                target, rest[i] = _where(arg), arg.inner if isinstance(arg, OnGpu) else arg
        if kwargs.get("device") is not None:
            target, kwargs = torch.device(kwargs["device"]), {**kwargs, "device": CPU}
        if not isinstance(source, OnGpu) and (target is None or target.type != "cuda"):
            return func(*args, **given)
        with self.at(
            self.named(target) if target is not None and target.type == "cuda" else getattr(source, "card", 0)
        ):
            return self._brought(source, target, rest, kwargs)

    def _brought(self, source: Any, target: torch.device | None, rest: list[Any], kwargs: dict[str, Any]) -> Any:
        """What is, or goes, to a card or comes from one."""
        was = isinstance(source, OnGpu)
        inner = source.inner if was else source
        if was and (target is None or target.type == "cuda"):
            if source.card != self.card:
                source = self._across(source, self.card)
                inner = source.inner
            with _Launches(self):
                result = inner.to(*rest, **kwargs)
            return source if result is inner else OnGpu(result, self.card)
        result = inner.to(*rest, **kwargs) if rest or kwargs else inner
        result = result.clone() if result is inner else result
        if was:
            self._use({_key(inner)}, set(), "a copy to the host")
            if not kwargs.get("non_blocking"):
                self.wait("a copy to the host", amount=result.nbytes)
                return result
            self._not_in_a_graph("a copy to the host", NotCapturable)
            self.count("copy:pinned, to the host", result.nbytes)
            storage, key = result.untyped_storage(), _key(result)
            gone = weakref.ref(storage, lambda gone: self._on_the_way.pop(key))
            self._on_the_way[key] = (gone, self.stream, self.stream.now)
            return result
        if kwargs.get("non_blocking") and _key(inner) in self._pinned:
            self.count("copy:pinned, to the device", result.nbytes)
        else:
            self.wait("a pageable copy to the device", amount=result.nbytes)
        return self._arrived(result)

    def _across(self, source: OnGpu, card: int) -> OnGpu:
        """A copy on another card, for which the streams of both wait for each other, and nobody else."""
        self._not_in_a_graph("a copy from another card", NotCapturable)
        ours, theirs = self.stream_on(card), self.stream_on(source.card)
        theirs.wait_stream(ours)
        with self.at(source.card):
            self._use({_key(source.inner)}, set(), "a copy to another card")
        ours.wait_stream(theirs)
        self.count("copy:to another card", source.inner.nbytes)
        with self.at(card):
            return self._arrived(source.inner.clone())


@cache
def _written_arguments(func: Any) -> list[tuple[int, str]]:
    """Which arguments an operation writes into: their places and names."""
    arguments = enumerate(func._schema.arguments)
    return [(i, each.name) for i, each in arguments if each.alias_info is not None and each.alias_info.is_write]


def _mutated(func: Any, args: Any, kwargs: Any) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in _written_arguments(func)]


def _moved(name: str, args: Any, kwargs: Any, found: Sequence[torch.Tensor]) -> int:
    """Bytes that an operation reads and writes: of what is looked up by indices, what is looked up alone."""
    if name in ("index", "index_select", "gather", "embedding"):
        return 2 * sum(tensor.nbytes for tensor in found)
    if name.startswith(("index_put", "_index_put")):
        return 2 * int(args[2].nbytes)
    if name in ("copy_", "fill_", "zero_"):
        return sum(tensor.nbytes for tensor in _tensors(args)[:2])
    unlike = {id(tensor): tensor for tensor in _tensors(args, kwargs, found)}
    return sum(tensor.nbytes for tensor in unlike.values())


def _looks_for_true(name: str, args: Any) -> bool:
    """Indexing by a mask: how many there are is known when they are counted."""
    return name.startswith(("index", "_index_put")) and any(
        tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1:2])
    )


def _unique(index: torch.Tensor, dim: int) -> bool:
    """Whether no index is there twice along a dimension."""
    ordered = index.sort(dim=dim).values
    return not bool((ordered.diff(dim=dim) == 0).any())


def _unique_places(target: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> bool:
    """Whether no place of `target` is named twice."""
    sizes = [size for size, index in zip(target.shape, indices, strict=False) if index is not None]
    given = torch.broadcast_tensors(*(index for index in indices if index is not None))
    if given[0].dtype == torch.bool:
        return True
    place = torch.zeros_like(given[0])
    for size, index in zip(sizes, given, strict=True):
        place = place * size + index % size
    return _unique(place.flatten(), 0)


def _in_its_own_order(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation; but a sum of floats along rows begins at each row's own alignment to four numbers."""
    x, dims = (*args, None, None)[:2]
    name = func.overloadpacket.__name__
    if name not in ("sum", "mean") or not x.is_floating_point() or x.dim() < 2 or dims is None:
        return func(*args, **kwargs)
    length = x.shape[-1]
    if [dim % x.dim() for dim in dims] != [x.dim() - 1] or length % 4 == 0:
        return func(*args, **kwargs)
    rows = x.reshape(-1, length)
    parts = []
    for number, row in enumerate(rows):
        head = -(number * length) % 4
        parts.append(row[head:].sum(**kwargs) + row[:head].sum(**kwargs))
    found = torch.stack(parts).view(x.shape[:-1])
    found = found / length if name == "mean" else found
    return found[..., None] if len(args) > 2 and args[2] else found


@contextmanager
def pretend_gpu(size: int = 2**28, cards: int = 1) -> Iterator[Gpu]:
    """So many GPUs with so many bytes of memory each, on this thread and on every thread that is started inside.

    Raises, when it is left: the first fault, whoever caught it; MemoryKept.
    """
    gpu, run = Gpu(size, cards), threading.Thread.run

    def run_with_the_gpu(thread: threading.Thread) -> None:
        with gpu.mode():
            run(thread)

    def stated(value: Any) -> Callable[..., Any]:
        return lambda *device: value

    cuda: dict[str, Any] = {
        "is_available": stated(True),
        "is_initialized": stated(True),
        "device_count": stated(cards),
        "current_device": stated(0),
        "get_device_name": stated("a GPU that is not there"),
        "get_device_capability": stated((9, 0)),
        "get_rng_state": stated(None),
        "set_rng_state": stated(None),
        "mem_get_info": lambda *device: (gpu.size - gpu.reserved_on[gpu.named(*device)], gpu.size),
        "memory_reserved": lambda *device: gpu.reserved_on[gpu.named(*device)],
        "memory_allocated": lambda *device: gpu.allocated_on[gpu.named(*device)],
        "empty_cache": gpu.empty_cache,
        "synchronize": lambda *device: gpu.wait("synchronize", *gpu.streams),
        "Stream": lambda *device: Stream(gpu, gpu.named(*device)),
        "Event": lambda: Event(gpu),
        "CUDAGraph": lambda: Graph(gpu),
        "graph": gpu.capture,
        "is_current_stream_capturing": lambda: gpu.graph is not None,
        "graph_pool_handle": object,
        "stream": gpu.on,
        "current_stream": lambda *device: gpu.stream_on(gpu.named(*device)),
        "default_stream": lambda *device: gpu.defaults[gpu.named(*device)],
    }
    with ExitStack() as left, settings_kept():
        _gpus.append(gpu)
        left.callback(_gpus.pop)
        left.enter_context(mock.patch.object(threading.Thread, "run", run_with_the_gpu))
        for name, stand_in in cuda.items():
            left.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        with gpu.mode():
            yield gpu
            if not gpu.faults:
                gpu.check_returned()
        if gpu.faults:
            raise gpu.faults[0]


@contextmanager
def settings_kept() -> Iterator[None]:
    """What a GPU is told of how it computes is told to the whole process: afterwards it is as it was."""
    matmul, cudnn, cuda = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.cuda
    flag = torch.are_deterministic_algorithms_enabled()
    reduced = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction
    convolutions, cudnn_attention = (cudnn.benchmark, cudnn.deterministic), cuda.cudnn_sdp_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(flag)
        matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = reduced
        cudnn.benchmark, cudnn.deterministic = convolutions
        cuda.enable_cudnn_sdp(cudnn_attention)
