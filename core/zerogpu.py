"""A pool on ZeroGPU, where a Space has a GPU only inside a granted call, in a process forked for it: one lease, one call.

Outside such a call CUDA is stood in for, in the main thread alone. So the weights of one pair are loaded there, before the page is served;
its engines are made in the forked process and stay there for whoever is granted it next. All that asks the models
asks them through a lease, and so through this one door. This file knows `spaces` by its decorator, which is handed in.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace
from multiprocessing.connection import Client
from threading import Lock, Thread
from typing import Any, NoReturn

from .checkpoints.loading import Checkpoint
from .engine import Engine, lent
from .errors import UserError
from .hub import Hub
from .local import LocalLease
from .pairs import Pair, find_pair, places
from .pool import Pool, Progress, _Entry
from .settings import Settings
from .steps import Steps, apart, watch
from .types import SIDES

log = logging.getLogger(__name__)

# A call starts engines and pays for that, so they are small where nobody says otherwise.
SLOTS, CONTEXT = 4, 4096
# What is asked for is compared with what a visitor has left for the day; what is used is what it costs.
SECONDS_TO_START, TOKENS_PER_SECOND, MOST_SECONDS = 10, 40, 60
USUAL_SECONDS = 30  # where it is not known how many tokens there will be

FOR_A_GPU = Progress("Waiting for a GPU")
ONE_PAIR = "This Space runs on ZeroGPU and serves one pair, whose weights were there when it started; for others run the app elsewhere, or duplicate the Space and name one in SAME_SEED_PAIRS."
NO_STUDIES = "A study takes more of a GPU than ZeroGPU lends to a visitor; run it on a processor, on a rented GPU or on a machine of your own."


def time_for(tokens: int | None) -> int:
    """Seconds for which a GPU is asked: for replies of so many tokens, or for what has no such number."""
    return USUAL_SECONDS if tokens is None else min(MOST_SECONDS, SECONDS_TO_START + tokens // TOKENS_PER_SECOND)


class LentPool(Pool):
    """The default pair, whose engines are where a GPU is lent.

    Args:
        gpu: `spaces.GPU`, which makes a generator function one that runs where the GPU is.
    """

    def __init__(self, settings: Settings, hub: Hub, gpu: Callable[..., Any]):
        super().__init__(replace(settings, slots=settings.slots or SLOTS, context=settings.context or CONTEXT), hub)
        self.pairs = (self.default,)
        self._granted = gpu(self._serve, duration=lambda address, seconds: seconds)
        self._engines: tuple[Engine, ...] = ()  # in a process to which a GPU is lent
        self._starting = Lock()

    def start_loading(self, id: str) -> None:
        """Load the pair here and now, in the thread in which CUDA is stood in for. Raises UserError."""
        first, second = (_Entry(key, Future()) for key in self._keys(find_pair(self.pairs, id)))
        first.sibling, second.sibling = second, first
        for entry in (first, second):
            self._entries[entry.key] = entry
            entry.loading.set_result(self._load(entry))

    def bring(self, pair: Pair, tokens: int | None = None) -> Steps[Progress, LocalLease]:
        """A lease for which a GPU is lent until it is released.

        Raises:
            UserError: it is another pair, or no GPU is lent; the sentence is ZeroGPU's.
        """
        if places(pair) != places(self.default):
            raise UserError(ONE_PAIR)
        lease = yield from super().bring(pair)
        try:
            loan = yield from self._borrow(time_for(tokens))
        except BaseException:
            lease.release()
            raise

        def release() -> None:
            loan.leave()
            lease.release()

        loaded = {side: _through(loan, which, lease.loaded[side]) for which, side in enumerate(SIDES)}
        return replace(lease, loaded=loaded, _release=release)

    def _behind_others(self, pair: Pair) -> NoReturn:
        raise UserError(NO_STUDIES)

    def _borrow(self, seconds: int) -> Steps[Progress, lent.Loan]:
        loan = lent.Loan()
        # In the context of whoever asks: there `spaces` finds whose quota it is.
        Thread(target=copy_context().run, args=(self._follow_loan, loan, seconds), name="loan", daemon=True).start()
        try:
            while not loan.settled.wait(0.1):
                self._check_ending()
                yield FOR_A_GPU
            if loan.failure:
                raise UserError(loan.failure)
        except BaseException:
            loan.leave()
            raise
        return loan

    def _follow_loan(self, loan: lent.Loan, seconds: int) -> None:
        """Hand over what comes out of the granted call, to its end."""
        try:
            with closing(self._granted(loan.address, seconds)) as batches:
                for batch in batches:
                    loan.take(batch)
                    if loan.left:
                        break
            loan.end()
        except Exception as error:
            loan.end(_sentence(error))

    # --- in a process to which a GPU is lent ----------------------------------------------------------

    def _serve(self, address: str, seconds: int) -> Iterator[lent.Batch]:
        """Something every moment, empty or not: whoever stops a call is heard between two of them."""
        try:
            engines = yield from watch(apart(lambda stop: self._started()), lambda step: list[lent.News]())
        except UserError as error:
            yield str(error)
            return
        yield from lent.serve(engines, Client(address))

    def _started(self) -> tuple[Engine, ...]:
        with self._starting:
            if not self._engines or any(engine.closed for engine in self._engines):
                loaded = (self._entries[key].loading.result() for key in self._keys(self.default))
                self._engines = tuple(_engine_of(each).start() for each in loaded)
            return self._engines


def _through(loan: lent.Loan, which: int, checkpoint: Checkpoint) -> Checkpoint:
    model: Any = lent.Elsewhere()
    return replace(checkpoint, engine=_engine_of(checkpoint).by(loan, which), model=model)


def _engine_of(checkpoint: Checkpoint) -> lent.Lent:
    assert isinstance(checkpoint.engine, lent.Lent), "on ZeroGPU a model has no other engine"
    return checkpoint.engine


def _sentence(error: Exception) -> str:
    """What ZeroGPU says, where it is for people: it has a title and a message then, as Gradio's errors do."""
    title, message = getattr(error, "title", ""), getattr(error, "message", None)
    if message is None or title == "ZeroGPU worker error":  # which names a class, or says that the process has ended
        log.error("a granted call failed", exc_info=error)
        return lent.ENDED
    return f"{title}: {message}"
