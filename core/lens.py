"""The token lens: what post-training changed, token by token, in a reply that is there already.

A finished reply is teacher-forced by its token ids through both models of a pair, and at every position
the two distributions over the whole vocabulary are held against each other. Nothing is tokenised again,
and what is drawn here only says what would have been drawn. This file knows no widgets.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import log
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import torch

from .checkpoints.loading import Checkpoint
from .detokenizer import Detokenizer
from .engine import Engine, Scored, exact, sampling, warpers
from .errors import UserError
from .pool import Lease
from .steps import Steps, Stop, apart, watch
from .types import (
    SIDE_NAMES,
    SIDES,
    Candidate,
    Comparison,
    Failure,
    Lens,
    LensContext,
    LensReport,
    Sampling,
    Shift,
    Side,
    Started,
)

TOP = 5  # candidates kept at each position
HEARTBEAT = 0.1  # seconds after which a reader that waits gives its caller a chance to stop
_BLOCK = 2**20  # numbers in one float64 tensor while figures are computed: 8 MB each, whatever the vocabulary


def read(
    lease: Lease, comparison: Comparison, side: Side, reply_ids: Sequence[int], context: LensContext = "identical"
) -> Steps[tuple[Shift, ...], Lens]:
    """The lens of one side's reply: yields the next tokens' shifts as soon as both models have read them.

    Yields an empty tuple about ten times a second while it waits, so that it can be stopped: closing the
    generator stops both models at their next chunk. At most three chunks of logits of each model exist
    at a time.

    Args:
        lease: the loaded pair; the caller releases it.
        comparison: what the reply answers. Gives the prompts, the settings of the draw and its noise.
        reply_ids: the token ids that `side` drew; a prefilled beginning of the comparison goes before them.
        context: "identical" lets both models read the token ids that the writer was sent, "own" lets
            the sibling read its own framing of the same conversation.

    Returns:
        The whole lens.

    Raises:
        UserError: there is nothing to read, it does not fit, one model lacks a token of it, or the two have different tokens.
    """
    lease.kin.need_same_ids("The token lens")
    whole = [*comparison.prefill(side), *reply_ids]

    def prompts(stop: Stop) -> dict[Side, tuple[int, ...]]:
        framed = {each: each if context == "own" else side for each in SIDES}
        built = {each: lease.prompt(comparison, each, stop.check).question for each in set(framed.values())}
        return {each: built[as_] for each, as_ in framed.items()}

    asked = yield from watch(apart(prompts), lambda step: ())
    ids = _common(lease, asked, whole)
    spelling = Spelling(lease.side(side), asked[side], ids)
    luck = Luck(side, comparison.sampling, asked, ids)
    shifts: list[Shift] = []
    with ExitStack() as stack:
        readers: dict[Side, Reader] = {}
        for each in SIDES:  # base first: two lenses that wait for each other's second model would wait for ever
            reader = Reader(lease.side(each).engine, (*asked[each], *ids), len(asked[each]))
            readers[each] = stack.enter_context(closing(reader))
            while not reader.started:
                reader.wait()
                yield ()
        while len(shifts) < len(ids):
            rows = min(reader.ready for reader in readers.values())
            if rows:
                logits = {each: readers[each].take(rows) for each in SIDES}
                fresh = shifts_of(luck, len(shifts), logits, spelling)
                shifts += fresh
                yield tuple(fresh)
            elif not next(reader for reader in readers.values() if not reader.ready).wait():
                yield ()
    return Lens(side=side, context=context, shifts=tuple(shifts))


class Written(Protocol):
    """One side of a finished comparison, as a result and a receipt have it."""

    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def weights_sha256(self) -> str: ...


class Finished(Protocol):
    """A finished comparison: a result or a receipt."""

    @property
    def comparison(self) -> Comparison: ...
    def side(self, side: Side, /) -> Written: ...


def report(
    lease: Lease, finished: Finished, side: Side, context: LensContext = "identical"
) -> Steps[tuple[Shift, ...], LensReport]:
    """`read` for one side of a finished comparison.

    Raises:
        UserError: as `read`; or the reply was written with other weights than those that are loaded.
    """
    for each in SIDES:
        _check_weights(lease, each, finished.side(each))
    found = yield from read(lease, finished.comparison, side, finished.side(side).token_ids, context)
    return LensReport(comparison=finished.comparison, summary=found.summary(), lens=found)


def _check_weights(lease: Lease, side: Side, written: Written) -> None:
    here, there = lease.side(side).weights_sha256, written.weights_sha256
    if here != there:
        raise UserError(
            f"This reply was written with other weights on the {SIDE_NAMES[side]} side ({there[:8]}; here they are {here[:8]}); load those to look at it."
        )


def logprobs(checkpoint: Checkpoint, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> tuple[float, ...]:
    """Log-softmax of the unwarped logits (nats) at each token of a continuation, given the prompt and those before it.

    Raises:
        UserError: it does not fit, or the model lacks one of the tokens.
    """
    if not prompt_ids or not continuation_ids:
        raise UserError("There is nothing to score; give a prompt and a continuation.")
    found: list[float] = []
    for rows in _scored(checkpoint, (*prompt_ids, *continuation_ids), len(prompt_ids)):
        ids = torch.tensor(continuation_ids[len(found) : len(found) + len(rows)], device=rows.device)
        found += rows.gather(1, ids[:, None])[:, 0].tolist()
    return tuple(found)


def likeliest(
    checkpoint: Checkpoint, token_ids: Sequence[int], first: int, count: int, check: Callable[[], None]
) -> Iterator[tuple[float, list[tuple[int, float]]]]:
    """For each token from position `first` (at least 1) on: its own log-softmax of the unwarped logits, and the `count` likeliest tokens with theirs (nats).

    `check` is called while it waits; what it raises ends it.

    Raises:
        UserError: it does not fit, the model lacks one of the tokens, or its output is not a number.
    """
    for rows in _scored(checkpoint, token_ids, first, check):
        if bool(torch.isnan(rows.sum())):
            raise UserError("The model's output is not a number here; try --dtype float32.")
        ids = torch.tensor(token_ids[first : first + len(rows)], device=rows.device)
        first += len(rows)
        yield from zip(rows.gather(1, ids[:, None])[:, 0].tolist(), top(rows, count), strict=True)


def _scored(
    checkpoint: Checkpoint, token_ids: Sequence[int], first: int, check: Callable[[], None] = lambda: None
) -> Iterator[torch.Tensor]:
    """Log-softmax of the logits, float64 [rows, vocabulary], that predict the tokens from position `first` on."""
    for logits in _logits(checkpoint, token_ids, first, check):
        yield torch.log_softmax(logits.double(), -1)


def _logits(
    checkpoint: Checkpoint, token_ids: Sequence[int], first: int, check: Callable[[], None] = lambda: None
) -> Iterator[torch.Tensor]:
    """Float32 [rows, vocabulary], that predict the tokens from position `first` on; `check` is called while it waits."""
    left = len(token_ids) - first
    with closing(Reader(checkpoint.engine, token_ids, first)) as reader:
        while left:
            check()
            if reader.ready:
                left -= (rows := reader.ready)
                yield reader.take(rows)
            else:
                check()
                reader.wait()


def entropies(
    lease: Lease, comparison: Comparison, side: Side, written: Written, check: Callable[[], None] = lambda: None
) -> tuple[float, ...]:
    """At each token of a reply that `side` drew, the entropy (nats) of what it was drawn from: after penalty, temperature and cuts.

    The reply is read by its token ids, so in portable arithmetic these are the numbers of writing it; else they are as near as
    reading is to writing. At temperature 0 nothing is drawn, and all are 0.

    Args:
        check: is called again and again; what it raises ends it.

    Raises:
        UserError: it was written with other weights, or the model's output is not a number.
    """
    _check_weights(lease, side, written)
    reply_ids = written.token_ids
    if not comparison.sampling.temperature:
        return (0.0,) * len(reply_ids)
    asked = lease.prompt(comparison, side, check).token_ids
    luck = Luck(side, comparison.sampling, {side: asked}, reply_ids)
    found: list[float] = []
    for chunk in _logits(lease.side(side), (*asked, *reply_ids), len(asked), check):
        for logits in chunk.split(max(1, _BLOCK // chunk.shape[1])):
            if bool(torch.isnan(logits.sum())):
                raise UserError("A model's output is not a number here; try --dtype float32.")
            found += entropy(luck.warped(side, len(found), logits)).tolist()
    return tuple(found)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Of the softmax of each row of float64 [R, V], in nats: log(sum of e^x) - sum of x e^x / sum of e^x, for x below its row's largest.

    The same bits on every machine: the shares are whole numbers, as in the draw (`warpers.shares`).
    """
    shares, below = warpers.shares(logits), (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-40.0)
    whole = shares.sum(dim=1).double()
    mean = exact.total(shares.double() * below, (1,)) / whole
    return exact.log(whole * 2.0 ** -warpers.share_bits(logits.shape[1])) - mean


def alternatives(
    checkpoint: Checkpoint, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]]
) -> tuple[float, ...]:
    """`logprobs`, summed, of each of several continuations of one prompt; beginnings that they share are read once.

    Raises:
        UserError: one does not fit, or the model lacks one of the tokens.
    """
    found = [0.0] * len(continuations)
    for beginning in dict.fromkeys(tuple(ids[:step]) for ids in continuations for step in range(len(ids))):
        step = len(beginning)
        going_on = [n for n, ids in enumerate(continuations) if len(ids) > step and tuple(ids[:step]) == beginning]
        ids = [continuations[n][step] for n in going_on]
        (row,) = _scored(checkpoint, (*prompt_ids, *beginning, max(ids)), len(prompt_ids) + step)
        for n, score in zip(going_on, row[0, ids].tolist(), strict=True):
            found[n] += score
    return tuple(found)


# --- what is read -----------------------------------------------------------------------------------


def _common(lease: Lease, asked: dict[Side, tuple[int, ...]], reply: Sequence[int]) -> tuple[int, ...]:
    """The reply as far as both models have its tokens: one that only its writer has may come last, as an end of turn does."""
    if not reply:
        raise UserError("This reply has no tokens to look at; choose another turn.")
    known = common_vocabulary(lease)
    ids = tuple(reply[:-1] if reply[-1] >= known else reply)
    unknown = next((id for id in (*ids, *asked["base"], *asked["post"]) if id >= known), None)
    if unknown is not None or not ids:
        raise UserError(
            f"Token {unknown if ids else reply[-1]} is not in the vocabulary of both models; let the sibling read its own framing, or look at another turn."
        )
    return ids


def common_vocabulary(lease: Lease) -> int:
    """How many ids both models have. Control tokens that only one has are left out on both sides."""
    return min(lease.base.engine.vocabulary, lease.post.engine.vocabulary)


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


class Spelling:
    """How token ids read: those of the reply as parts of its text, candidates each by itself."""

    def __init__(self, checkpoint: Checkpoint, before: Sequence[int], reply: Sequence[int]):
        self._tokenizer, self._before = checkpoint.tokenizer, before
        self._control = {id: token.content for id, token in checkpoint.tokenizer.added_tokens_decoder.items()}
        self._known: dict[int, str] = {}
        self.reply = self._parts(reply)

    def _parts(self, reply: Sequence[int]) -> list[str]:
        """One text for each token. Bytes that are not yet a character wait for the token that completes it."""
        detokenizer = Detokenizer(self._tokenizer, self._before)
        readable = []
        for id in reply:
            if id not in self._control:
                detokenizer.take(id)
            readable.append(detokenizer.readable)
        text, read, parts = detokenizer.text, 0, []
        for id, so_far in zip(reply, [*readable[:-1], text], strict=True):
            upto = len(so_far) if text.startswith(so_far) else read  # bytes that were given up later
            parts.append(self._control.get(id, "") + text[read:upto])
            read = max(read, upto)
        return parts

    def candidate(self, id: int, logprob: float) -> Candidate:
        if id not in self._known:
            detokenizer = Detokenizer(self._tokenizer, self._before)
            detokenizer.take(id)
            self._known[id] = self._control.get(id) or detokenizer.text
        return Candidate(id=id, text=self._known[id], logprob=logprob)


# --- what is computed -------------------------------------------------------------------------------


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
    rows = rows or max(1, _BLOCK // known)
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


# --- as a file ----------------------------------------------------------------------------------------


def table(lens: Lens) -> str:
    """The lens as CSV, a row for each token.

    Texts are JSON strings: white space stays visible, and a spreadsheet takes none of them for a formula.
    """
    lines = io.StringIO()
    rows = [_row(shift) for shift in lens.shifts]
    writer = csv.DictWriter(lines, list(rows[0]) if rows else ["step"])
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _row(shift: Shift) -> dict[str, Any]:
    plain = shift.model_dump(exclude={"top_base", "top_post", "drawn_base", "drawn_post"})
    derived = {"log_ratio": shift.log_ratio, "class": shift.shift_class, "agreed": shift.agreed}
    drawn = {"drawn_base": _cell(shift.drawn_base), "drawn_post": _cell(shift.drawn_post)}
    tops = {
        f"{name}_{place}": _cell(candidate)
        for name, top in (("base", shift.top_base), ("post", shift.top_post))
        for place, candidate in enumerate(top, 1)
    }
    return {**plain, "text": json.dumps(shift.text), **derived, **drawn, **tops}


def _cell(candidate: Candidate) -> str:
    return f"{json.dumps(candidate.text)} {candidate.logprob:.6f}"
