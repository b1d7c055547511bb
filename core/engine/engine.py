"""One engine for one checkpoint: a worker thread that reads prompts, writes tokens and reports events.

Requests join and leave between two forward passes. What a request receives depends on the request
alone: the scheduler decides when it runs, never how. Events are handed to a callback on the worker
thread; nothing here waits for whoever listens.
"""

import atexit
import logging
import math
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
import transformers
from transformers import PreTrainedModel

from .. import __version__
from ..errors import UserError
from ..turns import asking
from ..types import SAMPLER_VERSION, Deviation, EngineInfo, Event, Failure, Finish, Request, Started, Token
from . import certify, device, exact, experts, packed, portable, reference, sampling
from .ahead import Flight
from .certify import Level
from .lane import Lane
from .portable import Portable
from .scheduler import NO_SLOT, Job, Scheduler, Score
from .slots import CacheBytes, SlotCache
from .step import DecodeStep, Recorder, replaying
from .store import PrefillStore
from .watch import PATIENCE, Abandoned, Patience, Watch

log = logging.getLogger(__name__)

LANE_SIZES = (256, 1024, 4096, 16384)
STORE_BYTES = 256 * 2**20  # of kept prefill chunks, over all lanes

UNLOADED = "These weights were just unloaded to make room; press Compare again."
STOPPED = "The engine stopped before this was finished; ask again in a minute."
HUNG = "A step of this model did not end, so the model is being started again; nothing of yours was lost, ask again in a minute."

Emit = Callable[[Event], None]
TellShare = Callable[[float], None]


class Scored(NamedTuple):
    """Logits, float32 or float64, [rows, vocabulary] of one chunk: row i predicts the token at position `first + i`."""

    first: int
    logits: torch.Tensor


Take = Callable[[Started | Scored | Failure], None]
Steer = Callable[[Event | torch.Tensor], None]


@dataclass(frozen=True)
class Shape:
    """The fixed numbers of an engine. They are part of its fingerprint."""

    slots: int
    chunk: int
    sizes: tuple[int, ...]
    threads: int
    spread: bool = False  # its layers lie on several GPUs


def lane_sizes(context: int, chunk: int) -> tuple[int, ...]:
    """A few lane lengths, the last of them the whole context (rounded down to complete chunks)."""
    whole = max(chunk, context // chunk * chunk)
    return (*(size for size in LANE_SIZES if size < whole), whole)


class Stoppable(Protocol):
    """A reply that is being written."""

    def cancel(self) -> None:
        """Stop at the next step; the tokens written so far stand. Safe from any thread, any number of times."""


class Ticket:
    """A handle on a submitted request."""

    def __init__(self, job: Job, wake: Callable[[], None]):
        self._job, self._wake = job, wake

    def cancel(self) -> None:
        """Stop at the next step; the tokens written so far stand. Safe from any thread, any number of times."""
        self._job.cancelled = True
        self._wake()


class Given(NamedTuple):
    """The next token of a steered request."""

    job: Job
    token: int


class Steering(Ticket):
    """A handle on a request whose tokens are chosen outside."""

    def __init__(self, job: Job, put: Callable[[Given | None], None]):
        super().__init__(job, lambda: put(None))
        self._put = put

    def give(self, token: int) -> None:
        """The token that follows the logits that were handed over last. Safe from any thread."""
        self._put(Given(self._job, token))


class Scoring:
    """A handle on token ids that are being scored."""

    def __init__(self, score: Score, wake: Callable[[], None]):
        self._score, self._wake = score, wake

    def more(self) -> None:
        """A chunk was taken, so another may be made. Safe from any thread."""
        self._score.allowed += 1
        self._wake()

    def cancel(self) -> None:
        """Stop at the next chunk and forget the rest. Safe from any thread, any number of times."""
        self._score.cancelled = True
        self._wake()


class Engine:
    """Generation over one model.

    Args:
        model: a decoder, in evaluation mode, on its device.
        vocabulary: number of ids that the tokenizer knows; logits beyond are padding and never drawn.
        shape: slots, chunk, lane lengths and threads.
        attention: what to try first, "sdpa" or "eager"; or portable.NAME, which is never stepped down from.
        context: how many tokens a prompt and its reply may have together; by default what the longest lane holds.
        patience: with a pass. One that takes longer is abandoned with its thread, and the engine is over (`again`).
        progress: is told which share of certification is done, on the worker thread; another level begins anew.

    Certification runs on the worker thread before the first request; the constructor waits for it, however long it takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        shape: Shape,
        attention: str,
        context: int | None = None,
        patience: Patience = PATIENCE,
        progress: TellShare = lambda share: None,
    ):
        self.model, self.vocabulary, self.shape = model, vocabulary, shape
        self._computing: PreTrainedModel | Portable = model
        self.context = context or shape.sizes[-1]
        self.patience = patience
        self._first_attention = attention
        self.level = certify.levels(attention, shape.threads)[0]
        self.certified = False
        self.deviation: Deviation | None = None
        self.cache_bytes = CacheBytes(0, 0)  # of a row in any lane
        self.cache_bytes_on: dict[torch.device, CacheBytes] = {}  # of that, on each device
        self._computed_sha256: str | None = None
        self._kernels: list[str] = []
        self.device = next(model.get_input_embeddings().parameters()).device
        # On a GPU one draw for all slots: few launches, and one shape whoever is there. A CPU draws row by row.
        self._draw_all_slots = self.device.type == "cuda"
        self._inbox: SimpleQueue[Job | Score | Given | None] = SimpleQueue()
        self._scheduler = Scheduler(shape.sizes, shape.slots)
        self._lanes: dict[int, Lane] = {}
        self._flights: dict[int, Flight] = {}  # of each lane the step that is under way, on a GPU
        self._graphs = False  # whether all of these are graphs
        self._pool = torch.cuda.graph_pool_handle() if self._draw_all_slots else None
        self._scoring_cache: SlotCache | None = None
        self._recorder = Recorder()
        self._shared_store: PrefillStore | None = None  # of lanes whose bits do not depend on their length
        self._closed = False
        self._progress, self._checks = progress, 0
        self._failure: BaseException | None = None
        self._failing = threading.Lock()
        self._ended = threading.Event()  # nothing is emitted any more; or only what comes too late and fails
        self._watch = Watch(self._give_up)
        self._ready = threading.Event()
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        began = perf_counter()
        self._worker.start()
        self._ready.wait()
        self._progress = lambda share: None  # whoever was told is not kept
        self._seconds_to_start = perf_counter() - began
        if self._failure is not None:
            raise self._failure
        atexit.register(self.close)  # a worker must not be inside torch while the interpreter is taken down

    # --- called from any thread ---------------------------------------------------------------

    def submit(self, request: Request, emit: Emit) -> Ticket:
        """Queue a request. `emit` gets its events in order, the last one a Finish or a Failure, and must return quickly.

        Raises:
            UserError: the prompt does not fit, or the engine has stopped.
        """
        job = Job(request, self.check(request), self.context, emit, who=asking.get())
        self._queue(job)
        return Ticket(job, lambda: self._inbox.put(None))

    def steer(self, request: Request, take: Steer) -> "Steering":
        """As `submit`, but the tokens come from outside: `take` also gets logits [1, vocabulary], and each waits for a token to be given.

        Raises:
            UserError: as `submit`.
        """
        job = Job(request, self.check(request), self.context, take, hand_over=take, who=asking.get())
        self._queue(job)
        return Steering(job, self._inbox.put)

    def check(self, request: Request) -> int:
        """The length of the lane in which a request runs.

        Raises:
            UserError: it does not fit, or the engine has stopped.
        """
        tokens = len(request.token_ids) + request.sampling.max_new_tokens
        size = self._scheduler.size_for(tokens)
        if size is None:
            raise UserError(
                f"The prompt has {len(request.token_ids):,} tokens and the reply may have {request.sampling.max_new_tokens:,}, but the context holds {self.context:,}; shorten one of them."
            )
        self._check(request.token_ids)
        return size

    def score(self, token_ids: Sequence[int], first: int, take: Take) -> Scoring:
        """Queue token ids for teacher forcing: the logits that predict each token from position `first` (at least 1) on.

        `take` gets Started and then one Scored for each chunk that has any, at most two more than
        `Scoring.more` has asked for; or a Failure. Takes turns with the replies that are being written.

        Raises:
            UserError: the token ids do not fit, or the engine has stopped.
        """
        assert 1 <= first < len(token_ids), "every scored token needs one before it"
        size = self._scheduler.size_for(len(token_ids))
        if size is None:
            raise UserError(
                f"This conversation is {len(token_ids):,} tokens long with its reply, but the context holds {self.context:,}; look at an earlier turn."
            )
        self._check(token_ids)
        score = Score(tuple(token_ids), first, size, take, who=asking.get())
        self._queue(score)
        return Scoring(score, lambda: self._inbox.put(None))

    def _queue(self, asked: Job | Score) -> None:
        """Hand it to the worker; a worker that has ended meanwhile does not see it, so it fails here."""
        self._inbox.put(asked)
        if self._closed:
            self._ended.wait()
            self._fail_everything()

    def _check(self, token_ids: Sequence[int]) -> None:
        unknown = next((id for id in (max(token_ids), min(token_ids)) if not 0 <= id < self.vocabulary), None)
        if unknown is not None:
            raise UserError(
                f"Token {unknown} is not in this model's vocabulary of {self.vocabulary:,}; choose the pair that it was written with."
            )
        if self._closed:
            raise UserError(HUNG if self.hung else UNLOADED)

    @property
    def closed(self) -> bool:
        """Whether it has stopped, because it was closed or because its worker failed."""
        return self._closed

    @property
    def hung(self) -> bool:
        """Whether it has stopped because a pass did not end; its thread may be in there still."""
        return self._watch.given_up

    def again(self) -> "Engine":
        """A new engine over the same weights. Raises UserError where its start hangs too."""
        return self.like(self.model, self.shape, self._first_attention)

    def like(self, model: PreTrainedModel, shape: Shape, attention: str) -> "Engine":
        """An engine over weights of the same kind. Its start may take ten times as long as this one's did.

        Raises:
            UserError: it hung, or this model cannot be served.
        """
        start = max(self.patience.seconds, 10 * self._seconds_to_start)
        return Engine(model, self.vocabulary, shape, attention, self.context, replace(self.patience, start=start))

    def close(self) -> None:
        """End the worker and drop the caches: replies stop with what they have, what has none fails.

        Returns when the memory is free; where a pass hangs, when it has been given up.
        """
        self._closed = True
        atexit.unregister(self.close)
        self._inbox.put(None)
        if threading.current_thread() is not self._worker and not self.hung:
            self._ended.wait()
            if not self.hung:
                self._worker.join()

    def info(self) -> EngineInfo:
        """The engine fingerprint."""
        return EngineInfo(
            sampler=SAMPLER_VERSION,
            draw="exact",
            arithmetic=exact.VERSION if self.level.attention == portable.NAME else "fast",
            computed_sha256=self._computed_sha256,
            dtype=str(self.model.dtype).removeprefix("torch."),
            attention=self.level.attention,
            slots=self.shape.slots,
            lane_sizes=self.shape.sizes,
            chunk=self.shape.chunk,
            threads=self.level.threads,
            device=device.described(self.model),
            versions={
                "same-seed": __version__,
                "torch": str(torch.__version__),
                "transformers": transformers.__version__,
                **device.software(self.device, self._kernels),
            },
            certified=self.certified,
            certification=self.level.description + (", a graph for each step" if self._graphs else "")
            if self.certified
            else "not certified: a row's bits may depend on its neighbours here",
            deviation=self.deviation,
        )

    # --- the worker thread ---------------------------------------------------------------------

    def _work(self) -> None:
        try:
            with device.own_stream(self.device), torch.inference_mode(), replaying(self.device):
                if self.patience.start is not None:
                    self._watch.begin(self.patience.start)
                self._watch.run(self._certify)
                self._recorder.ask(self._lanes[self.shape.sizes[0]].step(1))  # the others when they are used
                self._watch.begin(self.patience.seconds)
                self._ready.set()
                while not self._closed:
                    self._round()
        except Abandoned:
            log.warning("a pass that was given up has ended after all")
        except BaseException as failure:  # reported to the constructor or to every waiting request
            self._failure = failure
            log.exception("the engine stopped")
        finally:
            self._closed = True
            self._watch.end()
            self._fail_everything()
            self._recorder.close()
            self._flights.clear()
            self._lanes.clear()
            self._ready.set()
            self._ended.set()

    def _give_up(self) -> None:
        """On the watch's thread, where a pass does not end: whoever waits is told, and the worker is left where it is."""
        self._closed = True
        if not self._ready.is_set():
            self._failure = UserError(HUNG)
        atexit.unregister(self.close)
        frame = sys._current_frames().get(self._worker.ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame else ""
        log.error("a pass did not end within %g seconds and is given up\n%s", self.patience.seconds, where)
        try:
            self._fail_everything()
        finally:
            self._ended.set()
            self._ready.set()
            self.patience.hung()
            self._recorder.close()

    def _certify(self) -> None:
        """Find the first level at which neighbours do not matter in any lane and all are right; build the lanes at it.

        Raises:
            UserError: what they compute is not what the model computes.
        """
        try:
            measured = self._build()
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UserError(
                f"This model cannot be served: it does not run on a cache of fixed length with a row for each visitor ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}); choose another model."
            ) from error
        if not measured.within and reference.is_bounded(self.model):
            raise UserError(
                f"This model cannot be served: the engine computes other log-probabilities than the model itself (off by {measured.nats:.2g} nats at token {measured.token} of the check, where the dtype explains {measured.bound:.2g}), so some layers work in a way that it does not know; choose another model."
            )

    def _build(self) -> Deviation:
        """Lanes at the first level that holds, or at the last; what they are off by."""
        by, can_pack = experts.without_neighbours(self.model), packed.can_pack(self.device, self.model.dtype)
        near = self._draw_all_slots or (can_pack and self.level.attention == "sdpa")
        fillings = certify.MIXTURE_FILLINGS if by else certify.FILLINGS
        *levels, last = certify.levels(self.level.attention, self.shape.threads, by, near, can_pack)
        for level in levels:
            try:
                if self._certified_at(level, fillings):
                    found = self._held_against_the_model()
                    if found.within:
                        self.certified, self.deviation = True, found
                        return found
                    log.warning("not the model's own output: %s", found)
            except Exception as error:
                if isinstance(error, UserError | torch.OutOfMemoryError) or not level.packed:
                    raise
                log.warning("weights cannot be packed: %s", error)
            log.warning("certification failed with %s", level.description)
            self._lanes.clear()  # the caches of this level make room for those of the next
            device.give_back()
        self.certified = self._certified_at(last, fillings)
        self.deviation = self._held_against_the_model()
        return self.deviation

    def _certified_at(self, level: Level, fillings: Sequence[str]) -> bool:
        """Make the lanes of this level; whether a row depends on its neighbours there."""
        self.level, self._checks = level, 0
        torch.set_num_threads(level.threads)  # of this thread alone, before it serves anything
        (packed.pack if level.packed else packed.unpack)(self.model)
        portably = level.attention == portable.NAME
        if portably:
            self._computing, self._shared_store = Portable(self.model), PrefillStore(STORE_BYTES)
            self._computed_sha256 = portable.digest(self.model)
        elif level.attention != self.model.config._attn_implementation:
            self.model.set_attn_implementation(level.attention)
        steps: dict[int, DecodeStep] | None = {} if self.device.type == "cpu" or portably else None
        for size in self.shape.sizes:
            self._lanes[size] = self._new_lane(size, steps)
            self._checked()
        lanes = list(self._lanes.values())
        self.cache_bytes = lanes[0].cache_bytes
        self.cache_bytes_on = {each: lanes[0].cache_bytes_on(each) for each in device.parameters_on(self.model)}
        self._kernels = sorted({name for lane in lanes for name in lane.attention_kernels})
        self._graphs = all(lane.ahead is not None and lane.ahead.recorded for lane in lanes)
        if portably:  # neighbours cannot matter: a sample of the code that says so
            return certify.neighbours_do_not_matter(lanes[0], steps=1, draw_together=self._draw_all_slots)
        for lane in lanes:
            if not certify.neighbours_do_not_matter(lane, fillings=fillings, draw_together=self._draw_all_slots):
                return False
            self._checked()
        return True

    def _held_against_the_model(self) -> Deviation:
        return reference.deviation(self.model, list(self._lanes.values()), self._new_lane, self._checked)

    def _checked(self) -> None:
        """A lane was made, tried, or held against the model."""
        self._checks += 1
        self._progress(self._checks / (3 * len(self.shape.sizes)))

    def _new_lane(self, size: int, steps: dict[int, DecodeStep] | None = None) -> Lane:
        return Lane(
            self._computing,
            slots=self.shape.slots,
            length=size,
            chunk=self.shape.chunk,
            vocabulary=self.vocabulary,
            attention=self.level.attention,
            together=self.level.together,
            experts=self.level.experts,
            near=self.level.near,
            store=self._shared_store or PrefillStore(STORE_BYTES // len(self.shape.sizes)),
            steps=steps,
            pool=self._pool,
        )

    def _round(self) -> None:
        """At most one chunk of a prompt or of what is scored, then one decode step in every lane that has someone in it."""
        self._take_in()
        for job in self._scheduler.active():
            if job.cancelled:
                self._finish(job)
        self._scheduler.make_way()
        self._flights = {
            size: flight for size, flight in self._flights.items() if flight.keep(self._scheduler.writing[size])
        }
        chunk_of = self._scheduler.next_chunk()
        for job, news in self._scheduler.announce():
            self._emit(job, news)
        if not self._scheduler.scores:
            self._scoring_cache = None
        match chunk_of:
            case Job():
                self._read(chunk_of)
            case Score():
                self._score(chunk_of)
        for size, jobs in self._scheduler.writing.items():
            if any(not job.held for job in jobs) and not self._write_ahead(self._lanes[size], list(jobs)):
                self._write(self._lanes[size], list(jobs))

    def _take_in(self) -> None:
        """Move new requests from the inbox to the scheduler; sleeps while there is nothing to do."""
        block = self._scheduler.idle
        while True:
            try:
                job = self._inbox.get(block=block)
            except Empty:
                return
            block = False
            self._put(job)

    def _put(self, news: Job | Score | Given | None) -> None:
        match news:
            case Score():
                self._scheduler.scores.append(news)
            case Job():
                self._scheduler.add(news)
            case Given(job, token) if job.held:
                self._go_on(job, token)

    def _read(self, job: Job) -> None:
        """One chunk of a prompt; after the last one, the first token."""
        lane, token_ids = self._lanes[job.size], job.request.token_ids
        try:
            if job.started is None:
                job.started = perf_counter()
                self._emit(job, Started())
                self._recorder.ask(lane.step(len(token_ids)))
                lane.begin()
                job.read = job.reused = lane.reusable(token_ids) if job.request.reuse else 0
            start = job.read
            logits = self._watch.run(lane.read, token_ids, start)
            job.read += lane.chunk
            job.prefill_passes += 1
            if job.read <= len(token_ids) and job.request.reuse:
                lane.keep(token_ids, start)
            if job.read >= len(token_ids):
                lane.adopt(job.slot)
                self._scheduler.start_writing(job)
                self._next([job], logits)
        except Exception as error:  # one failing request fails alone
            self._fail(job, error)

    def _score(self, score: Score) -> None:
        """Some of the token ids that are being scored."""
        lane = self._lanes[score.size]
        try:
            if not score.started or self._scoring_cache is None:
                score.started, self._scoring_cache = True, lane.scoring_cache()
                score.take(Started())
            start, score.read = score.read, score.read + lane.grain
            logits = self._watch.run(lane.score, self._scoring_cache, score.token_ids, start, score.first)
            if len(logits):
                score.allowed -= 1
                score.take(Scored(max(start + 1, score.first), device.handed_over(logits)))
        except Exception as error:
            log.exception("a score failed")
            score.cancelled = True
            score.take(Failure(message=sentence(error)))
        if score.read >= len(score.token_ids) - 1:
            score.cancelled = True  # done: the scheduler forgets it

    def _write_ahead(self, lane: Lane, jobs: list[Job]) -> bool:
        """One decode step of a lane, begun before the tokens of the last one are read: where these end a reply, what follows is for nobody.

        False where somebody is in it for whom the device cannot draw; then what it has drawn is read.
        """
        ahead, before, after = lane.ahead, self._flights.pop(lane.length, None), None
        if may := ahead is not None and ahead.takes(jobs):
            try:
                after = self._watch.run(ahead.begin, jobs, before)
            except Exception as error:
                self._fail_all(jobs, error)
                return True
        if before is not None:
            self._land(before, after)
        if after is not None and after.keep(self._scheduler.writing[lane.length]):
            self._flights[lane.length] = after
            if lane.has_states:  # which a step that did not happen would have changed
                self._land(self._flights.pop(lane.length))
        return may

    def _land(self, flight: Flight, after: Flight | None = None) -> None:
        """Take the tokens of a step that is under way in a lane, of which `after` is the next."""
        try:
            fed, draws = self._watch.run(flight.read)
            for job in filter(None, flight.rows):
                job.decode_passes += 1
            if draws is None:
                self._draw(flight.rows, flight.logits)
            else:
                self._took(flight.rows, draws, flight.logits)
            if after is not None:
                after.went_on_with(flight, fed)
        except Exception as error:
            self._fail_all(flight.rows, error)

    def _write(self, lane: Lane, jobs: list[Job]) -> None:
        """One decode step of a lane. A job that waits for its next token runs along without leaving a trace."""
        if all(job.held for job in jobs):  # or what the device had drawn already ended the others
            return
        tokens, positions = [0] * lane.slots, [0] * lane.slots
        for job in jobs:
            if job.held:  # at the position that its next token will overwrite
                positions[job.slot] = job.next_position + 1
            else:
                tokens[job.slot], positions[job.slot] = job.written[-1], job.next_position
        self._recorder.ask(lane.step(min(max(positions) + lane.chunk, lane.length)))  # what is needed soon
        held = [job.slot for job in jobs if job.held]
        jobs = [job for job in jobs if not job.held]
        try:
            logits = self._watch.run(lane.write, tokens, positions, held)
        except Exception as error:  # the lane's forward pass failed: its requests fail, the others go on
            self._fail_all(jobs, error)
            return
        for job in jobs:
            job.decode_passes += 1
        if self._draw_all_slots:
            rows: list[Job | None] = [None] * lane.slots
            for job in jobs:
                rows[job.slot] = job
            self._next_or_fail(rows, logits)
        else:
            for job in jobs:
                self._next_or_fail([job], logits[job.slot : job.slot + 1])

    def _next_or_fail(self, rows: Sequence[Job | None], logits: torch.Tensor) -> None:
        """As `_next`; where the draw fails, the replies of these rows fail, and the engine goes on."""
        try:
            self._next(rows, logits)
        except Exception as error:
            self._fail_all(rows, error)

    def _next(self, rows: Sequence[Job | None], logits: torch.Tensor) -> None:
        """Draw the next token of each row, or hand its logits over where somebody else chooses."""
        for row, job in enumerate(rows):
            if job is not None and job.hand_over is not None:
                job.held = True
                job.hand_over(device.handed_over(logits[row : row + 1].clone()))
        drawing = [None if job is None or job.held else job for job in rows]
        if any(drawing):
            self._draw(drawing, logits)

    def _go_on(self, job: Job, token: int) -> None:
        """Add a token that was given to a reply, and end the reply where it ends."""
        job.held = False
        job.write(token)
        if job.finish_reason() is not None:
            self._finish(job)

    def _draw(self, rows: Sequence[Job | None], logits: torch.Tensor) -> None:
        """Draw the next token of each row of `logits`; None is a slot with nobody in it."""
        draws = self._watch.run(  # on a GPU the draw waits for the pass
            sampling.draw,
            logits,
            self._seen(rows, logits),
            [row.request.sampling if row else None for row in rows],
            [row.step if row else 0 for row in rows],
        )
        self._took(rows, draws, logits)

    def _took(self, rows: Sequence[Job | None], draws: Sequence[sampling.Draw], logits: torch.Tensor) -> None:
        """Take what was drawn for each row."""
        for row, (job, drawn) in enumerate(zip(rows, draws, strict=True)):
            if job is None:
                continue
            if job.expected not in (None, drawn.token):
                at = slice(row, row + 1)
                self._emit(
                    job, sampling.divergence(logits[at], self._seen([job], logits[at]), job.request, job.step, drawn)
                )
            self._take(job, drawn)

    def _take(self, job: Job, drawn: sampling.Draw) -> None:
        """Add a drawn token to a reply, and end the reply where it ends."""
        if math.isnan(drawn.logprob):
            self._fail(job, ArithmeticError("its output is not a number here; try --dtype float32"))
            return
        job.write(drawn.token)
        self._emit(job, Token(step=job.step - 1, id=drawn.token, logprob=drawn.logprob, margin=drawn.margin))
        if job.finish_reason() is not None:
            self._finish(job)

    def _seen(self, rows: Sequence[Job | None], logits: torch.Tensor) -> torch.Tensor:
        """Bool [rows, vocabulary]: the ids in each row's prompt and reply, where a repetition penalty asks for them."""
        return sampling.marked(logits, [job.ids_seen if job else [] for job in rows])

    def _finish(self, job: Job) -> None:
        reason = job.finish_reason()
        assert reason is not None
        if job.written and job.request.reuse:  # the last token was drawn and not read
            self._lanes[job.size].keep_written(job.slot, [*job.request.token_ids, *job.written[:-1]])
        self._scheduler.release(job)
        self._emit(job, Finish(reason=reason, usage=job.usage()))

    def _fail_all(self, rows: Sequence[Job | None], error: BaseException) -> None:
        for job in rows:
            if job is not None and job.slot != NO_SLOT:
                self._fail(job, error)

    def _fail(self, job: Job, error: BaseException) -> None:
        log.error("a request failed", exc_info=error)
        self._scheduler.release(job)
        self._emit(job, Failure(message=sentence(error)))

    def _fail_everything(self) -> None:
        with self._failing:
            with suppress(Empty):
                while True:
                    self._put(self._inbox.get_nowait())
            message = HUNG if self.hung else STOPPED
            for job in self._scheduler.active():
                if job.written and self._failure is None and not self.hung:
                    job.cancelled = True
                    self._finish(job)
                    continue
                self._scheduler.release(job)
                self._emit(job, Failure(message=message))
            for score in self._scheduler.scores:
                if not score.cancelled:
                    score.take(Failure(message=message))
            self._scheduler.scores.clear()
            self._scoring_cache = None

    def _emit(self, job: Job, event: Event) -> None:
        try:
            job.emit(event)
        except Exception:  # a listener that fails loses its own reply, nobody else's
            log.exception("a listener failed; its request is cancelled")
            job.cancelled = True


def sentence(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "This machine ran out of memory for this reply; use a shorter conversation or a smaller pair."
    return f"The model failed on this request: {error}."
