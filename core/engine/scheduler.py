"""Who runs next. Decides with plain numbers; the tensors are elsewhere.

Requests wait in the order of their turns (core/turns.py). A request takes a slot of the lane that its length needs; while
that lane is full, later requests for other lanes may pass. One prompt is read at a time, one chunk
between two decode steps, so a long prompt never stalls the replies that are being written. Scoring
takes the rounds in which no prompt is read, and at least every fourth. A request that gives way has a slot while nobody else waits for it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ..turns import NOBODY, Who, in_turn, longest_ago
from ..types import Event, FinishReason, Queued, Request, Usage

NO_SLOT = -1
PROMPTS_BEFORE_SCORE = 3  # chunks in a row that go before a score that waits


@dataclass(eq=False)
class Job:
    """One request on its way through the engine."""

    request: Request
    size: int  # length of the lane it runs in
    context: int  # how many tokens the model can hold in all
    emit: Callable[[Event], None]
    hand_over: Callable[[Any], None] | None = None  # takes the logits where somebody else chooses the tokens
    who: Who = NOBODY
    held: bool = False  # until the next token is given
    cancelled: bool = False
    slot: int = NO_SLOT
    read: int = 0  # prompt tokens whose keys and values are in the lane
    reused: int = 0
    written: list[int] = field(default_factory=list)
    prefill_passes: int = 0
    decode_passes: int = 0
    submitted: float = field(default_factory=perf_counter)
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    told: int | None = None  # the queue position that was last announced

    @property
    def step(self) -> int:
        """How many tokens the reply has, a prefilled beginning included: the step of the next draw."""
        return self.request.prefilled + len(self.written)

    @property
    def expected(self) -> int | None:
        """The token that an earlier run drew next, where one is given."""
        index = len(self.written)
        return self.request.expected[index] if index < len(self.request.expected) else None

    @property
    def next_position(self) -> int:
        """Where the last written token goes: right behind the prompt and the tokens before it."""
        return len(self.request.token_ids) + len(self.written) - 1

    def write(self, token: int) -> None:
        """Add a token to the reply."""
        self.written.append(token)
        self.last_token = perf_counter()
        self.first_token = self.first_token or self.last_token

    def begin_again(self) -> None:
        """As though it had never had a slot."""
        self.read = self.reused = self.prefill_passes = self.decode_passes = 0
        self.started = self.first_token = self.last_token = self.told = None
        self.written.clear()

    @property
    def ids_seen(self) -> list[int]:
        """Prompt and reply, where a repetition penalty asks for them."""
        penalised = self.request.sampling.repetition_penalty != 1
        return [*self.request.token_ids, *self.written] if penalised else []

    def goes_on_after(self, unread: int) -> bool:
        """Whether so many more tokens leave room for another, whichever they are."""
        written = len(self.written) + unread
        room = self.context - len(self.request.token_ids)
        return written < min(room, self.request.sampling.max_new_tokens)

    def finish_reason(self) -> FinishReason | None:
        """Why the reply ends here, or None when it goes on."""
        if self.cancelled:
            return "stopped"
        if self.written and self.written[-1] in self.request.stop_ids:
            return "eos"
        if len(self.request.token_ids) + len(self.written) >= self.context:
            return "context"
        if len(self.written) >= self.request.sampling.max_new_tokens:
            return "length"
        return None

    def usage(self) -> Usage:
        now = perf_counter()
        started = self.started if self.started is not None else now
        first = self.first_token if self.first_token is not None else now
        return Usage(
            prompt_tokens=len(self.request.token_ids),
            reused_tokens=self.reused,
            output_tokens=len(self.written),
            prefill_passes=self.prefill_passes,
            decode_passes=self.decode_passes,
            seconds_queued=started - self.submitted,
            seconds_to_first_token=first - started,
            seconds_decoding=(self.last_token or first) - first,
        )


@dataclass(eq=False)
class Score:
    """Token ids on their way through the model to be scored, a chunk at a time and only as fast as the chunks are taken.

    `first` is the position of the first token that is scored, and `allowed` how many more chunks may be
    made before the taker asks again: what is waiting to be taken stays bounded.
    """

    token_ids: tuple[int, ...]
    first: int
    size: int
    take: Callable[[Any], None]
    who: Who = NOBODY
    allowed: int = 2
    cancelled: bool = False
    started: bool = False
    read: int = 0


class Scheduler:
    """Slots, the queue, the one prompt that is being read, and the one reply that is being scored."""

    def __init__(self, sizes: tuple[int, ...], slots: int):
        self.sizes = sizes
        self.slots = slots
        self.waiting: deque[Job] = deque()
        self.reading: Job | None = None
        self.scores: deque[Score] = deque()
        self.writing: dict[int, list[Job]] = {size: [] for size in sizes}
        self._scored: list[Who] = []  # for whom, while others waited; the last one last
        self._overtook = 0  # chunks of prompts that went before a score, since the last chunk of one
        self._free: dict[int, list[int]] = {size: list(range(slots)) for size in sizes}

    @property
    def idle(self) -> bool:
        """Nothing can go on until something is heard from outside."""
        return (
            not any(self._free[job.size] for job in self.waiting)
            and self.reading is None
            and all(job.held for jobs in self.writing.values() for job in jobs)
            and self.next_to_score() is None
        )

    def size_for(self, tokens: int) -> int | None:
        """The smallest lane that holds so many tokens: chosen from the request alone, never from who else is there."""
        return next((size for size in self.sizes if tokens <= size), None)

    def add(self, job: Job) -> None:
        self.waiting.append(job)

    def make_way(self) -> None:
        """Put back who gives way and is in the way of somebody who waits; who has written the least goes first."""
        others = [job for job in self.waiting if not job.request.gives_way]
        if others and self.reading is not None and self.reading.request.gives_way:
            self._put_back(self.reading)
        for size in self.sizes:
            short = sum(job.size == size for job in others) - len(self._free[size])
            giving = [job for job in self.writing[size] if job.request.gives_way]
            for job in sorted(giving, key=lambda job: len(job.written))[: max(0, short)]:
                self._put_back(job)

    def _put_back(self, job: Job) -> None:
        self.release(job)
        job.begin_again()
        self.add(job)

    def next_chunk(self) -> Job | Score | None:
        """Whose chunk is read in this round."""
        job, score = self.next_to_read(), self.next_to_score()
        if score is not None and (job is None or self._overtook >= PROMPTS_BEFORE_SCORE):
            self._overtook = 0
            if not score.started:
                self._scored = [*(each for each in self._scored if each != score.who), score.who]
            return score
        if score is not None:
            self._overtook += 1
        return job

    def next_to_read(self) -> Job | None:
        """The job whose prompt gets the next chunk, giving it a slot if it has none yet."""
        if self.reading is None and self.waiting:
            self.reading = next((job for job in self._in_turn() if self._free[job.size]), None)
            if self.reading is not None:
                self.waiting.remove(self.reading)
                self.reading.slot = self._free[self.reading.size].pop(0)
        return self.reading

    def _in_turn(self) -> list[Job]:
        running = [job.who for job in self.active() if job.slot != NO_SLOT]
        waiting = in_turn(self.waiting, running, lambda job: job.who)
        return sorted(waiting, key=lambda job: job.request.gives_way)

    def next_to_score(self) -> Score | None:
        """The score that is under way, when it may go on: one alone, for each needs a cache of its own. Else the next in turn."""
        while self.scores and self.scores[0].cancelled:
            self.scores.popleft()
        if not self.scores:
            self._scored.clear()
        elif not self.scores[0].started:
            asked = [score for score in self.scores if not score.cancelled]
            self.scores = deque(asked)
            self.scores.remove(first := longest_ago(asked, self._scored, lambda score: score.who))
            self.scores.appendleft(first)
        if not self.scores or (self.scores[0].started and not self.scores[0].allowed):
            return None
        return self.scores[0]

    def start_writing(self, job: Job) -> None:
        self.reading = None
        self.writing[job.size].append(job)

    def release(self, job: Job) -> None:
        """Forget a job wherever it is and free its slot."""
        if job in self.waiting:
            self.waiting.remove(job)
        if self.reading is job:
            self.reading = None
        if job in self.writing[job.size]:
            self.writing[job.size].remove(job)
        job.held = False
        if job.slot != NO_SLOT:
            self._free[job.size].append(job.slot)
            self._free[job.size].sort()
            job.slot = NO_SLOT

    def active(self) -> list[Job]:
        return [
            *self.waiting,
            *([self.reading] if self.reading else []),
            *(job for jobs in self.writing.values() for job in jobs),
        ]

    def announce(self) -> list[tuple[Job, Queued]]:
        """Queue positions that have changed since they were last announced."""
        news = []
        for ahead, job in enumerate(self._in_turn()):
            if job.told != ahead:
                job.told = ahead
                news.append((job, Queued(ahead=ahead)))
        return news
