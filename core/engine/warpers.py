"""What a row's settings make of its logits before a token is drawn. The order and the draw are `sampling`'s."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..types import Sampling
from . import exact

CANDIDATES = 1024  # top-p looks at these first, and at everything only when they hold too little mass


class Numbers(NamedTuple):
    """What the next draw of each row goes by, a column [R, 1] each; a row at temperature 0 is `cold`, and has every warper off but the penalty."""

    key: torch.Tensor  # int64, as the others before the temperature
    cold: torch.Tensor
    top_k: torch.Tensor
    temperature: torch.Tensor  # float64, as the others from here on
    top_p: torch.Tensor
    min_p: torch.Tensor
    penalty: torch.Tensor

    @classmethod
    def of(cls, table: torch.Tensor) -> "Numbers":
        """Those of a table of `rows_of_numbers`, on whatever device that is."""
        columns, floats = table.split(1, dim=1), table.view(torch.float64).split(1, dim=1)
        return cls(*columns[:3], *floats[3:])


class Warpers(NamedTuple):
    """Which warpers some row asks for: one that is off for every row is skipped, which changes no bit."""

    warm: bool
    most: int  # the largest k; 0 is off
    top_p: bool
    min_p: bool
    penalty: bool

    @classmethod
    def of(cls, rows: Sequence[Sampling]) -> "Warpers":
        warm = [row for row in rows if row.temperature > 0]
        return cls(
            bool(warm),
            max((row.top_k for row in warm), default=0),
            any(row.top_p != 1 for row in warm),
            any(row.min_p for row in warm),
            any(row.repetition_penalty != 1 for row in rows),
        )


# The warpers take float64 logits [R, V] and one setting for each row. A row whose setting is "off" comes out bit for bit
# as it went in, so its neighbours' settings do not matter.


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Repetition penalty (Keskar et al., arXiv 1909.05858, section 4.1). `seen` bool [R, V] marks prompt and reply; 1 is off."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: torch.Tensor, k: torch.Tensor, most: int) -> torch.Tensor:
    """Keep the k largest, of at most `most`, and everything equal to the k-th; the rest becomes -inf. 0 is off."""
    most = min(most, logits.shape[-1])
    smallest_kept = logits.topk(most).values.gather(1, (k.clamp(max=most) - 1).clamp(min=0))
    return logits.masked_fill((logits < smallest_kept) & (k > 0), -torch.inf)


def top_p(logits: torch.Tensor, p: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the smallest set of most likely tokens whose mass reaches p (Holtzman et al., arXiv 1904.09751). 1 is off.

    Equal logits are taken in the order of their ids. Looks at the `count` largest logits of each row, and says in the second
    tensor, bool [R, 1], whether these hold p; where they do not, the row needs a larger count.
    """
    parts = shares(logits)
    values, ids = logits.topk(count)
    mass, wanted = parts.gather(1, ids).cumsum(dim=1), parts.sum(dim=1, keepdim=True) * p
    kept = 1 + (mass[:, :-1] < wanted).sum(dim=1, keepdim=True)  # the most likely token always stays
    last, off = values.gather(1, kept - 1), p >= 1
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


def min_p(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Drop tokens less likely than `share` times the most likely one (arXiv 2407.01082). 0 is off: nothing is below its NaN of a logarithm."""
    best = logits.amax(dim=1, keepdim=True)
    return logits.masked_fill(logits - best < exact.log(share), -torch.inf)


def warp_all(
    logits: torch.Tensor, seen: torch.Tensor, numbers: Numbers, asked: Warpers, candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 logits [R, V] after repetition penalty, temperature, top-k, top-p and min-p, in this order; and whether `candidates` are enough for top-p, bool [R, 1]."""
    logits = logits.double()
    if asked.penalty:
        logits = penalise(logits, seen, numbers.penalty)
    if asked.warm:
        logits = logits / numbers.temperature
    enough = torch.ones(len(logits), 1, dtype=torch.bool, device=logits.device)
    if asked.most:
        logits = top_k(logits, numbers.top_k, asked.most)
    if asked.top_p:
        logits, enough = top_p(logits, numbers.top_p, min(candidates, logits.shape[1]))
    if asked.min_p:
        logits = min_p(logits, numbers.min_p)
    return logits, enough
