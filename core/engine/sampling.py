"""How one token is drawn: argmax over the vocabulary of warped logits plus counter-based Gumbel noise.

The draw is a pure function of (logits, tokens so far, sampling settings, step). There is no generator
with a state: the noise of token v at step t is computed from (seed, t, v), so it is the same for both
siblings of a pair, in any batch, on any device.

Sources: the Gumbel-Max trick (Maddison, Tarlow and Minka, arXiv 1411.0030, section 2); common random
numbers for two language models as a structural causal model (arXiv 2409.17027, 2502.01754); the
SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014, figure 16).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..types import DrawDivergence, Request, Sampling

VERSION = "v1"

_CANDIDATES = 1024  # top-p looks at these first, and at everything only when they hold too little mass


class Draw(NamedTuple):
    """The token drawn; log-softmax of the unwarped logits at it (nats); how far it was ahead of the runner-up."""

    token: int
    logprob: float
    margin: float | None


# As the signed integers that torch.int64 holds; all three have their highest bit set.
_GOLDEN, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (unsigned) shift of an int64 tensor."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The SplitMix64 finaliser on int64 with wrap-around; shape is kept."""
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def key(seed: int, step: int) -> int:
    """The 64-bit key of one step: blake2b of "v1|seed|step", little-endian, as a signed integer."""
    digest = hashlib.blake2b(f"{VERSION}|{seed}|{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """52-bit uniforms in the open interval (0, 1), float64 [R, V], for keys int64 [R] and token ids int64 [V].

    52 bits and a half are exact in float64. With 53 the largest integer plus a half would round up to 1,
    whose noise is infinite.
    """
    return midpoint(_shift_right(_mix(ids * _GOLDEN + keys[:, None]), 12))


def midpoint(integer: torch.Tensor) -> torch.Tensor:
    """The middle of the `integer`-th of 2**52 equal parts of (0, 1), float64."""
    return (integer.double() + 0.5) * 2.0**-52


def gumbel(keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise -log(-log(u)), float64 [R, V]. In float32 the uniform would round to 1 and the noise to infinity."""
    return -torch.log(-torch.log(uniform(keys, ids)))


# The warpers take float64 logits [R, V] and one setting for each row, float64 or int64 [R, 1]. A row
# whose setting is "off" comes out bit for bit as it went in, so its neighbours' settings do not matter.


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Repetition penalty (Keskar et al., arXiv 1909.05858, section 4.1). `seen` bool [R, V] marks prompt and reply; 1 is off."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Keep the k largest and everything equal to the k-th; the rest becomes -inf. 0 is off."""
    most = min(int(k.max()), logits.shape[-1])
    smallest_kept = logits.topk(most).values.gather(1, (k.clamp(max=most) - 1).clamp(min=0))
    return logits.masked_fill((logits < smallest_kept) & (k > 0), -torch.inf)


def top_p(logits: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Keep the smallest set of most likely tokens whose mass reaches p (Holtzman et al., arXiv 1904.09751). 1 is off.

    Equal logits are taken in the order of their ids. Looks beyond the 1024 largest logits only when
    these hold less than p.
    """
    off = p >= 1
    kept, last, enough = _nucleus(logits, p, min(_CANDIDATES, logits.shape[-1]))
    if not bool((enough | off).all()):
        whole_kept, whole_last, _ = _nucleus(logits, p, logits.shape[-1])
        kept, last = torch.where(enough, kept, whole_kept), torch.where(enough, last, whole_last)
    above, ties = logits > last, logits == last
    first_ties = torch.cumsum(ties, dim=1) <= kept - above.sum(dim=1, keepdim=True)
    return logits.masked_fill(~(above | (ties & first_ties) | off), -torch.inf)


def _nucleus(logits: torch.Tensor, p: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Among the `count` largest logits of each row: how many are kept, the smallest of those, and whether they hold p; each [R, 1]."""
    values = logits.topk(count).values
    mass = running_sum(torch.exp(values - torch.logsumexp(logits, dim=1, keepdim=True)))
    kept = 1 + (mass[:, :-1] < p).sum(dim=1, keepdim=True)  # the most likely token always stays
    return kept, values.gather(1, kept - 1), mass[:, -1:] >= p


def running_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of each row [R, V] up to each of its values, from left to right.

    Taken on the CPU: on a GPU a cumulative sum of floats has no deterministic algorithm, and torch refuses
    it where those are asked for (https://github.com/pytorch/pytorch/issues/75240).
    """
    return values.cpu().cumsum(dim=1).to(values.device)


def min_p(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Drop tokens less likely than `share` times the most likely one (arXiv 2407.01082). 0 is off."""
    best = logits.max(dim=1, keepdim=True).values
    return logits.masked_fill(torch.exp(logits - best) < share, -torch.inf)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """One setting for each row as a column: floats become float64, ints int64."""
    kind = torch.float64 if isinstance(values[0], float) else torch.int64
    return torch.tensor(values, dtype=kind, device=like.device)[:, None]


def warp(logits: torch.Tensor, seen: torch.Tensor, rows: Sequence[Sampling]) -> torch.Tensor:
    """Float64 logits [R, V] after repetition penalty, temperature, top-k, top-p and min-p, in this order.

    A row at temperature 0 gets the penalty only: its argmax needs no more. A warper that is off for
    every row is skipped, which changes no bit.
    """
    warm = [row.temperature > 0 for row in rows]
    logits = logits.double()
    if any(row.repetition_penalty != 1 for row in rows):
        logits = penalise(logits, seen, _column([float(row.repetition_penalty) for row in rows], logits))
    if any(warm):
        logits = logits / _column(
            [float(row.temperature) if on else 1.0 for row, on in zip(rows, warm, strict=True)], logits
        )
    for warper, settings, off in (
        (top_k, [row.top_k for row in rows], 0),
        (top_p, [float(row.top_p) for row in rows], 1.0),
        (min_p, [float(row.min_p) for row in rows], 0.0),
    ):
        active = [setting if on else off for setting, on in zip(settings, warm, strict=True)]
        if any(setting != off for setting in active):
            logits = warper(logits, _column(active, logits))
    return logits


def winners(scores: torch.Tensor) -> torch.Tensor:
    """The id of the largest score of each row [R, V] -> int64 [R, 1]; ties go to the smallest id, a row of NaN gets the last."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    best = scores.max(dim=1, keepdim=True).values
    return torch.where(scores == best, ids, ids.numel() - 1).min(dim=1, keepdim=True).values


def score(logits: torch.Tensor, seen: torch.Tensor, rows: Sequence[Sampling], steps: Sequence[int]) -> torch.Tensor:
    """Float64 [R, V]: warped logits plus noise (none at temperature 0), of which the largest is drawn. Arguments as of `draw`."""
    scores = warp(logits, seen, rows)
    if all(row.temperature == 0 for row in rows):
        return scores
    ids = torch.arange(logits.shape[-1], device=logits.device)
    keys = torch.tensor([key(row.seed, step) for row, step in zip(rows, steps, strict=True)], device=logits.device)
    greedy = _column([float(row.temperature) for row in rows], scores) == 0
    return torch.where(greedy, scores, scores + gumbel(keys, ids))


def draw(logits: torch.Tensor, seen: torch.Tensor, rows: Sequence[Sampling], steps: Sequence[int]) -> list[Draw]:
    """Draw one token for each row.

    Args:
        logits: [R, V], any floating dtype; -inf marks ids that must never be drawn.
        seen: bool [R, V], the ids in each row's prompt and reply so far (read by the repetition penalty).
        rows: the sampling settings of each row.
        steps: for each row, how many tokens it has generated before this one.

    A row with NaN among its logits comes back with logprob NaN, and no other row is touched by it.
    """
    scores = score(logits, seen, rows, steps)
    tokens = winners(scores)
    best = scores.max(dim=1, keepdim=True).values
    runner_up = scores.scatter(1, tokens, -torch.inf).max(dim=1, keepdim=True).values
    exact = logits.double()
    logprobs = exact.gather(1, tokens) - torch.logsumexp(exact, dim=1, keepdim=True)
    table = torch.cat([tokens.double(), logprobs, best - runner_up], dim=1).tolist()  # one transfer from the device
    return [Draw(int(token), logprob, margin if margin != float("inf") else None) for token, logprob, margin in table]


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
    scores = score(logits, seen, [request.sampling], [step])
    return DrawDivergence(
        step=index,
        drawn=drawn.token,
        expected=expected,
        drawn_logit=_finite(logits[0, drawn.token]),
        expected_logit=_finite(logits[0, expected]) if known else None,
        behind=_finite(scores[0, drawn.token] - scores[0, expected]) if known else None,
    )


def _finite(value: torch.Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
