"""What models find of the tokens of a reply that is there already: their logits as an engine reads them, and the figures of the token lens.

Knows engines and tensors, not pairs. The figures are explained in docs/lens.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import log
from queue import Empty, SimpleQueue
from typing import Any

import torch

from .detokenizer import Spelling
from .engine import Engine, Scored, exact, sampling, warpers
from .errors import UserError
from .types import SIDES, Candidate, Failure, Sampling, Shift, Side, Started

TOP = 5  # candidates kept at each position
HEARTBEAT = 0.1  # seconds after which a reader that waits gives its caller a chance to stop
BLOCK = 2**20  # numbers in one float64 tensor while figures are computed: 8 MB each, whatever the vocabulary


class Reader:
    """One model reading token ids that are there already; its logits arrive chunk by chunk."""

    def __init__(self, engine: Engine, token_ids: Sequence[int], first: int):
        self.started = False
        self._rows: list[torch.Tensor] = []
        self._news: SimpleQueue[Started | Scored | Failure] = SimpleQueue()
        self._scoring = engine.score(token_ids, first, self._news.put)

    @property
    def ready(self) -> int:
        """Rows of logits that can be taken now."""
        return sum(len(rows) for rows in self._rows)

    def wait(self) -> bool:
        """Wait for what the engine says next; False when it said nothing for a heartbeat."""
        try:
            news = self._news.get(timeout=HEARTBEAT)
        except Empty:
            return False
        match news:
            case Started():
                self.started = True
            case Scored():
                self._rows.append(news.logits)
            case Failure():
                raise UserError(news.message)
        return True

    def take(self, rows: int) -> torch.Tensor:
        """The next logits, float32 [rows, vocabulary]; `rows` is at most `ready`."""
        taken: list[torch.Tensor] = []
        while rows:
            head = self._rows[0]
            taken.append(head[:rows])
            rows -= len(taken[-1])
            if len(taken[-1]) == len(head):
                self._rows.pop(0)
                self._scoring.more()
            else:
                self._rows[0] = head[len(taken[-1]) :]
        return torch.cat(taken) if len(taken) > 1 else taken[0]

    def close(self) -> None:
        self._scoring.cancel()


def scored(
    engine: Engine, token_ids: Sequence[int], first: int, check: Callable[[], None] = lambda: None
) -> Iterator[torch.Tensor]:
    """Log-softmax of the logits, float64 [rows, vocabulary], that predict the tokens from position `first` on."""
    for rows in logits(engine, token_ids, first, check):
        yield torch.log_softmax(rows.double(), -1)


def logits(
    engine: Engine, token_ids: Sequence[int], first: int, check: Callable[[], None] = lambda: None
) -> Iterator[torch.Tensor]:
    """Float32 [rows, vocabulary], that predict the tokens from position `first` on; `check` is called while it waits."""
    left = len(token_ids) - first
    with closing(Reader(engine, token_ids, first)) as reader:
        while left:
            check()
            if reader.ready:
                left -= (rows := reader.ready)
                yield reader.take(rows)
            else:
                check()
                reader.wait()


def at(rows: torch.Tensor, ids: Sequence[int]) -> list[float]:
    """What each row of [R, V] has for its own of the first R ids."""
    chosen: list[float] = rows.gather(1, torch.tensor(ids[: len(rows)], device=rows.device)[:, None])[:, 0].tolist()
    return chosen


@dataclass(frozen=True)
class Luck:
    """How the reply was drawn: the settings, and the token ids behind which each model reads it.

    Luck is short for common random numbers: both models draw with the same noise.
    """

    side: Side  # who wrote it
    settings: Sampling
    asked: dict[Side, tuple[int, ...]]
    reply: tuple[int, ...]

    def noise(self, step: int, like: torch.Tensor) -> torch.Tensor:
        """The noise of the draws from `step` on, float64 [rows, vocabulary] as `like`."""
        keys = [sampling.key(self.settings.seed, step + row) for row in range(len(like))]
        ids = torch.arange(like.shape[1], device=like.device)
        return sampling.gumbel(torch.tensor(keys, device=like.device), ids)

    def warped(self, side: Side, step: int, logits: torch.Tensor) -> torch.Tensor:
        """What the draws choose from: warped logits, float64 [rows, vocabulary]."""
        penalised, before = self.settings.repetition_penalty != 1, self.asked[side]
        ids = [{*before, *self.reply[: step + row]} if penalised else set[int]() for row in range(len(logits))]
        seen = sampling.marked(logits, ids)
        return sampling.warp(logits, seen, [self.settings] * len(logits))


def shifts_of(
    luck: Luck, step: int, logits: dict[Side, torch.Tensor], spelling: Spelling, rows: int | None = None
) -> list[Shift]:
    """The shifts from `step` on, for both models' logits [rows, vocabulary], in blocks that keep memory bounded."""
    known = min(each.shape[1] for each in logits.values())
    device = logits["post"].device
    rows = rows or max(1, BLOCK // known)
    parts = {side: each[:, :known].to(device).split(rows) for side, each in logits.items()}
    found: list[Shift] = []
    for base, post in zip(parts["base"], parts["post"], strict=True):
        found += _block(luck, step + len(found), {"base": base, "post": post}, spelling)
    return found


def _block(luck: Luck, step: int, logits: dict[Side, torch.Tensor], spelling: Spelling) -> list[Shift]:
    base, post = (torch.log_softmax(logits[side].double(), -1) for side in SIDES)
    if bool(torch.isnan(base.sum() + post.sum())):
        raise UserError("A model's output is not a number here; try --dtype float32.")
    ids = torch.tensor(luck.reply[step : step + len(base)], device=base.device)[:, None]
    writer, sibling = (base, post) if luck.side == "base" else (post, base)
    warped = {side: luck.warped(side, step, logits[side]) for side in SIDES}
    noise = luck.noise(step, base) if luck.settings.temperature > 0 else torch.zeros_like(base)
    drawn = {side: sampling.winners(warped[side] + noise)[:, 0] for side in SIDES}
    columns: dict[str, list[Any]] = {
        "step": list(range(step, step + len(base))),
        "id": ids[:, 0].tolist(),
        "text": spelling.reply[step : step + len(base)],
        "rank_base": ranks(base, ids),
        "rank_post": ranks(post, ids),
        "first_choice_rank": ranks(sibling, sampling.winners(writer)),
        "logprob_base": base.gather(1, ids)[:, 0].tolist(),
        "logprob_post": post.gather(1, ids)[:, 0].tolist(),
        "kl": kl_divergence(post, base).tolist(),
        "js": jensen_shannon(base, post).tolist(),
        "agreement": _agreement(luck.settings, warped, drawn).tolist(),
        "drawn_base": _candidates(spelling, drawn["base"], base),
        "drawn_post": _candidates(spelling, drawn["post"], post),
        "top_base": [[spelling.candidate(*each) for each in row] for row in top(base)],
        "top_post": [[spelling.candidate(*each) for each in row] for row in top(post)],
    }
    return [Shift.model_validate(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _candidates(spelling: Spelling, ids: torch.Tensor, logprobs: torch.Tensor) -> list[Candidate]:
    """One token of each row: `ids` [R] with their place in `logprobs` [R, V]."""
    pairs = zip(ids.tolist(), logprobs.gather(1, ids[:, None])[:, 0].tolist(), strict=True)
    return [spelling.candidate(id, logprob) for id, logprob in pairs]


def ranks(logprobs: torch.Tensor, ids: torch.Tensor) -> list[int]:
    """The rank of token `ids` [R, 1] in each row of `logprobs` [R, V]: 1 is the first choice, ties go to the smallest id."""
    own = logprobs.gather(1, ids)
    earlier = torch.arange(logprobs.shape[1], device=logprobs.device) < ids
    return (1 + ((logprobs > own) | ((logprobs == own) & earlier)).sum(1)).tolist()


def top(logprobs: torch.Tensor, count: int = TOP) -> list[list[tuple[int, float]]]:
    """The `count` likeliest tokens of each row of [R, V] with their log-probabilities, in the order of their ranks."""
    values, ids = logprobs.topk(min(4 * count, logprobs.shape[1]))
    rows = zip(ids.tolist(), values.tolist(), strict=True)
    return [
        sorted(zip(row_ids, row_values, strict=True), key=lambda each: (-each[1], each[0]))[:count]
        for row_ids, row_values in rows
    ]


def kl_divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of each row, in nats, for log-probabilities [R, V]; at least 0 whatever the rounding."""
    weights = p.exp()
    return torch.where(weights > 0, weights * (p - q), 0).sum(1).clamp(min=0)


def jensen_shannon(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of each row, in nats (at most log 2), for log-probabilities [R, V] (Lin, 1991)."""
    middle = torch.logaddexp(p, q) - log(2)
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def _agreement(settings: Sampling, warped: dict[Side, torch.Tensor], drawn: dict[Side, torch.Tensor]) -> torch.Tensor:
    if settings.temperature == 0:  # nothing is left to luck
        return (drawn["base"] == drawn["post"]).double()
    return coupled_agreement(*(torch.log_softmax(warped[side], -1) for side in SIDES))


def coupled_agreement(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Probability that two draws which share their Gumbel noise are equal, of each row; log-probabilities [R, V] -> [R].

    It is the sum over k of 1 / sum over j of max(p_j / p_k, q_j / q_k) (derived in docs/lens.md; the
    coupling is that of arXiv 2409.17027, section 3). With the tokens in the order of p / q, the largest
    first, the inner maximum is p_j / p_k up to k and q_j / q_k after it, so that sums from both ends
    take the place of V x V terms.
    """
    ratio = torch.where(torch.isneginf(p) & torch.isneginf(q), 0, p - q)
    order = ratio.argsort(dim=1, descending=True)
    p, q = p.gather(1, order).exp(), q.gather(1, order).exp()
    above = _running_sum(p) / p
    below = (_running_sum(q.flip(1)).flip(1) - q) / q
    return torch.where((p > 0) & (q > 0), 1 / (above + below), 0).sum(1).clamp(max=1)


def _running_sum(values: torch.Tensor) -> torch.Tensor:
    """Of each row, on the CPU: on a GPU a cumulative sum of floats has no deterministic algorithm (https://github.com/pytorch/pytorch/issues/75240)."""
    return values.cpu().cumsum(dim=1).to(values.device)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Of the softmax of each row of float64 [R, V], in nats: log(sum of e^x) - sum of x e^x / sum of e^x, for x below its row's largest.

    The same bits on every machine: the shares are whole numbers, as in the draw (`warpers.shares`).
    """
    shares, below = warpers.shares(logits), (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-40.0)
    whole = shares.sum(dim=1).double()
    mean = exact.total(shares.double() * below, (1,)) / whole
    return exact.log(whole * 2.0 ** -warpers.share_bits(logits.shape[1])) - mean
