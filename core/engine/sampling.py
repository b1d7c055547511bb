"""How one token is drawn: argmax over the vocabulary of warped logits plus counter-based Gumbel noise.

The draw is a pure function of (logits, tokens so far, sampling settings, step). There is no generator
with a state: the noise of token v at step t is computed from (seed, t, v), so it is the same for both
siblings of a pair, in any batch, on any device.

It is also the same function on every machine that keeps IEEE 754, whichever log and exp that has. Sums of probabilities
are sums of whole numbers (`shares`), and what the machine's own log makes of the noise is a guess: those who can
win by it, all within `_CLOSE` of the second best, are scored again with `exact.log`.

Sources: the Gumbel-Max trick (Maddison, Tarlow and Minka, arXiv 1411.0030, section 2); common random
numbers for two language models as a structural causal model (arXiv 2409.17027, 2502.01754); the
SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014, figure 16).
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

import torch

from ..types import DrawDivergence, Request, Sampling
from . import exact
from .device import on_device

VERSION = "v1"

_CANDIDATES = 1024  # top-p looks at these first, and at everything only when they hold too little mass
_FINALISTS = 8  # so many are looked at for who can win, and all only when one more could
_CLOSE = 1e-6  # nats; no log is so far off, twice


class Draw(NamedTuple):
    """The token drawn; log-softmax of the unwarped logits at it (nats); how far it was ahead of the runner-up."""

    token: int
    logprob: float
    margin: float | None


# As the signed integers that torch.int64 holds; all three have their highest bit set.
_GOLDEN, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (unsigned) shift of an int64 tensor."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The SplitMix64 finaliser on int64 with wrap-around; shape is kept."""
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_FIRST)
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_SECOND)
    return _shift_right(x, 31).bitwise_xor_(x)


def key(seed: int, step: int) -> int:
    """The 64-bit key of one step: blake2b of "v1|seed|step", little-endian, as a signed integer."""
    digest = hashlib.blake2b(f"{VERSION}|{seed}|{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """52-bit uniforms in the open interval (0, 1), float64 [R, V], for keys int64 [R] and token ids int64 [V].

    52 bits and a half are exact in float64. With 53 the largest integer plus a half would round up to 1,
    whose noise is infinite.
    """
    return _uniform(keys, ids * _GOLDEN)


def _uniform(keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return midpoint(_shift_right(_mix(places + keys[:, None]), 12))


def _places(words: int, device: torch.device) -> torch.Tensor:
    """Where the uniforms of each id begin, which no seed changes. Made anew on a GPU, where engines have streams of their own and must not wait for each other."""
    return _places_here(words) if device.type == "cpu" else torch.arange(words, device=device) * _GOLDEN


@lru_cache(maxsize=8)
def _places_here(words: int) -> torch.Tensor:
    return torch.arange(words) * _GOLDEN


def midpoint(integer: torch.Tensor) -> torch.Tensor:
    """The middle of the `integer`-th of 2**52 equal parts of (0, 1), float64."""
    return integer.double().add_(0.5).mul_(2.0**-52)


def gumbel(keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise -log(-log(u)), float64 [R, V], by this machine's log. In float32 the uniform would round to 1 and the noise to infinity."""
    return _gumbel(uniform(keys, ids))


def _gumbel(uniforms: torch.Tensor) -> torch.Tensor:
    return torch.log(uniforms).neg_().log_().neg_()


def noise(uniform: float) -> float:
    """Standard Gumbel noise with the same bits on every machine."""
    return -exact.log_of(-exact.log_of(uniform))


def marked(logits: torch.Tensor, ids: Sequence[Collection[int]]) -> torch.Tensor:
    """Bool as `logits` [R, V]: of each row, which ids are among these; ids beyond the vocabulary are left out."""
    rows, words = logits.shape
    seen = torch.zeros(rows * words, dtype=torch.bool, device=logits.device)
    places = [row * words + id for row, those in enumerate(ids) for id in those if id < words]
    if places:
        seen.index_fill_(0, on_device(places, logits.device), True)
    return seen.view(rows, words)


# The warpers take float64 logits [R, V] and one setting for each row. A row whose setting is "off" comes out bit for bit
# as it went in, so its neighbours' settings do not matter.


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Repetition penalty (Keskar et al., arXiv 1909.05858, section 4.1). `seen` bool [R, V] marks prompt and reply; 1 is off."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: torch.Tensor, k: Sequence[int]) -> torch.Tensor:
    """Keep the k largest and everything equal to the k-th; the rest becomes -inf. 0 is off."""
    most, each = min(max(k), logits.shape[-1]), _column(k, logits)
    smallest_kept = logits.topk(most).values.gather(1, (each.clamp(max=most) - 1).clamp(min=0))
    return logits.masked_fill((logits < smallest_kept) & (each > 0), -torch.inf)


def top_p(logits: torch.Tensor, p: Sequence[float], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the smallest set of most likely tokens whose mass reaches p (Holtzman et al., arXiv 1904.09751). 1 is off.

    Equal logits are taken in the order of their ids. Looks at the `count` largest logits of each row, and says in the second
    tensor, bool [R, 1], whether these hold p; where they do not, the row needs a larger count.
    """
    parts, each = shares(logits), _column(p, logits)
    values, ids = logits.topk(count)
    mass, wanted = parts.gather(1, ids).cumsum(dim=1), parts.sum(dim=1, keepdim=True) * each
    kept = 1 + (mass[:, :-1] < wanted).sum(dim=1, keepdim=True)  # the most likely token always stays
    last, off = values.gather(1, kept - 1), each >= 1
    above, ties = logits > last, logits == last
    first_ties = torch.cumsum(ties, dim=1) <= kept - above.sum(dim=1, keepdim=True)
    return logits.masked_fill(~(above | (ties & first_ties) | off), -torch.inf), (mass[:, -1:] >= wanted) | off


def share_bits(count: int) -> int:
    """How many bits one of `count` shares has, so that their sum is a whole number below 2**62."""
    return min(50, 62 - count.bit_length())


def shares(logits: torch.Tensor) -> torch.Tensor:
    """Of float64 logits [R, V], how likely each is beside the most likely one: int64 [R, V], whole numbers of 2**-share_bits(V).

    Whole numbers are added exactly in any order, on a GPU too, where a running sum of floats has no deterministic
    algorithm (https://github.com/pytorch/pytorch/issues/75240).
    """
    most = logits.amax(dim=1, keepdim=True)
    return exact.share(logits - most).mul_(2.0 ** share_bits(logits.shape[1])).round_().long()


def min_p(logits: torch.Tensor, share: Sequence[float]) -> torch.Tensor:
    """Drop tokens less likely than `share` times the most likely one (arXiv 2407.01082). 0 is off: nothing is below its NaN of a logarithm."""
    best = logits.amax(dim=1, keepdim=True)
    return logits.masked_fill(logits - best < exact.log(_column(share, logits)), -torch.inf)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """One setting for each row as a column: floats become float64, ints int64."""
    kind = torch.float64 if isinstance(values[0], float) else torch.int64
    return on_device(values, like.device, kind)[:, None]


def warp(logits: torch.Tensor, seen: torch.Tensor, rows: Sequence[Sampling]) -> torch.Tensor:
    """Float64 logits [R, V] after repetition penalty, temperature, top-k, top-p and min-p, in this order.

    A row at temperature 0 gets the penalty only: its argmax needs no more. A warper that is off for
    every row is skipped, which changes no bit.
    """
    warped, enough = _warp(logits, seen, rows, _CANDIDATES)
    return warped if bool(enough.all()) else _warp(logits, seen, rows, logits.shape[1])[0]


def _warp(
    logits: torch.Tensor, seen: torch.Tensor, rows: Sequence[Sampling], candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`warp` where top-p looks at so many logits of each row, and whether they are enough, bool [R, 1]."""
    warm = [row.temperature > 0 for row in rows]
    logits = logits.double()
    if any(row.repetition_penalty != 1 for row in rows):
        logits = penalise(logits, seen, _column([float(row.repetition_penalty) for row in rows], logits))
    if any(warm):
        logits = logits / _column(
            [float(row.temperature) if on else 1.0 for row, on in zip(rows, warm, strict=True)], logits
        )
    k = [row.top_k if on else 0 for row, on in zip(rows, warm, strict=True)]
    p = [float(row.top_p) if on else 1.0 for row, on in zip(rows, warm, strict=True)]
    share = [float(row.min_p) if on else 0.0 for row, on in zip(rows, warm, strict=True)]
    enough = torch.ones(len(rows), 1, dtype=torch.bool, device=logits.device)
    if any(k):
        logits = top_k(logits, k)
    if any(each != 1 for each in p):
        logits, enough = top_p(logits, p, min(candidates, logits.shape[1]))
    if any(share):
        logits = min_p(logits, share)
    return logits, enough


def winners(scores: torch.Tensor) -> torch.Tensor:
    """The id of the largest score of each row [R, V] -> int64 [R, 1]; ties go to the smallest id, a row of NaN gets the last."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    best = scores.max(dim=1, keepdim=True).values
    return torch.where(scores == best, ids, ids.numel() - 1).min(dim=1, keepdim=True).values


def _chances(logits: torch.Tensor, rows: Sequence[Sampling], steps: Sequence[int]) -> torch.Tensor | None:
    """The uniforms [R, V] of these draws; None where no row has any noise."""
    if all(row.temperature == 0 for row in rows):
        return None
    keys = on_device([key(row.seed, step) for row, step in zip(rows, steps, strict=True)], logits.device)
    return _uniform(keys, _places(logits.shape[-1], logits.device))


_NOBODY = Sampling(seed=0, temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=1, max_new_tokens=1)


def draw(
    logits: torch.Tensor, seen: torch.Tensor, settings: Sequence[Sampling | None], steps: Sequence[int]
) -> list[Draw]:
    """Draw one token for each row: the one whose warped logit plus noise (none at temperature 0) is the largest.

    Args:
        logits: [R, V], any floating dtype; -inf marks ids that must never be drawn.
        seen: bool [R, V], the ids in each row's prompt and reply so far (read by the repetition penalty).
        settings: of each row; None where nobody is, so that what is drawn there is of no use.
        steps: for each row, how many tokens it has generated before this one.

    A row with NaN among its logits comes back with logprob NaN, and no other row is touched by it. On a GPU the host waits for
    one thing, the table of who may win; for another where that says that more must be looked at for somebody.
    """
    rows, present = [row or _NOBODY for row in settings], [row is not None for row in settings]
    words, plain, chances = logits.shape[1], logits.double(), _chances(logits, rows, steps)
    luck = None if chances is None else _gumbel(chances)
    cold = [row.temperature == 0 for row in rows]
    top, whole = plain.amax(dim=1, keepdim=True), shares(plain).sum(dim=1, keepdim=True)

    def finalists(count: int, candidates: int) -> list[_Finalists]:
        warped, enough = _warp(logits, seen, rows, candidates)
        guesses = warped if luck is None else luck + warped
        if luck is not None and any(cold):
            guesses = torch.where(on_device(cold, guesses.device)[:, None], warped, guesses)
        of_rows = torch.cat([top, whole, enough], dim=1)
        of_ids = (guesses, warped, warped if chances is None else chances, plain)
        return _finalists(of_rows, of_ids, min(count, words))

    table = finalists(_FINALISTS, _CANDIDATES)
    if not all(row.enough for row in compress(table, present)):
        table = finalists(_FINALISTS, words)
    if not all(map(_others_cannot_win, compress(table, present))):
        table = finalists(words, words)
    return [_decide(those, row, words) for those, row in zip(table, rows, strict=True)]


class _Finalists(NamedTuple):
    """Of one row its largest logit, the sum of its shares, whether top-p looked at enough, and of those who may win, the best guess first, all that decides."""

    top: float
    whole: float
    enough: float
    ids: list[float]
    guesses: list[float]
    warped: list[float]
    chances: list[float]
    logits: list[float]


def _finalists(of_rows: torch.Tensor, of_ids: Sequence[torch.Tensor], count: int) -> list[_Finalists]:
    """The `count` best of each row, in one transfer from the device; what is given in the order of _Finalists."""
    ids = of_ids[0].topk(count).indices
    table = torch.cat([of_rows, ids.double(), *(each.gather(1, ids) for each in of_ids)], dim=1).tolist()
    return [_Finalists(*row[:3], *(row[at : at + count] for at in range(3, len(row), count))) for row in table]


def _others_cannot_win(row: _Finalists) -> bool:
    """Whether whoever is not among them is too far behind the second best, or nobody."""
    last, second = row.guesses[-1], row.guesses[min(1, len(row.guesses) - 1)]
    return last < second - _CLOSE or last == -math.inf or math.isnan(row.guesses[0])


def _decide(row: _Finalists, settings: Sampling, words: int) -> Draw:
    """The draw among the finalists of one row, in Python's floats, which are IEEE 754's."""
    if not math.isfinite(row.top) or math.isnan(row.guesses[0]):
        return Draw(int(row.ids[0]), math.nan, math.nan)
    least = row.guesses[min(1, len(row.guesses) - 1)] - _CLOSE
    scored = [
        (warped if settings.temperature == 0 else warped + noise(chance), -id, logit)
        for id, guess, warped, chance, logit in zip(*row[3:], strict=True)
        if guess >= least
    ]
    (score, token, logit), (second, *_) = sorted([*scored, (-math.inf, 0.0, 0.0)], reverse=True)[:2]
    logprob = logit - row.top - exact.log_of(math.ldexp(row.whole, -share_bits(words)))
    return Draw(int(-token), logprob, score - second if second > -math.inf else None)


def divergence(logits: torch.Tensor, seen: torch.Tensor, request: Request, step: int, drawn: Draw) -> DrawDivergence:
    """How close it was, when a token was drawn that is not the one that the request expects.

    Args:
        logits: [1, V], as they were drawn from.
        seen: [1, V], as it was then.
        step: of the draw, a prefilled beginning included.
    """
    index = step - request.prefilled
    expected = request.expected[index]
    known = 0 <= expected < logits.shape[1]
    warped, chances = warp(logits, seen, [request.sampling]), _chances(logits, [request.sampling], [step])

    def score(id: int) -> float:
        return float(warped[0, id]) + (0.0 if chances is None else noise(float(chances[0, id])))

    return DrawDivergence(
        step=index,
        drawn=drawn.token,
        expected=expected,
        drawn_logit=_finite(float(logits[0, drawn.token])),
        expected_logit=_finite(float(logits[0, expected])) if known else None,
        behind=_finite(score(drawn.token) - score(expected)) if known else None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
