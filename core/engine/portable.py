"""A model whose every bit is the same on every machine that keeps IEEE 754, by the arithmetic of `exact`.

transformers' models run unmodified under the dispatch mode of `operations`; attention is computed here as a whole.
Knows models, no lanes and no requests.
"""

import hashlib
import sys
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.pytorch_utils import Conv1D

from . import exact
from .exact import grid, magnitude, product, room, snap
from .operations import EXACT, PASSED, Mode, aten, current, not_portable

NAME = "portable"  # of the arithmetic, and of its attention in transformers' table
POSITIONS = 17  # attention sums over at most 2**17 positions, whatever the length of the lane
CACHE = torch.float32  # of keys and values while they are kept
_SHARE_BITS, _VALUE_BITS = (53 - POSITIONS + 1) // 2, (53 - POSITIONS) // 2
_SMALLEST = 2.0**-100  # the least size of keys and values: units of it are numbers that float32 does not flush to zero
_ROUNDED = "rounded_by_portable"  # on a weight: which values rounding changed, from what, to what
_TERM_BITS = 32  # of the softmax's terms, at most 1 each: 2**20 of them are exact

# --- attention ----------------------------------------------------------------------------------------------------


def keys_and_values(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """As `attention` needs them, rounded once, when a cache takes them in; as they are where the arithmetic is another.

    Each position has a grid of its own. The size of its values, a power of two, is kept as one more number behind
    them, so that it is not looked for again at every step: values [..., size + 1]. Neither has more than 24 bits, so that
    float32 holds both exactly, in half of the memory. Where latents are kept, these have their grids, and what is made of them is rounded where it is used.
    """
    mode = current()
    if mode is None:
        return key, value
    with mode.exactly():
        if mode.latents:
            return snap(key, _size(key), 24).to(CACHE), snap(value, _size(value), 24).to(CACHE)
        return _on_grids(key, value)


def _size(x: Tensor) -> Tensor:
    """Of each position, a power of two."""
    return magnitude(x.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST))


def _on_grids(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    keys = snap(key, _size(key), min(24, room(key.shape[-1]) // 2))
    size = _size(value)
    return keys.to(CACHE), torch.cat([snap(value, size, _VALUE_BITS), size], -1).to(CACHE)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Any]:
    """Attention of queries [rows, heads, queries, size] to what `keys_and_values` made; the signature is that of transformers' table.

    The bits depend on visible positions alone, not on the lane's length nor on what lies behind the mask. One grid for
    the values of all positions would depend on the hidden ones, so each position has its own; a sum over positions
    needs one unit, so the *shares* are rounded such that share times size has it. A hidden share is exactly 0.

    Outside the mode it is the model's own.
    """
    mode = current()
    if mode is None:
        own = sys.modules[type(module).__module__].eager_attention_forward
        given = {"scaling": scaling, "softcap": softcap, "s_aux": s_aux, **others}
        given = {name: option for name, option in given.items() if option is not None}
        return own(module, query, key, value, attention_mask, dropout=dropout, **given)
    if dropout or attention_mask is None or attention_mask.dtype is not torch.float64:
        raise not_portable("attention with dropout or another mask")
    rows, heads, queries, size = query.shape
    length = key.shape[2]
    if length > 2**POSITIONS:
        raise not_portable(f"attention over {length:,} positions")
    with mode.exactly():
        if mode.latents:
            key, value = _on_grids(key.double(), value.double())
        wide = grid(query, (room(size) + 1) // 2).reshape(rows, key.shape[1], -1, size)
        scores = product(wide, key.double().transpose(2, 3)).view(rows, heads, queries, length)
        scores.mul_(size**-0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = exact.tanh(exact.divide(scores, softcap)).mul_(softcap)
        scores.add_(attention_mask)
        top = scores.amax(-1, keepdim=True)
        sinks = None if s_aux is None else s_aux.double().view(1, -1, 1, 1)  # of each head, a score that has no value
        top = top if sinks is None else torch.maximum(top, sinks)
        shares = exact.exp(scores.sub_(top))
        whole = snap(shares, 1.0, _TERM_BITS).sum(-1, keepdim=True)
        if sinks is not None:
            whole.add_(snap(exact.exp(sinks - top), 1.0, _TERM_BITS))
        value = value.double()
        value, sizes = value[..., :-1], value[..., -1].clamp(min=_SMALLEST)[:, :, None]  # 0 where nothing is yet
        weights = grid(shares.view(*wide.shape[:3], length).mul_(sizes), _SHARE_BITS).div_(sizes)
        mixed = product(weights, value).view(rows, heads, queries, -1)
        return mixed.div_(whole).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, eager_mask)


# --- models -------------------------------------------------------------------------------------------------------


class Portable:
    """A model that computes portably; in everything else it is the model. Its weights are rounded to their grids in place.

    They stay in their own dtype, for rounding to a coarser unit takes no bit more. `as_loaded` has them as they were.

    Raises:
        UserError: transformers computes this model's attention in a way of its own.
    """

    dtype = torch.float64  # of what it computes: masks, attention, logits

    def __init__(self, model: PreTrainedModel):
        self.model = model
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise not_portable("the attention of its own that it has")
        if model.config._experts_implementation is not None:
            model.set_experts_implementation("eager")
        latents = any(hasattr(module, "expand_kv") for module in model.modules())
        with torch.no_grad():
            self.mode = Mode(_round_weights(model), latents)
            with self.mode:
                _renew_rotary_embeddings(model)

    def beside(self, given_up: Callable[[], bool]) -> "Portable":
        """The same model for another thread, whose operations end when they are not wanted any more.

        Raises:
            GivenUp: by whatever it computes then.
        """
        other = object.__new__(Portable)
        other.model, other.mode = self.model, _Wanted(self.mode.prepared, self.mode.latents, given_up)
        return other

    def plain(self, kept: list[Tensor]) -> list[Tensor]:
        """What caches keep, of every layer in turn, without the sizes that stand behind values."""
        sized = [tensor if i % 2 == 0 else tensor[..., :-1] for i, tensor in enumerate(kept)]
        return kept if self.mode.latents else sized

    def __call__(self, *ids: Tensor, **inputs: Any) -> Any:
        with self.mode:
            return self.model(*ids, **inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class GivenUp(Exception):
    """What was being computed is not wanted any more."""


class _Wanted(Mode):
    """A mode that looks, before each operation, whether anybody still wants the result."""

    def __init__(self, prepared: frozenset[int], latents: bool, given_up: Callable[[], bool]):
        super().__init__(prepared, latents)
        self.given_up = given_up

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.given_up():
            raise GivenUp
        return super().__torch_dispatch__(func, types, args, kwargs)


def _round_weights(model: torch.nn.Module) -> frozenset[int]:
    """Every factor of a product on the grid of its columns; their storages."""
    storages = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            weight, dim = module.weight, 1 if isinstance(module, torch.nn.Linear) else 0
            rounded = grid(weight.double(), room(weight.shape[dim]) // 2, dim).to(weight.dtype)
            places = (rounded != weight).flatten().nonzero().flatten()
            if len(places):  # a second time nothing changes, so that what was noted stays
                setattr(weight, _ROUNDED, (places, weight.flatten()[places], rounded.flatten()[places]))
            weight.copy_(rounded)
            storages.add(weight.untyped_storage().data_ptr())
    return frozenset(storages)


def as_loaded(weight: Tensor) -> Tensor:
    """A weight with the values that were loaded, where rounding changed them; what has changed since is left as it is."""
    if not hasattr(weight, _ROUNDED):
        return weight.detach()
    places, loaded, rounded = getattr(weight, _ROUNDED)
    values = weight.detach().flatten().clone()
    values[places] = torch.where(values[places] == rounded, loaded, values[places])
    return values.view(weight.shape)


def _renew_rotary_embeddings(model: torch.nn.Module) -> None:
    """Frequencies come from libm's pow when a model is made: here from the mode's."""
    for module in model.modules():
        if "RotaryEmbedding" in type(module).__name__:
            for name, buffer in type(module)(module.config).named_buffers():
                setattr(module, name, buffer)


def digest(model: torch.nn.Module) -> str:
    """SHA-256 over all that its forward pass reads: weights and buffers by their values, and the Python numbers of its modules.

    The last come from Python's libm (`head_dim**-0.5`), the same in practice and not by proof; so they are compared.
    """
    whole = hashlib.sha256(exact.VERSION.encode())
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        whole.update(f"{name} {tuple(tensor.shape)}".encode())
        whole.update(value_bytes(tensor.detach()))
    for name, module in sorted(model.named_modules()):
        for constant, number in sorted(vars(module).items()):
            if isinstance(number, float):
                whole.update(f"{name} {constant} {number.hex()}".encode())
    return whole.hexdigest()


def value_bytes(tensor: Tensor) -> Any:
    """The values as contiguous little-endian bytes, however they are stored: bfloat16 where that is exact, else float32 or as they are."""
    tensor = tensor.cpu().contiguous()
    if tensor.dtype in (torch.float32, torch.float16):
        narrow = tensor.bfloat16()
        tensor = narrow if torch.equal(narrow.float(), tensor.float()) else tensor.float()
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def program(forward: Callable[..., Tensor], examples: tuple[Tensor, ...]) -> GraphModule:
    """What `forward` does to tensors like these, one operation after the other, without the mode.

    Raises:
        UserError: an operation in it is neither passed nor of this file's making, whoever wrote it.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx  # its import takes long, and the fast arithmetic needs none

    # One mode for what make_fx notes of every node's shape: for each it would make another, half of the time it takes.
    with tracing(TracingContext(FakeTensorMode())):
        # Each example is a tensor of its own: make_fx takes one tensor in two places for one argument.
        made = make_fx(forward, tracing_mode="real")(*(tensor.clone() for tensor in examples))
    for node in made.graph.nodes:
        operation = getattr(node.target, "overloadpacket", node.target)
        if node.op == "call_function" and operation not in PASSED | EXACT | {getitem, aten.embedding}:
            raise not_portable(str(node.target))
    return made
