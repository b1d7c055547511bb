"""Weights in the order in which a processor's kernel reads them.

For a few rows, oneDNN rearranges a plain weight at every product, which takes longer than the product itself. A `PackedWeight` lies as the
kernel wants it, behind an unchanged `nn.Linear`: it is a parameter of the same name, shape and dtype, and whoever reads it gets its values,
unpacked from the memory that is computed in. This file knows modules, not lanes; whether bits notice is tried elsewhere (certify.py).
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter
from torch.utils._pytree import tree_map_only

_ROWS = 4  # for which the kernel is asked what it wants; it takes any number


@cache
def _script() -> Any:
    """The operation as a function of a script, for torch's tracer has no word for one of its arguments. Not every build of torch has it."""
    unit = torch._C.CompilationUnit()
    unit.define(
        "def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:\n"
        "    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')\n",
        {"torch": torch}.get,  # type: ignore[arg-type]
    )
    return unit


class PackedWeight(Tensor):
    """The weight of a linear layer, `packed`; `tied` is the plain parameter of which it was a second name, if it was.

    A product of its own dtype is computed with it as it lies. Any other operation gets its values; one that would write into them, or
    into a view of them, is refused: nobody computes with what it would write.
    """

    packed: Tensor
    tied: Parameter | None

    @staticmethod
    def __new__(cls, weight: Parameter, tied: Parameter | None) -> "PackedWeight":
        made: PackedWeight = Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, device=weight.device)
        made.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        made.tied = tied
        made._is_param = True  # what nn.Module takes for a parameter
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and len(args) > 1 and type(args[1]) is cls:
            x, weight, *bias = args
            if x.dtype == weight.packed.dtype:
                return _script().find_function("linear")(x, weight.packed, *(bias or [None]))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:
            return args[0]
        if any(argument.alias_info is not None for argument in func._schema.arguments):
            raise TypeError(f"{func} would write into a packed weight, or look into it; unpack it first")
        return func(*tree_map_only(cls, unpacked, args), **tree_map_only(cls, unpacked, kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A plain parameter, or a second name of what the original was a second name of."""
        return Parameter(unpacked(self), requires_grad=False) if self.tied is None else copy.deepcopy(self.tied, memo)


def unpacked(weight: Tensor) -> Tensor:
    """The values of a weight, packed or not, as a plain tensor: the one that it was a second name of, as long as they are the same."""
    if not isinstance(weight, PackedWeight):
        return weight
    values = weight.packed.to_dense()
    return weight.tied if weight.tied is not None and torch.equal(values, weight.tied) else values


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel here that has an order of its own for weights of this dtype."""
    here = device.type == "cpu" and dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
    return here and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack(model: Module) -> None:
    """Pack the weights of every linear layer, one after the other, each in the place of the plain one. What is an embedding too stays there as it is."""
    looked_up = _looked_up(model)
    _exchange(model, Parameter, lambda weight: PackedWeight(weight, weight if id(weight) in looked_up else None))


def unpack(model: Module) -> None:
    """Plain weights again."""
    _exchange(model, PackedWeight, lambda weight: weight.__deepcopy__({}) if weight.tied is None else weight.tied)


def _exchange(model: Module, kind: type[Tensor], change: Callable[[Any], Tensor]) -> None:
    """Change the weights of linear layers that are of this kind; one with several names stays one."""
    made: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for module in filter(_packs, model.modules()):
            weight: Any = module._parameters["weight"]
            if type(weight) is kind:
                if id(weight) not in made:
                    made[id(weight)] = change(weight)
                module._parameters["weight"] = made[id(weight)]  # type: ignore[assignment]


def copied_bytes(model: Module) -> int:
    """What packing takes besides: a weight that is looked up in, too, is there twice then."""
    linear: dict[int, Any] = {id(module.weight): module.weight for module in model.modules() if _packs(module)}
    return sum(linear[each].nbytes for each in linear.keys() & _looked_up(model))


def memory_of(model: Any) -> list[Tensor]:
    """What lies packed, in the order of the layers."""
    return [weight.packed for weight in model.parameters() if isinstance(weight, PackedWeight)]


def _looked_up(model: Module) -> set[int]:
    """The weights that something else than a linear layer reads, by their identity."""
    return {id(weight) for module in model.modules() if not _packs(module) for weight in module._parameters.values()}


def _packs(module: Module) -> bool:
    return type(module).forward is Linear.forward and module._parameters.get("weight") is not None
