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
import struct
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

import torch

from ..types import SAMPLER_VERSION, DrawDivergence, Request, Sampling
from . import exact
from .device import on_device
from .warpers import CANDIDATES, Numbers, Warpers, share_bits, shares, warp_all

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
    digest = hashlib.blake2b(f"{SAMPLER_VERSION}|{seed}|{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """52-bit uniforms in the open interval (0, 1), float64 [R, V], for keys int64 [R] and token ids int64 [V].

    52 bits and a half are exact in float64. With 53 the largest integer plus a half would round up to 1,
    whose noise is infinite.
    """
    return _uniform(keys[:, None], ids * _GOLDEN)


def _uniform(keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return midpoint(_shift_right(_mix(places + keys), 12))


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


def rows_of_numbers(rows: Sequence[Sampling], steps: Sequence[int]) -> list[list[int]]:
    """A row of int64 for each draw, in the order of Numbers; floats by their bits, so that one transfer carries all of them."""
    table = []
    for row, step in zip(rows, steps, strict=True):
        warm = row.temperature > 0
        floats = (row.temperature, row.top_p, row.min_p) if warm else (1.0, 1.0, 0.0)
        bits = struct.unpack("4q", struct.pack("4d", *floats, row.repetition_penalty))
        table.append([key(row.seed, step), int(not warm), row.top_k if warm else 0, *bits])
    return table


def warp(logits: torch.Tensor, seen: torch.Tensor, rows: Sequence[Sampling]) -> torch.Tensor:
    """Float64 logits [R, V] after repetition penalty, temperature, top-k, top-p and min-p, in this order.

    A row at temperature 0 gets the penalty only: its argmax needs no more.
    """
    numbers, asked = _numbers(rows, [0] * len(rows), logits.device), Warpers.of(rows)
    warped, enough = warp_all(logits, seen, numbers, asked, CANDIDATES)
    return warped if bool(enough.all()) else warp_all(logits, seen, numbers, asked, logits.shape[1])[0]


def _numbers(rows: Sequence[Sampling], steps: Sequence[int], device: torch.device) -> Numbers:
    return Numbers.of(on_device(rows_of_numbers(rows, steps), device))


def winners(scores: torch.Tensor) -> torch.Tensor:
    """The id of the largest score of each row [R, V] -> int64 [R, 1]; ties go to the smallest id, a row of NaN gets the last."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    best = scores.max(dim=1, keepdim=True).values
    return torch.where(scores == best, ids, ids.numel() - 1).min(dim=1, keepdim=True).values


NOBODY = Sampling(seed=0, temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=1, max_new_tokens=1)


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
    rows, present, words = [row or NOBODY for row in settings], [row is not None for row in settings], logits.shape[1]
    numbers, asked = _numbers(rows, steps, logits.device), Warpers.of(rows)

    def look(count: int, candidates: int) -> list[_Finalists]:
        return _listed(finalists(logits, seen, numbers, asked, count, candidates).tolist())

    table = look(_FINALISTS, CANDIDATES)
    if not all(row.enough for row in compress(table, present)):
        table = look(_FINALISTS, words)
    if not all(map(_others_cannot_win, compress(table, present))):
        table = look(words, words)
    return [_decide(those, row, words) for those, row in zip(table, rows, strict=True)]


def drawn(table: list[list[float]], settings: Sequence[Sampling | None], words: int) -> list[Draw] | None:
    """What `draw` finds, of the first table alone that it would look at; None where it would look at more."""
    rows = _listed(table)
    for row in compress(rows, (each is not None for each in settings)):
        if not (row.enough and _others_cannot_win(row)):
            return None
    return [_decide(row, each or NOBODY, words) for row, each in zip(rows, settings, strict=True)]


def finalists(
    logits: torch.Tensor,
    seen: torch.Tensor,
    numbers: Numbers,
    asked: Warpers,
    count: int = _FINALISTS,
    candidates: int = CANDIDATES,
) -> torch.Tensor:
    """Of each row the numbers of _Finalists, with the `count` best, float64 [R, 3 + 5 count]; `candidates` as for `top_p`. Nobody waits for it."""
    words, plain = logits.shape[1], logits.double()
    warped, enough = warp_all(logits, seen, numbers, asked, candidates)
    chances, guesses = warped, warped
    if asked.warm:
        chances = _uniform(numbers.key, _places(words, logits.device))
        guesses = torch.where(numbers.cold > 0, warped, _gumbel(chances) + warped)
    of_rows = [plain.amax(dim=1, keepdim=True), shares(plain).sum(dim=1, keepdim=True), enough]
    ids = guesses.topk(min(count, words)).indices
    of_ids = [each.gather(1, ids) for each in (guesses, warped, chances, plain)]
    return torch.cat([*of_rows, ids.double(), *of_ids], dim=1)


def foreseen(table: torch.Tensor, numbers: Numbers) -> torch.Tensor:
    """The ids, int64 [R], that `drawn` finds in a table of `finalists` with noise, found where that is: the next pass goes on with them before anybody looks."""
    ids, guesses, warped, chances, _ = table[:, 3:].unflatten(1, (5, -1)).unbind(1)
    scores = torch.where(numbers.cold > 0, warped, warped - exact.log(-exact.log(chances)))
    scores = scores.masked_fill(guesses < guesses[:, :2].amin(1, keepdim=True) - _CLOSE, -torch.inf)
    return torch.where(scores == scores.amax(1, keepdim=True), ids, ids.amax()).amin(1).long()


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


def _listed(table: list[list[float]]) -> list[_Finalists]:
    """A table of `finalists`, row by row."""
    count = (len(table[0]) - 3) // 5
    parts = [[row[at : at + count] for at in range(3, len(row), count)] for row in table]
    return [_Finalists(row[0], row[1], row[2], *part) for row, part in zip(table, parts, strict=True)]


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
    warped, keys = warp(logits, seen, [request.sampling]), torch.tensor([key(request.sampling.seed, step)])

    def score(id: int) -> float:
        luck = noise(float(uniform(keys, torch.tensor([id])))) if request.sampling.temperature else 0.0
        return float(warped[0, id]) + luck

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
