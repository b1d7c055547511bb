"""Other machines, as dispatch modes below whatever runs: other orders of every sum, and numpy's kernels for every basic operation."""

import math
import random
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten


class Counting(TorchDispatchMode):
    """Counts the operations that it computes in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.compute(func, args) if not kwargs else None
        self.calls += result is not None
        if result is None:
            with self:  # below another mode, composite operations come whole
                result = func.decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result

    def compute(self, func: Any, args: Any) -> torch.Tensor | None:
        raise NotImplementedError


class Shuffled(Counting):
    """Every product of matrices and every sum takes its terms in a random order and in two random pieces; a running sum is taken in two pieces."""

    def __init__(self, seed: int = 5):
        super().__init__()
        self.draw = random.Random(seed)

    def compute(self, func: Any, args: Any) -> torch.Tensor | None:
        if func.overloadpacket in (aten.mm, aten.bmm):
            a, b = args
            first, second = self._pieces(a.shape[-1])
            return torch.matmul(a[..., second], b[..., second, :]) + torch.matmul(a[..., first], b[..., first, :])
        if func is aten.sum.dim_IntList and args[0].is_floating_point():
            x, dims, keep = (*args, False)[:3]
            dims = [dim % x.dim() for dim in dims]
            for dim in dims:
                first, second = (
                    x.index_select(dim, torch.tensor(piece, dtype=torch.long)) for piece in self._pieces(x.shape[dim])
                )
                x = second.sum(dim, keepdim=True) + first.sum(dim, keepdim=True)
            return x if keep else x.reshape([size for dim, size in enumerate(x.shape) if dim not in dims])
        if func.overloadpacket is aten.cumsum and args[0].is_floating_point():
            x, dim = args
            first, second = x.split([cut := self.draw.randrange(x.shape[dim]), x.shape[dim] - cut], dim)
            return torch.cat([first.cumsum(dim), first.sum(dim, keepdim=True) + second.cumsum(dim)], dim)
        return None

    def _pieces(self, terms: int) -> tuple[list[int], list[int]]:
        order, cut = self.draw.sample(range(terms), terms), self.draw.randrange(terms)
        return order[:cut], order[cut:]


class Numpy(Counting):
    """Every basic operation on floats is numpy's: other vector kernels, another BLAS, pairwise sums."""

    TABLE: ClassVar = {
        aten.add: np.add,
        aten.add_: np.add,
        aten.sub: np.subtract,
        aten.sub_: np.subtract,
        aten.mul: np.multiply,
        aten.mul_: np.multiply,
        aten.div: np.divide,
        aten.div_: np.divide,
        aten.neg: np.negative,
        aten.abs: np.abs,
        aten.sqrt: np.sqrt,
        aten.mm: np.matmul,
        aten.bmm: np.matmul,
    }

    def compute(self, func: Any, args: Any) -> torch.Tensor | None:
        known = self.TABLE.get(func.overloadpacket)
        if known is not None and args[0].is_floating_point():
            kind = torch.result_type(*args) if len(args) == 2 else args[0].dtype
            with np.errstate(all="ignore"):
                out = torch.from_numpy(np.asarray(known(*(_array(each, kind) for each in args))))
            return args[0].copy_(out) if func._schema.is_mutable else out
        if func is aten.sum.dim_IntList and args[0].is_floating_point():
            x, dims, keep = (*args, False)[:3]
            return torch.from_numpy(np.asarray(np.sum(x.numpy(), axis=tuple(dims), keepdims=keep)))
        return None


def _array(given: torch.Tensor | float, kind: torch.dtype) -> Any:
    if isinstance(given, torch.Tensor):
        return given.to(kind).numpy()
    assert math.isfinite(given)
    return np.dtype(str(kind).removeprefix("torch.")).type(given)
