"""Does the engine compute what the model computes? Held against plain forward passes before anything is served.

Certification compares the engine with itself, and a model whose layers attend in a way that no mask says
gives the same wrong bits to everybody. So two prompts also go through the unmodified model as a whole:
without cache, slots or recording, with the masks that the library makes. They go twice, in the dtype that is
served and in the next wider one (from float32 the long one goes once: it is near enough to the truth itself).
How far the first is from the second is what the dtype itself does to this model on these prompts; the engine
may be `TOLERANCE` times as far from the second, and no farther; in portable arithmetic by `PORTABLE`. Some recurrent layers write
otherwise than they read; how far the model's own writing is from its own reading counts as the first does. A lane that is too long to
be read whole is checked at its end too, behind keys and values that stand in for what would have been read.

In a narrow dtype rounding alone chooses among experts that are close, so there the tokens of a mixture are sent to the experts that the wider
dtype chose (experts.py), in the plain pass and in the engine alike. What is left is bounded as it is for any other model.
"""

import inspect
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from ..errors import UserError
from ..types import Deviation
from . import experts
from .experts import Route
from .lane import Lane
from .packed import memory_of, unpacked
from .portable import Portable
from .slots import DummyLayer, Holds, layer_kinds, what_layers_hold
from .step import cache_argument

TOLERANCE = 3.0  # no family of docs/families.md needs more than 2, and the mildest planted fault exceeds 4
FLOOR = 1e-3  # nats; smaller differences are of no consequence, whatever the dtype does
PORTABLE = 1e-2  # nats; portable arithmetic has no narrow dtype to explain more, and was seen to be off by less than a tenth of it
CHECKED = 1024  # tokens; of a longer lane these first positions are checked, and its last chunk
MULTIPLICATIONS = (
    10**12
)  # on a CPU, in one pass: a model too large for CHECKED tokens is checked on fewer, at least 256
LONG = 256  # tokens; in float64, or portably, a prompt of more takes as long as all the rest of loading a model
DECODED = 4  # tokens at the end of a prompt that are written one by one
WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
AtOnce = type | tuple[()]
KeysAndValues = Sequence[torch.Tensor]  # of every layer in turn, each [1, heads, positions, head size]
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Expected:
    """A prompt, and the log-probabilities [places, vocabulary] that the model gives at some of its places; `routes` where it was sent along."""

    token_ids: list[int]
    places: list[int]
    logprobs: torch.Tensor
    routes: list[Route] = field(default_factory=list)


def deviation(
    model: PreTrainedModel,
    lanes: Sequence[Lane],
    new_lane: Callable[[int], Lane],
    compared: Callable[[], None] = lambda: None,
) -> Deviation:
    """The largest deviation of these lanes of one model from the model itself.

    Prompts cross the border of a chunk, the end of each lane and every window; a window longer than the
    check is shortened for the model and for a lane of `new_lane(length)` alike. Of a lane longer than the check
    the end is looked at apart. `compared` is called behind each lane.
    """
    portable = isinstance(lanes[0].model, Portable)  # whose bits do not depend on the lane: one is sample enough
    longest = LONG if portable else longest_check(model)
    longest = min(longest, max(lane.length for lane in lanes))
    found = [_held_against_the_model(model, lanes[:1] if portable else lanes, longest, compared)]
    found += [_far_from_the_start(model, lane) for lane in lanes if lane.length > longest]
    config = model.config.get_text_config()
    for kind, name in (("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size")):
        if kind in layer_kinds(config) and (whole := getattr(config, name)) >= longest > 1:
            setattr(config, name, longest // 2)
            try:
                found.append(_held_against_the_model(model, [new_lane(longest)], longest))
            finally:
                setattr(config, name, whole)
    return max(found, key=lambda each: each.nats / each.bound)


def longest_check(model: PreTrainedModel) -> int:
    """How many tokens the longest prompt of a check has."""
    if model.device.type != "cpu":
        return CHECKED
    return min(CHECKED, max(256, MULTIPLICATIONS // model.num_parameters()))


def is_bounded(model: PreTrainedModel) -> bool:
    """Whether a deviation beyond the bound is a fault. Where a narrow dtype chooses among experts that cannot be given, the smallest one can choose others."""
    chooses = any(getattr(model.config.get_text_config(), name, None) for name in _EXPERTS)
    return model.dtype == torch.float32 or not chooses or bool(experts.modules_of(model))


def expected(model: Any, at_once: AtOnce, tokens: int = 64) -> tuple[Expected, float]:
    """What a model gives for a random prompt, and how far from it, in nats, the same model may be in its own dtype.

    Modules of the class `at_once` are widened with all that is in them, because they look at each other's dtype.
    """
    draw, vocabulary = random.Random(tokens), model.config.get_text_config().vocab_size
    prompt = [draw.randrange(vocabulary) for _ in range(tokens)]
    with torch.no_grad():
        found, moved = _expected(model, prompt, set(), vocabulary, at_once, sent=False)
    return found, max(TOLERANCE * moved, FLOOR)


def difference(model: PreTrainedModel, expected: Expected) -> float:
    """The largest difference of a log-probability of this model from what was expected, in nats."""
    with torch.no_grad():
        found = _logprobs(model, expected.token_ids, expected.places, expected.logprobs.shape[1])
    return float((found.to(expected.logprobs) - expected.logprobs).abs().max())


def _held_against_the_model(
    model: PreTrainedModel, lanes: Sequence[Lane], longest: int, compared: Callable[[], None] = lambda: None
) -> Deviation:
    draw, vocabulary, chunk = random.Random(longest), lanes[0].vocabulary, lanes[0].chunk
    lengths = [min(lane.length, longest) for lane in lanes]
    # The second one ends inside a chunk, and must not find anything of the first.
    first, second = (
        [draw.randrange(vocabulary) for _ in range(n)] for n in (longest, min(lanes[0].grain + 15, *lengths))
    )
    ends = {place for length in lengths for place in _places(length, chunk)}
    prompts = [
        _expected(model, first, ends, vocabulary),
        _expected(model, second, _places(len(second), chunk), vocabulary),
    ]
    moved = [moved for _, moved in prompts]
    if lanes[0].has_states:
        with experts.sent_along(model, prompts[1][0].routes), _plainly(model):
            moved.append(_writing_from_reading(model, second, vocabulary))
    bound = _bound(lanes[0], max(moved))
    differences = list[tuple[int, float]]()
    for number, (lane, length) in enumerate(zip(lanes, lengths, strict=True)):
        # A pass that reads looks at its own end and no farther, so another lane may have read the long one already.
        own = prompts[1:] if length in lengths[:number] else prompts
        differences += _differences(model, lane, [expected for expected, _ in own], length)
        compared()
    return _largest(model, differences, bound)


def _writing_from_reading(model: PreTrainedModel, token_ids: list[int], vocabulary: int) -> float:
    """How far, in nats, the model's own writing of a prompt's last tokens is from its reading them, on a cache of the library's own."""
    read, cache = len(_read_part(token_ids)), DynamicCache(config=model.config)
    expected = _logprobs(model, token_ids, list(range(len(token_ids))), vocabulary)
    off = [0.0]
    for start, end in ((0, read), *((place, place + 1) for place in range(read, len(token_ids)))):
        ids, positions = (
            torch.tensor([each], device=model.device) for each in (token_ids[start:end], range(start, end))
        )
        output = model(input_ids=ids, position_ids=positions, use_cache=True, **{cache_argument(model): cache})
        found = _as_logprobs(output.logits[0, -1, :vocabulary])
        off.append(float((found - expected[end - 1]).abs().max()))
    return max(off)


def _far_from_the_start(model: PreTrainedModel, lane: Lane) -> Deviation:
    """The same for the last chunk of a lane, behind the keys and values of another chunk over and over.

    The model gets them as a cache of the library's own; what they say does not matter, as both are given the same.
    """
    draw, chunk, start = random.Random(lane.length), lane.chunk, lane.length - lane.chunk
    stand_in, last = ([draw.randrange(lane.vocabulary) for _ in range(chunk)] for _ in range(2))
    token_ids = stand_in * (start // chunk) + last
    lane.begin()
    lane.read(stand_in, 0)
    behind = lane.repeat(start)
    expected, moved = _expected(model, last, _places(chunk, chunk), lane.vocabulary, behind=behind)
    rows = {start + place: row for place, row in zip(expected.places, expected.logprobs, strict=True)}
    with _sent_along(lane, model, expected.routes, start):
        found = list(_reading_and_writing(lane, token_ids, start, rows))
    return _largest(model, found, _bound(lane, moved))


@contextmanager
def _sent_along(lane: Lane, model: PreTrainedModel, routes: list[Route], start: int = 0) -> Iterator[None]:
    """Inside, what the lane reads and writes goes to the experts that are given, if any are."""
    with ExitStack() as inside:
        if routes:
            inside.enter_context(lane.unrecorded())
            inside.enter_context(experts.sent_along(model, routes, start))
        yield


def _bound(lane: Lane, moved: float) -> float:
    """How far a lane may be from the model, in nats, where the model's own dtype is off by `moved`."""
    return PORTABLE if isinstance(lane.model, Portable) else max(TOLERANCE * moved, FLOOR)


def _largest(model: PreTrainedModel, differences: list[tuple[int, float]], bound: float) -> Deviation:
    for place, nats in differences:
        if not math.isfinite(nats):
            raise UserError(
                f"This model cannot be served in {str(model.dtype).removeprefix('torch.')}: its output at token {place + 1} of the check is not a number; {'choose another model' if model.dtype == torch.float32 else 'try --dtype float32'}."
            )
    place, nats = max(differences, key=lambda found: found[1])
    return Deviation(nats=nats, bound=bound, token=place + 1)


def _places(length: int, chunk: int) -> set[int]:
    """Where a lane says what it computes, of a prompt of `length` tokens: at the end of each chunk that is read, and at what is written."""
    read = length - min(DECODED, length - 1)
    return {min(start + chunk, read) - 1 for start in range(0, read, chunk)} | set(range(read, length))


def _expected(
    model: PreTrainedModel,
    token_ids: list[int],
    places: set[int],
    vocabulary: int,
    at_once: AtOnce = (),
    behind: KeysAndValues = (),
    sent: bool = True,
) -> tuple[Expected, float]:
    """What the model gives for a prompt in the wider dtype, and by how many nats its own dtype is off there at most.

    Unless it is not `sent`, a mixture in a narrow dtype is off from there by what it is when its tokens go to the same experts.
    """
    at = sorted(places | set(range(0, len(token_ids), 16)))
    wide, routes = None, list[Route]()
    if model.dtype != torch.float32 or len(token_ids) <= LONG:
        wide, routes = _in_the_wider_dtype(model, token_ids, at, vocabulary, at_once, behind)
    routes = routes if sent and model.dtype != torch.float32 else []
    with experts.sent_along(model, routes, behind[0].shape[2] if behind else 0), _plainly(model):
        plain = _logprobs(model, token_ids, at, vocabulary, behind)
    if wide is None:  # float32 is near enough; float64 takes long, or is not there: FLOOR is the bound then
        return Expected(token_ids, at, plain), 0.0
    return Expected(token_ids, at, wide, routes), float((plain - wide).abs().max())


def _in_the_wider_dtype(
    model: PreTrainedModel,
    token_ids: list[int],
    at: list[int],
    vocabulary: int,
    at_once: AtOnce,
    behind: KeysAndValues,
) -> tuple[torch.Tensor | None, list[Route]]:
    """Log-probabilities [places, vocabulary], and the experts that the tokens go to; None where float64 is lacking (Apple's GPUs, some models' code)."""
    try:
        with _in_wider_arithmetic(model, at_once), experts.taken_down(model) as routes:
            return _logprobs(model, token_ids, at, vocabulary, behind), routes
    except (RuntimeError, TypeError):
        if model.dtype != torch.float32:
            raise
        return None, []


class _Given(DynamicLayer):
    """Keys and values of one layer that are there already. What is written behind them is seen once and not kept."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self.keys.to(key_states), key_states], dim=-2)
        return keys, torch.cat([self.values.to(value_states), value_states], dim=-2)


class _GivenWithStates(LinearAttentionLayer, _Given):  # type: ignore[misc,override]  # as the library's own class of this kind
    """The same for a layer that has states besides; they begin with nothing."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, number_of_states: int):
        _Given.__init__(self, keys, values)
        LinearAttentionLayer.__init__(self, number_of_states)


def _given(holds: Sequence[Holds], behind: KeysAndValues) -> Iterator[Any]:
    """Layers of the library's own cache with these keys and values, where a layer keeps some; states begin with nothing."""
    left = iter(behind)
    for each in holds:
        if each.keys and each.states:
            yield _GivenWithStates(next(left), next(left), each.states)
        elif each.states:
            yield LinearAttentionLayer(each.states)
        else:
            yield _Given(next(left), next(left)) if each.keys else DummyLayer()


def _logprobs(
    model: PreTrainedModel, token_ids: list[int], places: list[int], vocabulary: int, behind: KeysAndValues = ()
) -> torch.Tensor:
    """Log-probabilities [places, vocabulary] by one plain forward pass, `behind` a cache where one is given."""
    given: dict[str, Any] = {"input_ids": torch.tensor([token_ids], device=model.device), "use_cache": bool(behind)}
    if behind:
        cache = DynamicCache()
        cache.layers = list(_given(what_layers_hold(model.config.get_text_config()), behind))
        start = behind[0].shape[2]
        given[cache_argument(model)] = cache
        given["position_ids"] = torch.arange(start, start + len(token_ids), device=model.device)[None]
    if "logits_to_keep" in inspect.signature(model.forward).parameters:  # all may be more than there is room for
        logits = model(**given, logits_to_keep=torch.tensor(places, device=model.device)).logits[0]
    else:
        logits = model(**given).logits[0, places]
    return _as_logprobs(logits[:, :vocabulary])


def _as_logprobs(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(-1) if logits.device.type != "mps" else logits.log_softmax(-1)


@contextmanager
def _in_wider_arithmetic(model: PreTrainedModel, at_once: AtOnce = ()) -> Iterator[None]:
    """Compute in the next wider dtype, with the same weights: those of one module are widened while it runs, so there is room.

    Layers of a model with convolutions are widened whole, and its head from the beginning, for there a module computes with what
    belongs to another, or asks for its dtype.
    """
    modules = list(model.modules())
    lists = [module for module in modules if isinstance(module, torch.nn.ModuleList)]
    convolves = any(isinstance(module, torch.nn.Conv1d) for module in modules)
    layers = {layer for each in lists for layer in each} if convolves else set()

    def widened(module: torch.nn.Module) -> list[torch.nn.Module]:
        whole = isinstance(module, at_once) or module in layers
        return [
            *(module.modules() if whole else [module]),
            *([model.get_output_embeddings()] if convolves and module is model else []),
        ]

    # Grouped products of matrices have no float64.
    with (
        _weights_in(model, WIDER[model.dtype], widened),
        experts.computed_by(model, "eager"),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield


def _plainly(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Compute as the library does, where weights are packed."""
    return _weights_in(model, model.dtype) if memory_of(model) else nullcontext()


@contextmanager
def _weights_in(
    model: PreTrainedModel,
    dtype: torch.dtype,
    widened: Callable[[torch.nn.Module], list[torch.nn.Module]] = lambda module: [module],
) -> Iterator[None]:
    """Inside, the weights and buffers of a module are plain ones of this dtype while it runs, and so are those of the modules that are `widened` with it."""
    narrow = model.dtype
    kept: dict[torch.nn.Module, list[tuple[dict[str, Any], str, torch.Tensor]]] = {}

    def before(module: torch.nn.Module, *given: Any) -> None:
        tables = [table for each in widened(module) for table in (each._parameters, each._buffers)]
        own = [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]
        kept[module] = [each for each in own if each[2].dtype == narrow]
        for table, name, tensor in kept[module]:
            table[name] = unpacked(tensor).to(dtype)

    def after(module: torch.nn.Module, *given: Any) -> None:
        for table, name, tensor in reversed(kept.pop(module, [])):
            table[name] = tensor

    hooks = [
        hook
        for module in model.modules()
        for hook in (module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in reversed(list(kept)):
            after(module)


def _differences(
    model: PreTrainedModel, lane: Lane, prompts: Sequence[Expected], length: int
) -> Iterator[tuple[int, float]]:
    """Place by place, the largest difference of a log-probability, in nats; prompts in turn, then again from what is kept of them."""
    for expected in (*prompts, *prompts):
        token_ids = expected.token_ids[:length]
        lane.begin()
        start = lane.reusable(_read_part(token_ids))
        rows = dict(zip(expected.places, expected.logprobs, strict=True))
        with _sent_along(lane, model, expected.routes):
            yield from _reading_and_writing(lane, token_ids, start, rows)
    lane.store.clear()


def _reading_and_writing(
    lane: Lane, token_ids: list[int], start: int, rows: dict[int, torch.Tensor]
) -> Iterator[tuple[int, float]]:
    """The same for one prompt from `start` on; `rows` are the log-probabilities that the model gives, by place."""
    slot, prompt = lane.slots // 2, _read_part(token_ids)
    for begin in range(start, len(prompt), lane.chunk):
        yield _difference(min(begin + lane.chunk, len(prompt)) - 1, lane.read(prompt, begin)[0], rows)
        if begin + lane.chunk <= len(prompt):
            lane.keep(prompt, begin)
    lane.adopt(slot)
    for place in range(len(prompt), len(token_ids)):
        tokens, positions = [0] * lane.slots, [0] * lane.slots
        tokens[slot], positions[slot] = token_ids[place], place
        yield _difference(place, lane.write(tokens, positions)[slot], rows)


def _read_part(token_ids: list[int]) -> list[int]:
    """What is read of a prompt; the rest is written."""
    return token_ids[: len(token_ids) - min(DECODED, len(token_ids) - 1)]


def _difference(place: int, logits: torch.Tensor, rows: dict[int, torch.Tensor]) -> tuple[int, float]:
    expected = rows[place]
    return place, float((logits.to(expected).log_softmax(-1) - expected).abs().max())
