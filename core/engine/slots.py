"""A fixed-shape cache in which every row has its own position, and the masks that go with it.

The library's StaticLayer has one position for the whole batch; here each row scatters its keys and values at its own. A
recurrent layer (linear attention, state space, short convolution) has no positions, only states, which the library's
LinearAttentionLayer holds, one row each. Which layers a model has is what the library itself names them; everything else
is its own Cache machinery.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig, cache_utils
from transformers.cache_utils import Cache, LinearAttentionLayer, StaticLayer, get_layer_types_and_kwargs

from ..errors import UserError
from .portable import keys_and_values


class SlotLayer(StaticLayer):
    """Keys and values of one layer, each [rows, heads, length, head size]."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, length: int, positions: torch.Tensor):
        super().__init__(max_cache_len=length)
        self.at(positions)

    def at(self, positions: torch.Tensor) -> None:
        """The next update writes at `positions`, int64 [rows, queries], shared by all layers of the cache."""
        self.positions = positions
        self.rows = torch.arange(positions.shape[0], device=positions.device)[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values at this step's positions and return all of them."""
        key_states, value_states = keys_and_values(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.rows.device != key_states.device:  # on another than the first of those that a model is spread over
            self.at(self.positions.to(key_states.device))
        # Advanced indexing, because scatter_ on bfloat16 took seven times as long on a CPU. No place is written twice, so on a
        # GPU it needs no determinism flag, under which it would copy the whole cache (device.deterministic_cuda).
        self.keys[self.rows, :, self.positions] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.positions] = value_states.transpose(1, 2)
        return self.keys, self.values

    @property
    def in_use(self) -> bool:
        """Whether a model has written into it."""
        return self.is_initialized


class StateLayer(LinearAttentionLayer):
    """The states of one recurrent layer, each [rows, ...]. Once allocated there always is a previous state: zeros at first."""

    def states(self) -> list[torch.Tensor]:
        held = (*self.conv_states.values(), *self.recurrent_states.values())
        return [state for state in held if state is not None]

    @property
    def in_use(self) -> bool:
        """Whether a model has written into it."""
        return bool(self.states())

    def hold(self, tensors: Sequence[torch.Tensor], like: "StateLayer") -> None:
        """Have these tensors, in the order of `states`, where `like` has its own."""
        given = iter(tensors)
        for mine, theirs in ((self.conv_states, like.conv_states), (self.recurrent_states, like.recurrent_states)):
            mine.update((place, None if state is None else next(given)) for place, state in theirs.items())
        self.is_conv_states_initialized = dict(like.is_conv_states_initialized)
        self.is_recurrent_states_initialized = dict(like.is_recurrent_states_initialized)
        self.conv_kernel_size = dict(like.conv_kernel_size)
        self.has_previous_state = dict.fromkeys(like.has_previous_state, True)
        self.dtype, self.device = like.dtype, like.device


class StateSlotLayer(StateLayer, SlotLayer):  # type: ignore[misc,override]  # as the library's own class of this kind
    """A layer with states and with keys and values."""

    def __init__(self, length: int, positions: torch.Tensor, number_of_states: int):
        SlotLayer.__init__(self, length, positions)
        StateLayer.__init__(self, number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        # As in the library's own class of this kind: keys and values come by position, states by name.
        SlotLayer.lazy_initialization(self, *args) if args else StateLayer.lazy_initialization(self, **kwargs)

    @property
    def in_use(self) -> bool:
        """Whether a model has written keys and states into it."""
        return self.is_initialized and bool(self.states())


class CacheBytes(NamedTuple):
    """What a cache takes: for each position of a row, over all layers, and for a row whatever its length (its states)."""

    position: int
    row: int

    def of(self, positions: int, rows: int) -> int:
        """For so many positions in so many rows."""
        return positions * self.position + rows * self.row


DummyLayer: Any = getattr(cache_utils, "DummyLayer", object)  # transformers 5.17 has none, nor layers that need it


class NoLayer(DummyLayer):
    """A layer that keeps nothing: it reads the keys of another, or does not look back at all."""

    in_use = True


CacheLayer = SlotLayer | StateLayer | NoLayer


class Holds(NamedTuple):
    """What a layer keeps of the tokens before."""

    keys: bool  # and values, of every position
    states: int  # how many pairs of them, whatever the position


def what_layers_hold(config: PreTrainedConfig) -> list[Holds]:
    """What each layer keeps."""
    kinds, settings = get_layer_types_and_kwargs(config)
    settings = [settings] * len(kinds) if isinstance(settings, dict) else settings  # one for all in transformers 5.17
    return [
        Holds(kind not in ("dummy", "conv", "linear_attention"), each.get("number_of_states", 0))
        for kind, each in zip(kinds, settings, strict=True)
    ]


def _layer(holds: Holds, length: int, positions: torch.Tensor) -> CacheLayer:
    if holds.keys and holds.states:
        return StateSlotLayer(length, positions, holds.states)
    if holds.states:
        return StateLayer(holds.states)
    return SlotLayer(length, positions) if holds.keys else NoLayer()


class SlotCache(Cache):
    """A cache whose rows have positions of their own; `positions` int64 [rows, queries] says where a forward writes.

    Args:
        holds: what each layer keeps.
        length: how many positions a row has.
    """

    def __init__(self, holds: Sequence[Holds], length: int, positions: torch.Tensor):
        self.holds, self.length, self.positions = holds, length, positions
        self.slot_layers = [_layer(each, length, positions) for each in holds]
        super().__init__(layers=list(self.slot_layers))

    @classmethod
    def empty(cls, config: PreTrainedConfig, rows: int, length: int, queries: int, device: torch.device) -> "SlotCache":
        """Room for `rows` rows and `length` positions, for forwards of `queries` tokens a row, at first at the beginning; allocated at the first."""
        positions = torch.arange(queries, device=device).repeat(rows, 1)
        return cls(what_layers_hold(config), length, positions)

    def over(self, tensors: Sequence[torch.Tensor], positions: torch.Tensor) -> "SlotCache":
        """A cache like this one over tensors that exist already, in the order of `tensors`, and as long as they are."""
        made, given = SlotCache(self.holds, self.length, positions), list(tensors)
        for layer, like in zip(made.slot_layers, self.slot_layers, strict=True):
            if isinstance(layer, SlotLayer):
                layer.keys, layer.values, layer.is_initialized = given.pop(0), given.pop(0), True
                made.length = layer.max_cache_len = layer.keys.shape[2]
            if isinstance(layer, StateLayer):
                assert isinstance(like, StateLayer)
                layer.hold([given.pop(0) for _ in like.states()], like)
        return made

    def blank(self, rows: int | None = None, length: int | None = None) -> "SlotCache":
        """Another cache of this shape, of zeros; or of other rows and another length."""
        rows, spans = rows or len(self.positions), {id(tensor) for tensor in self.spans()}
        made = []
        for tensor in self.tensors():
            _, *shape = tensor.shape
            if id(tensor) in spans:
                shape[1] = length or self.length
            made.append(tensor.new_zeros(rows, *shape))
        return self.over(made, self.positions.new_zeros(rows, self.positions.shape[1]))

    def at(self, positions: torch.Tensor) -> None:
        """The next forward writes at these positions, int64 [rows, queries]."""
        self.positions = positions
        for layer in self.slot_layers:
            if isinstance(layer, SlotLayer):
                layer.at(positions)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the first query stands, for a model that makes its masks itself (`Masks.of_keys`): behind all keys, where it is the only one of its row."""
        return self.length - 1 if self.positions.shape[1] == 1 else int(self.positions[0, 0])

    def tensors(self) -> list[torch.Tensor]:
        """Everything of every layer, as views that can be written; the first dimension is the row."""
        return self.upto(self.length)

    def upto(self, length: int, rows: int | None = None) -> list[torch.Tensor]:
        """The same with the first `length` positions alone, and the first `rows` rows."""
        found: list[torch.Tensor] = []
        for layer in self.slot_layers:
            if isinstance(layer, SlotLayer):
                whole = (layer.keys, layer.values)
                found += whole if length == self.length else (tensor[:, :, :length] for tensor in whole)
            if isinstance(layer, StateLayer):
                found += layer.states()
        return found if rows in (None, len(self.positions)) else [tensor[:rows] for tensor in found]

    def spans(self) -> list[torch.Tensor]:
        """Keys and values alone, [rows, heads, length, head size]."""
        layers = [layer for layer in self.slot_layers if isinstance(layer, SlotLayer)]
        return [tensor for layer in layers for tensor in (layer.keys, layer.values)]

    def states(self) -> list[torch.Tensor]:
        """States alone, [rows, ...]: every token changes them for good, whatever its position."""
        return [state for layer in self.slot_layers if isinstance(layer, StateLayer) for state in layer.states()]

    def bytes(self, layers: Sequence[CacheLayer] | None = None) -> CacheBytes:
        """What all layers take, or these."""
        rows, spans, states = len(self.positions), 0, 0
        for layer in self.slot_layers if layers is None else layers:
            if isinstance(layer, SlotLayer):
                spans += layer.keys.nbytes + layer.values.nbytes
            if isinstance(layer, StateLayer):
                states += sum(state.nbytes for state in layer.states())
        return CacheBytes(spans // (rows * self.length), states // rows)

    def recurrent(self) -> list[torch.Tensor]:
        """Of the states those that are no last inputs of a convolution."""
        layers = [layer for layer in self.slot_layers if isinstance(layer, StateLayer)]
        return [state for layer in layers for state in layer.recurrent_states.values() if state is not None]

    def clear(self) -> None:
        """Zeros everywhere, which is also the state before the first token."""
        for tensor in self.tensors():
            tensor.zero_()


class Masks:
    """The 4-D attention masks of one model: causal by each row's positions, with a window where a layer has one."""

    def __init__(self, config: PreTrainedConfig, dtype: torch.dtype, attention: str):
        self.dtype = dtype
        self.boolean = attention == "sdpa"  # sdpa takes booleans, eager attention adds the mask to the scores
        self.window: int | None = getattr(config, "sliding_window", None)
        self.block: int | None = getattr(config, "attention_chunk_size", None)
        self.kinds = layer_kinds(config)
        self.of_keys = False  # for a model that makes its masks itself, of which keys there are

    def at(self, positions: torch.Tensor, length: int) -> torch.Tensor | dict[str, torch.Tensor | None] | None:
        """Masks [rows, 1, queries, length] for queries at `positions` [rows, queries]: one, or one for each kind of layer; or [rows, length].

        That of a recurrent layer would say which tokens are padding; it sees none, so it has none.
        """
        if self.of_keys:
            return (torch.arange(length, device=positions.device) <= positions[:, -1:]).long()
        masks = {kind: None if kind in RECURRENT else self._mask(positions, length, kind) for kind in self.kinds}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, positions: torch.Tensor, length: int, kind: str) -> torch.Tensor:
        keys = torch.arange(length, device=positions.device)
        query = positions[:, None, :, None]
        visible = keys <= query
        if kind == "sliding_attention" and self.window is not None:
            visible &= keys > query - self.window
        if kind == "chunked_attention" and self.block is not None:
            visible &= keys // self.block == query // self.block
        if self.boolean:
            return visible
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill_(
            ~visible, torch.finfo(self.dtype).min
        )


RECURRENT = ("conv", "linear_attention")
_ATTENDING = ("full_attention", "sliding_attention", "chunked_attention")
_BOTH = {"hybrid": ("full_attention", "linear_attention")}
_NOT_LOOKING_BACK = {"moe", "mlp"}


def layer_kinds(config: PreTrainedConfig) -> tuple[str, ...]:
    """Which kinds of layers a model has, as the library names their masks; a layer that is two kinds at once counts as both.

    Raises:
        UserError: some layers are of a kind that a slot cache cannot hold.
    """
    named = getattr(config, "layer_types", None)
    if named is None:
        return ("sliding_attention",) if getattr(config, "sliding_window", None) else ("full_attention",)
    kinds = {kind for name in named for kind in _BOTH.get(name, (name,))} - _NOT_LOOKING_BACK
    unknown = kinds - {*_ATTENDING, *RECURRENT}
    if unknown:
        raise UserError(
            f"This model has {' and '.join(sorted(unknown)).replace('_', ' ')} layers, which the engine does not run; choose a model of attention, linear attention, convolution or state space layers."
        )
    return tuple(sorted(kinds))


_UNLIMITED = 2**20  # positions of a model that has no limit of its own: recurrent layers, or biases by distance


def usable_context(config: PreTrainedConfig) -> int:
    """How many positions can be used without a rotary embedding that changes with the longest row in the batch.

    "longrope" and "dynamic" scaling pick their frequencies from the largest position present, so beyond
    the original length one row's bits would depend on its neighbours.
    """
    own: int | None = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    limit = own or _UNLIMITED
    if getattr(config, "attn_temperature_tuning", False):  # it goes by the length of the cache, one for all rows
        limit = min(limit, int(config.floor_scale) - 1)
    scaling = getattr(config, "rope_parameters", None) or {}
    if scaling.get("rope_type") in ("longrope", "dynamic"):
        original = scaling.get("original_max_position_embeddings")
        return min(limit, int(original or getattr(config, "original_max_position_embeddings", None) or limit))
    return limit
