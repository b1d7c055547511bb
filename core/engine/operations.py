"""What every operation of torch becomes in portable arithmetic: passed as it is, replaced by what `exact` does, or refused.

Knows operations and numbers, no models. The lists are data; `Mode` applies them to whatever runs inside it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UserError
from . import exact
from .exact import grid, product, room

_BLOCK = 2**18  # weights that are widened at once: two megabytes, which a processor's cache holds

aten: Any = torch.ops.aten


def not_portable(what: str) -> UserError:
    return UserError(
        f"This model cannot be served in portable arithmetic, which has no form for {what}; use --arithmetic fast."
    )


def _packets(names: str) -> frozenset[Any]:
    return frozenset(getattr(aten, name) for name in names.split())


# Passed: no arithmetic at all, or one rounding of whole operands, of which IEEE 754 leaves nothing to choose.
PASSED = _packets(
    # data movement
    "view _unsafe_view expand permute transpose t slice select unsqueeze squeeze cat stack split split_with_sizes unbind"
    " clone copy_ copy _to_copy alias detach detach_ lift_fresh lift_fresh_copy index index_put index_put_ index_select"
    " gather scatter scatter_ where masked_fill masked_fill_ fill fill_ zero_ flip repeat tril triu empty empty_like"
    " empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like new_ones full full_like"
    " new_full scalar_tensor constant_pad_nd as_strided _local_scalar_dense _reshape_alias"
    # comparisons
    " eq ne lt le gt ge logical_and logical_or logical_not logical_xor isnan any all max min amax amin maximum minimum"
    " argmax clamp clamp_ clamp_min clamp_max relu equal is_nonzero nonzero aminmax _assert_async _is_all_true"
    # whole numbers
    " bitwise_and bitwise_and_ bitwise_or bitwise_or_ bitwise_xor bitwise_not __rshift__ __lshift__ __and__ __or__"
    " __xor__ __iand__ __ior__ bitwise_right_shift bitwise_left_shift"
    # one rounding
    " add add_ sub sub_ rsub mul mul_ div div_ neg neg_ abs abs_ reciprocal frexp floor"
)
# Exact where the terms are on a grid: only this file and `exact` may call them.
EXACT = _packets("mm bmm sum cumsum arange sqrt sort")
_ALPHA, _DIVISION = _packets("add add_ sub sub_ rsub"), _packets("div div_")

_NOTHING = torch.empty(0)
_current: ContextVar["Mode | None"] = ContextVar("portable mode", default=None)


def current() -> "Mode | None":
    """The mode that this thread is in."""
    return _current.get()


class Mode(TorchDispatchMode):
    """Inside, operations are portable.

    Args:
        prepared: the storages of weights that are on their grids, to spare them a second rounding.
        latents: caches keep what keys and values are made of (latent attention, arXiv 2405.04434, section 2.1).

    Raises:
        UserError: inside it, an operation that has no portable form.
    """

    def __init__(self, prepared: frozenset[int] = frozenset(), latents: bool = False):
        super().__init__()
        self.prepared, self.latents = prepared, latents
        self._exact = False
        self._tokens: list[Token[Mode | None]] = []
        self._wide = _NOTHING
        self._rounded: tuple[Tensor | None, tuple[int, int], Tensor]
        self._matrix: tuple[Tensor | None, Tensor]
        self._forget()

    def __enter__(self) -> "Mode":
        self._tokens.append(_current.set(self))
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        _current.reset(self._tokens.pop())

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """For code whose sums are exact already: the mode leaves its operations as they are."""
        self._exact = True
        try:
            yield
        finally:
            self._exact = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if self._exact:
            return func(*args, **kwargs)
        if packet in REPLACED:
            return REPLACED[packet](self, *args, **kwargs)
        if packet in PASSED:
            if func._schema.is_mutable:
                self._forget()
            return _passed(func, args, kwargs)
        with self:  # a composite operation
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise not_portable(str(func))
        return result

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """a [..., m, k] @ b [..., k, n] of two or three dimensions, float64."""
        bits = room(a.shape[-1])
        return product(self._factor(a, -1, (bits + 1) // 2), self._factor(b, -2, bits // 2))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., k] @ weight [n, k].T, the weight in blocks of rows."""
        flat, rows = self._flat(x), max(1, _BLOCK // weight.shape[1])
        parts = [self.matmul(flat, self._widened(part).t()) for part in weight.split(rows)]
        y = (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).view(*x.shape[:-1], weight.shape[0]).to(x.dtype)
        return y if bias is None else y.add_(bias)

    def _factor(self, x: Tensor, dim: int, bits: int) -> Tensor:
        """One factor of a product on its grid along `dim`; what was rounded last is kept, for queries, keys and values have one input."""
        if self._is_prepared(x):
            return self._widened(x)
        if self._rounded[0] is not x or self._rounded[1] != (dim, bits):
            self._rounded = (x, (dim, bits), grid(x.double(), bits, dim))
        return self._rounded[2]

    def _is_prepared(self, x: Tensor) -> bool:
        storage = x.untyped_storage().data_ptr()
        return storage in self.prepared or storage == self._wide.untyped_storage().data_ptr() != 0

    def _widened(self, weight: Tensor) -> Tensor:
        """A prepared weight in float64, in the one buffer that all of them share: fresh memory would cost more than the product."""
        if weight.dtype == torch.float64 or not self._is_prepared(weight):
            return weight
        if self._wide.numel() < weight.numel():
            self._wide = torch.empty(weight.numel(), dtype=torch.float64, device=weight.device)
        return self._wide[: weight.numel()].view(weight.shape).copy_(weight)

    def _flat(self, x: Tensor) -> Tensor:
        """`x` as a matrix; the same object while `x` is the same, so that it is rounded once."""
        if self._matrix[0] is not x:
            self._matrix = (x, x.reshape(-1, x.shape[-1]))
        return self._matrix[1]

    def _forget(self) -> None:
        """Keep nothing over a change in place."""
        self._rounded, self._matrix = (None, (0, 0), _NOTHING), (None, _NOTHING)


def _passed(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation itself, unless it would round twice, or otherwise on a GPU."""
    packet = func.overloadpacket
    if packet in _ALPHA and kwargs.get("alpha", args[2] if len(args) > 2 else 1) != 1:
        raise not_portable(f"{func} with alpha")  # a product and a sum in one kernel
    if packet in _DIVISION:
        if kwargs.get("rounding_mode") is not None and args[0].is_floating_point():
            raise not_portable(f"{func} with a rounding mode")
        if not isinstance(args[1], Tensor) and args[0].is_floating_point():
            divided = exact.divide(args[0], args[1])
            return args[0].copy_(divided) if packet is aten.div_ else divided
    return func(*args, **kwargs)


# --- what is replaced ---------------------------------------------------------------------------------------------


def _wide(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of float64 for any floating dtype: computed in float64, rounded once at the end."""
    return lambda mode, x, *args, **kwargs: function(x.double(), *args, **kwargs).to(x.dtype)


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    return tuple(range(x.dim())) if dim is None or dim == [] else (dim,) if isinstance(dim, int) else tuple(dim)


def _sum(mode: Mode, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if not x.is_floating_point():
        return x.sum(_dims(x, dim), keepdim, dtype=dtype)
    return exact.total(x.double(), _dims(x, dim), keepdim).to(dtype or x.dtype)


def _mean(mode: Mode, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    whole = exact.total(x.double(), _dims(x, dim), keepdim)
    return exact.divide(whole, x.numel() // max(1, whole.numel())).to(dtype or x.dtype)


def _cumsum(mode: Mode, x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    if not x.is_floating_point():
        return x.cumsum(dim, dtype=dtype)
    return exact.running_total(x.double(), dim).to(dtype or x.dtype)


def _mm(mode: Mode, a: Tensor, b: Tensor) -> Tensor:
    if a.shape[-1] == 1:
        return a * b  # the angles of rotary embeddings: one product, one rounding
    return mode.matmul(a, b).to(a.dtype)


def _addmm(mode: Mode, bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    if beta != 1 or alpha != 1:
        raise not_portable("addmm with alpha or beta")
    return _mm(mode, a, b).add_(bias)


def _layer_norm(mode: Mode, x: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dims, wide, count = tuple(range(-len(shape), 0)), x.double(), math.prod(shape)
    off = wide - exact.divide(exact.total(wide, dims, True), count)
    deviation = exact.sqrt(exact.divide(exact.total(off * off, dims, True), count).add_(eps))
    y = off.div_(deviation)
    y = y if weight is None else y.mul_(weight)
    return (y if bias is None else y.add_(bias)).to(x.dtype), deviation, deviation


def _embedding(mode: Mode, weight: Tensor, ids: Tensor, *options: Any) -> Tensor:
    """In float64, whatever the weights are stored in: there the model's arithmetic begins."""
    return aten.embedding(weight, ids, *options).double()


def _arange(mode: Mode, *args: Any, **kwargs: Any) -> Tensor:
    if not all(isinstance(arg, int) for arg in args):
        raise not_portable("arange of floats")
    return torch.arange(*args, **kwargs)


_POWERS: dict[float, Callable[[Tensor], Tensor]] = {
    1.0: lambda x: x.clone(),
    2.0: lambda x: x * x,
    3.0: lambda x: (x * x).mul_(x),
    0.5: exact.sqrt,
    -0.5: lambda x: 1.0 / exact.sqrt(x),
    -1.0: lambda x: 1.0 / x,
}


def _pow(mode: Mode, x: Any, y: Any) -> Tensor:
    if not isinstance(x, Tensor):  # the base of a rotary embedding
        logarithm = exact.log(torch.full((1,), float(x), dtype=torch.float64, device=y.device))
        return exact.exp(y.double() * logarithm).to(y.dtype)
    if y not in _POWERS:
        raise not_portable(f"powers of {y}")
    return _POWERS[y](x)


def _gelu(mode: Mode, x: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), or its approximation by tanh (arXiv 1606.08415, section 2)."""
    wide = x.double()
    if approximate == "tanh":
        inner = (wide * wide).mul_(wide).mul_(0.044715).add_(wide).mul_(-2.0 * float.fromhex("0x1.9884533d43651p-1"))
        return (wide / exact.exp(inner).add_(1.0)).to(x.dtype)
    return exact.erf(wide * float.fromhex("0x1.6a09e667f3bcdp-1")).add_(1.0).mul_(0.5).mul_(wide).to(x.dtype)


def _softplus(mode: Mode, x: Tensor, beta: Any = 1, threshold: Any = 20) -> Tensor:
    if beta != 1:
        raise not_portable("softplus with beta")
    return torch.where(x > threshold, x, exact.softplus(x.double()).to(x.dtype))


def _logsumexp(mode: Mode, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    dims = _dims(x, dim)
    if len(dims) != 1:
        raise not_portable("logsumexp along several dimensions")
    return exact.logsumexp(x.double(), dims[0], keepdim).to(x.dtype)


def _sort(mode: Mode, x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Stable: equal numbers in the order of their places, which torch leaves open."""
    return torch.sort(x, stable=True, dim=dim, descending=descending)


def _topk(mode: Mode, x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return tuple(part.narrow(dim, 0, k) for part in _sort(mode, x, dim, largest))


def _index_add_(mode: Mode, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """What an expert adds to the rows that chose it: one addition for each, as long as none is named twice."""
    if dim != 0 or alpha != 1 or len(index) != len(index.unique()):
        raise not_portable("index_add_ of rows that are named twice, or with alpha")
    mode._forget()
    return x.index_copy_(0, index, x.index_select(0, index) + source)


REPLACED: dict[Any, Callable[..., Any]] = {
    aten.mm: _mm,
    aten.bmm: _mm,
    aten.addmm: _addmm,
    aten.linear: lambda mode, *args: mode.linear(*args),
    aten.embedding: _embedding,
    aten.native_layer_norm: _layer_norm,
    aten.sum: _sum,
    aten.mean: _mean,
    aten.cumsum: _cumsum,
    aten.sort: _sort,
    aten.topk: _topk,
    aten.arange: _arange,
    aten.index_add_: _index_add_,
    aten.pow: _pow,
    aten.exp: _wide(exact.exp),
    aten.log: _wide(exact.log),
    # near 0 these two keep the absolute errors of exp and log, not the relative ones
    aten.expm1: _wide(lambda x: exact.exp(x).sub_(1.0)),
    aten.log1p: _wide(lambda x: exact.log(x + 1.0)),
    aten.softplus: _softplus,
    aten.sigmoid: _wide(exact.sigmoid),
    aten.silu: _wide(lambda x: x / exact.exp(-x).add_(1.0)),
    aten.tanh: _wide(exact.tanh),
    aten.erf: _wide(exact.erf),
    aten.gelu: _gelu,
    aten.sin: _wide(exact.sin),
    aten.cos: _wide(exact.cos),
    aten.sqrt: lambda mode, x: exact.sqrt(x),
    aten.rsqrt: lambda mode, x: 1.0 / exact.sqrt(x),
    aten._softmax: lambda mode, x, dim, half: exact.softmax(x.double(), dim).to(x.dtype),
    aten.logsumexp: _logsumexp,
}
