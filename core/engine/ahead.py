"""Decode steps of a lane on a GPU that draw their tokens there too, so that the next one begins before anybody has looked.

What a step drew is fed back on the device, and read from pinned memory while the next step runs. Which token it is is
still decided here (`sampling.drawn`), by the same table: the device feeds back what it foresees, and where that was
another token, or more had to be looked at, the next step did not happen for that row. The pass and the draw are the plain
operations of every other step, recorded as one CUDA graph for each length that is looked at.
"""

import random
from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import torch

from ..types import DEFAULT_SAMPLING, Sampling
from . import sampling
from .device import on_device
from .sampling import Draw
from .scheduler import Job
from .slots import SlotCache
from .step import Forward, Graphs
from .warpers import Numbers, Warpers

PLAIN = Warpers(warm=True, most=0, top_p=False, min_p=False, penalty=False)
EVERY = Warpers(warm=True, most=1024, top_p=True, min_p=True, penalty=True)
_NOBODY = [0, 0, *sampling.rows_of_numbers([sampling.NOBODY], [0])[0]]
_TRIED = Sampling(seed=0, temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.2, max_new_tokens=1)


class Flight(NamedTuple):
    """A step that is under way: for each slot whose draw it is, and None where nobody wants it any more."""

    rows: list[Job | None]
    logits: torch.Tensor  # [slots, vocabulary]
    table: torch.Tensor  # on the host, once it is `done`: the token that was fed back, and a row of sampling.finalists
    done: torch.cuda.Event

    def read(self) -> tuple[list[int], list[Draw] | None]:
        """The tokens that were fed back, and what is drawn; None where that needs a look at more."""
        self.done.synchronize()
        table, words = self.table.tolist(), self.logits.shape[1]
        settings = [job.request.sampling if job else None for job in self.rows]
        return [int(row[0]) for row in table], sampling.drawn([row[1:] for row in table], settings, words)

    def keep(self, jobs: Collection[Job]) -> bool:
        """Forget whoever is not among these; False where nobody is left."""
        self.rows[:] = [job if job in jobs else None for job in self.rows]
        return any(self.rows)

    def went_on_with(self, before: "Flight", fed: Sequence[int]) -> None:
        """Forget those to whom the step before fed back another token than they have now."""
        for row, job in enumerate(before.rows):
            if job is not None and self.rows[row] is job and job.written[-1] != fed[row]:
                self.rows[row] = None


class Ahead:
    """The decode steps of one lane.

    Args:
        forward: its pass over the first positions of `cache`, which it writes into.
        lengths: how many these are: the shortest that holds the longest row.
        vocabulary: ids from here on are padding.
        graphs: takes those of its steps.
    """

    def __init__(self, forward: Forward, cache: SlotCache, lengths: Sequence[int], vocabulary: int, graphs: Graphs):
        self._forward, self._cache, self._lengths, self._vocabulary = forward, cache, lengths, vocabulary
        self._graphs = graphs
        slots, device = len(cache.positions), cache.positions.device
        self._tokens = torch.zeros(slots, 1, dtype=torch.int64, device=device)  # what was drawn last
        self._seen = torch.zeros(slots, vocabulary, dtype=torch.bool, device=device)
        whole = forward(self._tokens, self._tokens, *cache.tensors())
        self._logits = torch.empty_like(whole[:, -1, :vocabulary])  # of the last step, whichever graph that was
        for warpers in (PLAIN, EVERY):  # over as much as all rows may get; shorter ones are made when they are needed
            self._run(warpers, [_NOBODY] * slots, lengths[-1])
        self.recorded = graphs.recorded

    def _run(self, warpers: Warpers, given: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What `_step` returns for what is given, over so many positions."""
        held = [self._tokens, self._seen, self._logits, *self._cache.upto(length)]
        changed = [self._tokens, self._seen, *self._cache.states()]
        another = partial(self._by_chance, warpers, [row[1] for row in given], length)
        step = self._graphs.of((length, warpers), partial(self._step, warpers), another, held, changed)
        found: tuple[torch.Tensor, torch.Tensor] = step(on_device(given, self._tokens.device), *held)
        return found

    def _step(
        self,
        warpers: Warpers,
        given: torch.Tensor,
        tokens: torch.Tensor,
        seen: torch.Tensor,
        kept: torch.Tensor,
        *cache: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [slots, vocabulary] and the table of a Flight.

        Args:
            given: int64 [slots, 9]: token, or -1 for that in `tokens`; position; and what Numbers has.
            tokens: int64 [slots, 1], which is written into.
            seen: bool [slots, vocabulary], which is written into.
            kept: [slots, vocabulary], where the logits go: graphs share it, so that not each keeps some.
        """
        ids, numbers = torch.where(given[:, :1] < 0, tokens, given[:, :1]), Numbers.of(given[:, 2:])
        logits = self._forward(ids, given[:, 1:2], *cache)[:, -1, : self._vocabulary]
        if warpers.penalty:
            seen.scatter_(1, ids, True)
        table = sampling.finalists(logits, seen, numbers, warpers)
        tokens.copy_(sampling.foreseen(table, numbers)[:, None])
        kept.copy_(logits)
        return kept, torch.cat([tokens.double(), table], dim=1)

    def _by_chance(
        self, warpers: Warpers, positions: Sequence[int], length: int, draw: random.Random
    ) -> list[torch.Tensor]:
        """What a step might be given whose rows are at these positions, or farther, where their own steps write over it."""
        settings = _TRIED if warpers.penalty else DEFAULT_SAMPLING
        rows = []
        for position in positions:
            one = settings.model_copy(update={"seed": draw.randrange(2**32), "temperature": draw.choice((0, 0.9))})
            token, place = draw.randrange(-1, self._vocabulary), draw.randrange(position, length)
            rows.append([token, place, *sampling.rows_of_numbers([one], [place])[0]])
        return [on_device(rows, self._tokens.device)]

    def takes(self, jobs: Sequence[Job]) -> bool:
        """Whether all of these can be drawn for here, and in one table."""
        return all(job.hand_over is None and job.request.sampling.top_k <= EVERY.most for job in jobs)

    def begin(self, jobs: Sequence[Job], before: Flight | None) -> Flight | None:
        """Start the next step, whoever of these it is for, behind the one that is under way. Nobody waits for it."""
        rows = list[Job | None]([None] * len(self._tokens))
        given = [_NOBODY] * len(self._tokens)
        for job in jobs:
            unread = int(before is not None and before.rows[job.slot] is job)
            if not job.goes_on_after(unread):
                continue
            if not unread and job.ids_seen:
                seen = self._seen[job.slot : job.slot + 1]
                seen.copy_(sampling.marked(seen, [job.ids_seen]))
            [numbers] = sampling.rows_of_numbers([job.request.sampling], [job.step + unread])
            token = -1 if unread else job.written[-1]
            rows[job.slot], given[job.slot] = job, [token, job.next_position + unread, *numbers]
        if not any(rows):
            return None
        asked = Warpers.of([job.request.sampling for job in rows if job])
        length = next(each for each in self._lengths if max(row[1] for row in given) < each)
        warpers = PLAIN if asked[1:] == PLAIN[1:] else EVERY
        logits, table = self._run(warpers, given, length)
        flight = Flight(rows, logits.clone(), table.to("cpu", non_blocking=True), torch.cuda.Event())
        flight.done.record()
        return flight
