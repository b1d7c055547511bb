"""A fixed-shape KV cache in which every row has its own position, and the masks that go with it.

The library's StaticLayer has one position for the whole batch; here each row scatters its keys and
values at its own. Everything else is the library's own Cache machinery.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, StaticLayer

from ..errors import UserError
from .portable import keys_and_values


class SlotLayer(StaticLayer):
    """Keys and values of one layer, each [rows, heads, length, head size]."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, length: int, positions: torch.Tensor):
        super().__init__(max_cache_len=length)
        self.positions = positions  # int64 [rows, queries], shared by all layers of the cache
        self.rows = torch.arange(positions.shape[0], device=positions.device)[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values at this step's positions and return all of them."""
        key_states, value_states = keys_and_values(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # Advanced indexing, because scatter_ on bfloat16 took seven times as long on a CPU.
        self.keys[self.rows, :, self.positions] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.positions] = value_states.transpose(1, 2)
        return self.keys, self.values


class SlotCache(Cache):
    """A cache whose rows have positions of their own; `positions` int64 [rows, queries] says where a forward writes."""

    def __init__(self, layers: list[SlotLayer], positions: torch.Tensor):
        self.positions = positions
        self.slot_layers = layers
        super().__init__(layers=list(layers))

    @classmethod
    def empty(cls, config: PreTrainedConfig, rows: int, length: int, queries: int, device: torch.device) -> "SlotCache":
        """Room for `rows` rows and `length` positions, for forwards of `queries` tokens a row; allocated at the first."""
        positions = torch.zeros(rows, queries, dtype=torch.long, device=device)
        return cls([SlotLayer(length, positions) for _ in range(config.num_hidden_layers)], positions)

    @classmethod
    def over(cls, tensors: Sequence[torch.Tensor], positions: torch.Tensor) -> "SlotCache":
        """A cache over keys and values that exist already, in the order of `tensors`."""
        layers = []
        for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
            layer = SlotLayer(keys.shape[2], positions)
            layer.keys, layer.values, layer.is_initialized = keys, values, True
            layers.append(layer)
        return cls(layers, positions)

    def tensors(self) -> list[torch.Tensor]:
        """Keys and values of every layer, as views that can be written."""
        return [tensor for layer in self.slot_layers for tensor in (layer.keys, layer.values)]

    def clear(self) -> None:
        for layer in self.slot_layers:
            if layer.is_initialized:
                layer.keys.zero_()
                layer.values.zero_()


class Masks:
    """The 4-D attention masks of one model: causal by each row's positions, with a window where a layer has one."""

    def __init__(self, config: PreTrainedConfig, dtype: torch.dtype, attention: str):
        self.dtype = dtype
        self.boolean = attention == "sdpa"  # sdpa takes booleans, eager attention adds the mask to the scores
        self.window: int | None = getattr(config, "sliding_window", None)
        self.kinds = layer_kinds(config)

    def at(self, positions: torch.Tensor, length: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Masks [rows, 1, queries, length] for queries at `positions` [rows, queries]: one, or one for each kind of layer."""
        masks = {
            kind: self._mask(positions, length, self.window if kind == "sliding_attention" else None)
            for kind in self.kinds
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, positions: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
        keys = torch.arange(length, device=positions.device)
        query = positions[:, None, :, None]
        visible = keys <= query
        if window is not None:
            visible &= keys > query - window
        if self.boolean:
            return visible
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill_(
            ~visible, torch.finfo(self.dtype).min
        )


def layer_kinds(config: PreTrainedConfig) -> tuple[str, ...]:
    """Which kinds of attention the model's layers use: "full_attention", "sliding_attention" or both.

    Raises:
        UserError: some layers are of another kind (linear, chunked), which a slot cache cannot hold.
    """
    named = getattr(config, "layer_types", None)
    if named is None:
        return ("sliding_attention",) if getattr(config, "sliding_window", None) else ("full_attention",)
    kinds = tuple(sorted(set(named)))
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise UserError(
            f"This model has {' and '.join(sorted(unknown)).replace('_', ' ')} layers, which the engine does not run; choose a model with full or sliding attention only."
        )
    return kinds


def kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one position of one row takes, over all layers; the sizes that portable arithmetic keeps, one number a head, are within what is spared."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_size * dtype.itemsize


def usable_context(config: PreTrainedConfig) -> int:
    """How many positions can be used without a rotary embedding that changes with the longest row in the batch.

    "longrope" and "dynamic" scaling pick their frequencies from the largest position present, so beyond
    the original length one row's bits would depend on its neighbours.
    """
    limit = config.max_position_embeddings
    scaling = getattr(config, "rope_parameters", None) or {}
    if scaling.get("rope_type") in ("longrope", "dynamic"):
        return min(
            limit,
            scaling.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", limit),
        )
    return limit
