"""Sums and functions with the same bits on every machine that keeps IEEE 754. Knows tensors of float64, no models.

A float's last bits depend on the machine in two ways: a sum is rounded in the order that a kernel picks, and a
library approximates exp, log and the like in its own way. Here neither is left to the machine.

**Sums are exact.** The terms are rounded first, to whole numbers of one unit, a power of two (`grid`). Let n be the
number of terms, n <= 2**t, and let every term be at most 2**b units. Then any partial sum, of any of the terms in
any order, is a whole number of units, and at most n 2**b <= 2**(t + b) of them. With b = `room(n)` <= 53 - t that is
at most 2**53, and float64 holds every whole number up to 2**53, times any power of two in its range. So no addition
rounds, and no order, block, thread or vector length can change a bit.

**Products of matrices** likewise: if the rows of one factor are on a grid of p bits and the columns of the other on one of q
bits, every product of two terms is a whole number, at most 2**(p + q), of the product of the two units, which is one
unit for all terms of one sum. With p + q <= `room(n)` neither the products nor any partial sum is rounded, and so it is
all one whether a product and a sum are fused (FMA). This is the error-free idea of Ozaki, Ogita, Oishi and Rump
(Numerical Algorithms 59, 2012), with one slice. What is lost is lost once, when the factors are rounded, in the same way everywhere.

Rows smaller than 2**-400 get the unit of such a row, so that a unit, and the product of two, is far above what is flushed to zero.

**Functions** are polynomials in separate additions, multiplications and divisions, which IEEE 754 rounds in one way
only. No two are handed over in one call, so none can be fused. `torch.sqrt` is not among them: on a CPU with MKL one
root in a hundred is off by a bit (https://github.com/pytorch/pytorch/issues/31250).
"""

import hashlib
import math

import torch
from torch import Tensor

VERSION = "portable-1"
_SMALLEST = 2.0**-400


def room(terms: int) -> int:
    """How many bits one term of a sum of `terms` terms may have, or both factors of one together. `snap` needs one or two to spare."""
    return min(51, 53 - (terms - 1).bit_length())


def magnitude(top: Tensor) -> Tensor:
    """The smallest power of two that is at least `top`: a number divided by its own fraction, which is exact.

    A power of two stays itself, hence the step down: rounding can lift a row's largest number to one, and that
    must not make the next rounding coarser.
    """
    below = (top * (1.0 - 2.0**-53)).clamp_(min=_SMALLEST)
    return below / torch.frexp(below).mantissa


def snap(x: Tensor, size: Tensor | float, bits: int) -> Tensor:
    """`x`, at most `size` (a power of two) everywhere, rounded to whole numbers of size * 2**-bits, bits <= 51.

    The sum with `large` lies between 2**(52 - bits) and 2**(53 - bits) sizes, where one unit is the distance of two
    float64 numbers; the difference is exact.
    """
    large = size * (1.5 * 2.0 ** (52 - bits))
    return (x + large).sub_(large)


def grid(x: Tensor, bits: int, dim: int = -1) -> Tensor:
    """`x` rounded to whole numbers of one unit for each row along `dim`, at most 2**bits of them. A second time changes nothing."""
    return snap(x, magnitude(x.abs().amax(dim, keepdim=True)), bits)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [..., m, k] @ b [..., k, n] of factors that are on grids already, `room(k)` bits together. The sum of zeros is -0.0 or 0.0 by its order: here 0.0."""
    return torch.matmul(a, b).add_(0.0)


def total(x: Tensor, dims: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """The exact sum along `dims` of terms that are rounded to a grid first."""
    bits = room(math.prod(x.shape[dim] for dim in dims))
    return snap(x, magnitude(x.abs().amax(dims, keepdim=True)), bits).sum(dims, keepdim=keepdim).add_(0.0)


def running_total(x: Tensor, dim: int) -> Tensor:
    """The exact cumulative sum of terms that are rounded to a grid first."""
    return grid(x, room(x.shape[dim]), dim).cumsum(dim).add_(0.0)


def _horner(x: Tensor, *coefficients: float) -> Tensor:
    """A polynomial, highest power first: a product, then a sum, never both at once."""
    y = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        y.add_(coefficient).mul_(x)
    return y.add_(coefficients[-1])


_EXP = tuple(1.0 / math.factorial(k) for k in range(7, -1, -1))


def exp(x: Tensor) -> Tensor:
    """e**x as e**(x / 2**14), squared 14 times; exactly 0 below -700, never above e**709. Relative error below 2**-37."""
    return _power(x.clamp(-701.0, 709.0), 14, _EXP).masked_fill_(x < -700.0, 0.0)


def share(x: Tensor) -> Tensor:
    """e**x of what is at most 0, in fewer steps: never below e**-40. Relative error below 2**-37."""
    return _power(x.clamp(min=-40.0), 12, _EXP[2:])


def _power(x: Tensor, squarings: int, coefficients: tuple[float, ...]) -> Tensor:
    """e**x, `x` changed in place, as e**(x / 2**squarings), whose exponent is at most 0.044."""
    y = _horner(x.mul_(2.0**-squarings), *coefficients)
    for _ in range(squarings):
        y.mul_(y)
    return y


_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_LOG = tuple(2.0 / k for k in range(21, 0, -2))


def log(x: Tensor) -> Tensor:
    """The natural logarithm of a positive number, NaN of any other: n log 2 + log(1 + f) by the series of artanh. Relative error below 2**-49."""
    fraction, exponent = torch.frexp(x)
    low = fraction < _ROOT_HALF
    f = torch.where(low, fraction + fraction, fraction) - 1.0  # x = (1 + f) 2**n, with 1 + f from sqrt(1/2) to sqrt(2)
    n = (exponent - low.int()).double()
    s = f / (f + 2.0)
    y = _horner(s * s, *_LOG).mul_(s)
    return torch.where(x > 0, y.add_(n * _LN2_LOW).add_(n * _LN2_HIGH), math.nan)


def log_of(x: float) -> float:
    """`log` of one number, step by step in Python's floats: the same bits, without a tensor."""
    if not x > 0:
        return math.nan
    fraction, n = math.frexp(x)
    f = fraction - 1.0
    if fraction < _ROOT_HALF:
        f, n = fraction + fraction - 1.0, n - 1
    s = f / (f + 2.0)
    z = s * s
    y = _LOG[0]
    for coefficient in _LOG[1:]:
        y = y * z + coefficient
    return y * s + n * _LN2_LOW + n * _LN2_HIGH


def sigmoid(x: Tensor) -> Tensor:
    return 1.0 / exp(-x).add_(1.0)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e**x) as max(x, 0) + log(1 + e**-|x|). Absolute error below 2**-37 (1 + |x|)."""
    return log(exp(-x.abs()).add_(1.0)).add_(x.clamp(min=0.0))


def tanh(x: Tensor) -> Tensor:
    """Absolute error below 2**-37."""
    e = exp(x.abs().mul_(-2.0))
    y = (1.0 - e).div_(e + 1.0)
    return torch.where(x < 0, -y, y)


# log(erfc(x) e**(x*x) / t) for t = 2 / (2 + x) from 1/4 to 1, in powers of (8 t - 5) / 3: interpolated at 13 Chebyshev nodes.
_ERFC = (
    float.fromhex("0x1.4eb6479ef1c38p-20"),
    float.fromhex("0x1.ed5dad4093f8ap-22"),
    float.fromhex("-0x1.c00c3b974486ap-17"),
    float.fromhex("0x1.6cabad3da20ccp-17"),
    float.fromhex("0x1.5509828adf2f3p-14"),
    float.fromhex("-0x1.9b055ca7d0e23p-13"),
    float.fromhex("-0x1.5a35bb8a91456p-12"),
    float.fromhex("0x1.09f3eccbb3206p-9"),
    float.fromhex("0x1.02bfe0b2f72fdp-11"),
    float.fromhex("-0x1.60a4da098d6a2p-6"),
    float.fromhex("0x1.6d15e17302608p-8"),
    float.fromhex("0x1.07d7108efb777p-1"),
    float.fromhex("-0x1.00bc5085b08f7p-1"),
)


def erf(x: Tensor) -> Tensor:
    """The error function as 1 - t exp(p(t) - x*x). Absolute error below 2e-10."""
    z = x.abs()
    t = 2.0 / z.clamp(max=6.0).add_(2.0)  # erfc(6) is 2e-17
    y = 1.0 - exp(_horner((8.0 * t).sub_(5.0).div_(3.0), *_ERFC).sub_(z * z)).mul_(t)
    return torch.where(x < 0, -y, y)


# pi/2 in three parts, the first two of 33 bits, so that their multiples up to 2**20 are exact
_QUARTER = tuple(map(float.fromhex, ("0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2e037073p-69")))
_TWO_OVER_PI = float.fromhex("0x1.45f306dc9c883p-1")
_SINE = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(8, -1, -1))
_COSINE = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(9, -1, -1))


def sin(x: Tensor) -> Tensor:
    """The sine of |x| up to a million. Absolute error below 2**-49."""
    return _circle(x, 0)


def cos(x: Tensor) -> Tensor:
    """The cosine of |x| up to a million. Absolute error below 2**-49."""
    return _circle(x, 1)


def _circle(x: Tensor, shift: int) -> Tensor:
    """sin(x + shift pi/2): x less the nearest multiple of pi/2, and a series for what is left."""
    n = (x * _TWO_OVER_PI).add_(1.5 * 2.0**52).sub_(1.5 * 2.0**52)
    r = x
    for part in _QUARTER:
        r = r - n * part
    z = r * r
    quadrant = (n.long() + shift) & 3
    y = torch.where((quadrant & 1) == 1, _horner(z, *_COSINE), _horner(z, *_SINE).mul_(r))
    return torch.where(quadrant >= 2, -y, y)


def sqrt(x: Tensor) -> Tensor:
    """The square root, from torch's own, which may be off by a few bits.

    In float32 a float64 root that is off by three bits still rounds to the right one: no root of a 24-bit number is closer
    than 2**-50 to a tie. In float64 Newton's steps begin at a root that is right in float32 (from 1e-37 to 1e38): relative
    error below 2**-51. 0 for what is not positive.
    """
    if x.dtype != torch.float64:
        return torch.sqrt(x.double()).to(x.dtype)
    y = torch.sqrt(x.float().double()).float().double()
    for _ in range(2):
        y = (y + x / y).mul_(0.5)
    return torch.where(x > 0, y, 0.0)


def divide(x: Tensor, y: float) -> Tensor:
    """x / y with y as a tensor: a GPU multiplies by the reciprocal of a Python number."""
    return x / torch.full((), y, dtype=x.dtype, device=x.device).expand(1)


def softmax(x: Tensor, dim: int) -> Tensor:
    e = exp(x - x.amax(dim, keepdim=True))
    return e / total(e, (dim,), keepdim=True)


def logsumexp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    top = x.amax(dim, keepdim=True)
    y = log(total(exp(x - top), (dim,), keepdim=True)).add_(top)
    return y if keepdim else y.squeeze(dim)


def samples(*shape: int, scale: float = 1.0, device: str = "cpu") -> Tensor:
    """Numbers from -scale to scale, the same everywhere: the SplitMix64 steps of `sampling`, with other constants, modulo 2**64."""
    z = torch.arange(1, math.prod(shape) + 1) * -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    return ((z >> 12).double() * 2.0**-51 * scale).view(shape).to(device)


def digest(*tensors: Tensor) -> str:
    """The first 16 digits of the SHA-256 of their bits as float64, -0.0 as 0.0."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update((tensor.double() + 0.0).cpu().contiguous().view(torch.int64).numpy().astype("<i8").tobytes())
    return whole.hexdigest()[:16]


def answers(device: str = "cpu") -> dict[str, str]:
    """What every function and sum here makes of fixed numbers, as digests by their names."""
    x, rows = samples(2053, scale=40.0, device=device), samples(5, 5000, scale=3.0, device=device)
    left, right = grid(samples(33, 768, device=device), 22), grid(samples(768, 65, device=device), 21, -2)
    found = {
        "product": (product(left, right),),
        "total": (total(rows, (-1,)), total(rows, (0, 1))),
        "running total": (running_total(rows, -1),),
        "softmax": (softmax(rows, -1), logsumexp(rows, -1)),
        "exp": (exp(x), exp(x * 20.0)),
        "share": (share(-x.abs()),),
        "log": (log(x.abs()), log(exp(x))),
        "tanh": (tanh(x), sigmoid(x)),
        "erf": (erf(x), erf(x * 0.02)),
        "sin": (sin(x), cos(x), sin(x * 1000.0), cos(x * 1000.0)),
        "sqrt": (sqrt(x.abs()), sqrt(x.abs().float()), sqrt(exp(x))),
        "divide": (divide(x, 3.0), divide(x.float(), 0.7), x / x.flip(0), x.float() * 0.1),
    }
    return {name: digest(*tensors) for name, tensors in found.items()}


KNOWN = {
    "product": "f61bd11fd707997d",
    "total": "7cd802548e2453e3",
    "running total": "6e8e9398304a3e55",
    "softmax": "ad409ffa1b57b080",
    "exp": "8fe7092789b35945",
    "share": "a9d0bec1155abf48",
    "log": "5b5961f63b4ed551",
    "tanh": "7895fe80fa2f691f",
    "erf": "a94f2709f8a3b8ac",
    "sin": "cbd8297461b2ed85",
    "sqrt": "9168506bcf8538b4",
    "divide": "d4fc2d4677d07445",
}


def self_test(device: str = "cpu") -> list[str]:
    """The names of what does not give the known answer here: empty where this machine keeps IEEE 754."""
    return [name for name, answer in answers(device).items() if answer != KNOWN[name]]
