"""An engine that is in another process, one to which a GPU is lent: how it is asked from here, and what answers there.

Knows engines, and a connection between two processes of one machine; not who lends. What is asked goes through that connection, and what
the engines say comes back in batches, one at least every `HEARTBEAT` seconds.
"""

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from itertools import count
from multiprocessing.connection import Connection, Listener
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedModel

from ..errors import UserError
from ..types import EngineInfo, Failure, Finish, Request
from . import certify
from .engine import Emit, Engine, Scored, Shape, Steer, Take, TellShare
from .scheduler import Scheduler
from .watch import PATIENCE, Patience

HEARTBEAT = 0.1
ENDED = "The GPU was taken back before this was finished; ask again in a minute, or for fewer new tokens."
NOT_LENT = "No GPU is lent for this here, only for what is asked of the models; ask them something and look there."
ELSEWHERE = "This looks into the weights themselves, which are out of reach here: the GPU is lent for replies alone. Run it on a processor, on a GPU of one's own or on a rented one."


class Ask(NamedTuple):
    """Something new for an engine, the first or the second of those that are lent; `number` names it from then on."""

    number: int
    which: int
    what: Request | tuple[Sequence[int], int]  # a reply to write; token ids to score, and from where on
    steered: bool = False


class Tell(NamedTuple):
    """News of what was asked before."""

    number: int
    news: Literal["cancel", "more"] | int  # an int is the token that was chosen for a steered reply


class Packed(NamedTuple):
    """A tensor on its way: its bytes as an array, for arrays are copied and tensors would be shared."""

    numbers: Any
    dtype: torch.dtype


class News(NamedTuple):
    """What an engine said about what was asked of it."""

    number: int
    said: Any


# The fingerprints of who is there come first. A sentence says why there is nobody.
Batch = list[News] | tuple[EngineInfo, ...] | str


class Loan:
    """One GPU lent for a while, seen from the process that asks. Whoever borrows hands every batch to `take`."""

    def __init__(self) -> None:
        self._listener = Listener(family="AF_UNIX")
        self.address = self._listener.address
        self.infos: tuple[EngineInfo, ...] = ()
        self.failure = ""  # why there is none, or none any more
        self.left = False  # nothing more is wanted of it
        self.settled = threading.Event()  # it is there, or it is known that there will be none
        self._connection: Connection | None = None
        self._listening: dict[int, Callable[[Any], None]] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    def take(self, batch: Batch) -> None:
        match batch:
            case str():
                self.end(batch)
            case tuple():
                self.infos, self._connection = batch, self._listener.accept()
                self.settled.set()
            case _:
                for number, said in batch:
                    self._say(number, said)

    def _say(self, number: int, said: Any) -> None:
        with self._lock:
            over = isinstance(said, Finish | Failure)
            listen = self._listening.pop(number, None) if over else self._listening.get(number)
        if listen is not None:
            listen(_unpacked(said))

    def ask(self, which: int, what: Any, listen: Callable[[Any], None], steered: bool = False) -> "Borrowed":
        """Raises UserError where it has ended."""
        with self._lock:
            if self.failure:
                raise UserError(self.failure)
            number = next(self._numbers)
            self._listening[number] = listen
        self.tell(Ask(number, which, what, steered))
        return Borrowed(self, number)

    def tell(self, what: Ask | Tell | None) -> None:
        """Whoever has gone is told nothing: `end` is about to be called."""
        with self._lock:
            if self._connection is not None and not self._connection.closed:
                try:
                    self._connection.send(what)
                except OSError:
                    self._connection.close()

    def leave(self) -> None:
        """Nothing more is wanted of it, so whoever hands over the batches ends it. Safe to call more than once."""
        self.left = True
        self.tell(None)

    def end(self, sentence: str = ENDED) -> None:
        """It is over: whoever still listens is told `sentence`. What was said the first time stands."""
        with self._lock:
            self.failure = self.failure or sentence
            unheard, self._listening = list(self._listening.values()), {}
            for each in (self._connection, self._listener):
                if each is not None:
                    each.close()
        for listen in unheard:
            listen(Failure(message=self.failure))
        self.settled.set()


class Borrowed:
    """A handle on what was asked of a lent engine: as Ticket, Steering and Scoring are."""

    def __init__(self, loan: Loan, number: int):
        self._loan, self._number = loan, number

    def cancel(self) -> None:
        self._loan.tell(Tell(self._number, "cancel"))

    def more(self) -> None:
        self._loan.tell(Tell(self._number, "more"))

    def give(self, token: int) -> None:
        self._loan.tell(Tell(self._number, token))


class Lent(Engine):
    """What an Engine is to those who ask it. It has no worker here: `start` makes one where the GPU is.

    The weights are moved to the GPU by whoever makes it, in that thread: ZeroGPU stands in for CUDA in no other.
    """

    def __init__(  # it shares the questions of an Engine and nothing of its work
        self,
        model: PreTrainedModel,
        vocabulary: int,
        shape: Shape,
        attention: str,
        context: int | None = None,
        patience: Patience = PATIENCE,
        progress: TellShare = lambda share: None,
    ):
        movable: Any = model  # transformers wraps `to`, and hides what it takes
        self.start = partial(Engine, movable.to("cuda"), vocabulary, shape, attention, context, patience)
        self.vocabulary, self.shape, self.context = vocabulary, shape, context or shape.sizes[-1]
        self.level = certify.levels(attention, shape.threads)[0]
        self._scheduler = Scheduler(shape.sizes, shape.slots)
        self._closed = False
        self._loan: Loan | None = None
        self._which = 0

    def by(self, loan: Loan, which: int) -> "Lent":
        """The same, asked through `loan`, which has it as its `which`-th."""
        lent = copy.copy(self)
        lent._loan, lent._which = loan, which
        return lent

    @property
    def loan(self) -> Loan:
        """Raises UserError where there is none."""
        if self._loan is None:
            raise UserError(NOT_LENT)
        return self._loan

    @property
    def hung(self) -> bool:
        return False

    def submit(self, request: Request, emit: Emit) -> Borrowed:  # type: ignore[override]
        self.check(request)
        return self.loan.ask(self._which, request, emit)

    def steer(self, request: Request, take: Steer) -> Borrowed:  # type: ignore[override]
        self.check(request)
        return self.loan.ask(self._which, request, take, steered=True)

    def score(self, token_ids: Sequence[int], first: int, take: Take) -> Borrowed:  # type: ignore[override]
        return self.loan.ask(self._which, (tuple(token_ids), first), take)

    def info(self) -> EngineInfo:
        return self.loan.infos[self._which]

    def close(self) -> None:
        """Its worker ends with the process that it is in."""

    def __getattr__(self, name: str) -> Any:
        """Of what an Engine has beside: the model, its device, its caches."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(ELSEWHERE)


class Elsewhere:
    """What stands for a model that is out of reach: whatever is asked of it is refused in a sentence."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(ELSEWHERE)


# --- where the GPU is -----------------------------------------------------------------------------------


def serve(engines: Sequence[Engine], connection: Connection) -> Generator[Batch, None, None]:
    """What these engines say to whoever asks them through `connection`, until nothing more is wanted. Closed, it stops what they do."""
    desk = _Desk(engines)
    threading.Thread(target=desk.read, args=(connection,), name="desk", daemon=True).start()
    try:
        yield tuple(engine.info() for engine in engines)
        while not desk.over.is_set():
            yield desk.batch()
    finally:
        desk.close()


class _Desk:
    """Takes what is asked to the engines, and keeps what they say until it is fetched."""

    def __init__(self, engines: Sequence[Engine]):
        self.over = threading.Event()
        self._engines = engines
        self._said: SimpleQueue[News] = SimpleQueue()
        self._under_way: dict[int, Any] = {}

    def read(self, connection: Connection) -> None:
        with connection:
            try:
                while (told := connection.recv()) is not None:
                    self._do(told)
            except (EOFError, OSError):  # whoever asked has gone
                pass
        self.over.set()

    def _do(self, told: Ask | Tell) -> None:
        match told:
            case Ask(number):
                try:
                    self._under_way[number] = self._ask(told)
                except UserError as error:
                    self._said.put(News(number, Failure(message=str(error))))
            case Tell(number, "cancel"):
                if number in self._under_way:
                    self._under_way[number].cancel()
            case Tell(number, "more"):
                self._under_way[number].more()
            case Tell(number, int(token)):
                self._under_way[number].give(token)

    def _ask(self, asked: Ask) -> Any:
        engine, say = self._engines[asked.which], partial(self._say, asked.number)
        if not isinstance(asked.what, Request):
            return engine.score(*asked.what, say)
        return engine.steer(asked.what, say) if asked.steered else engine.submit(asked.what, say)

    def _say(self, number: int, said: Any) -> None:
        """On the worker thread of an engine, whose stream has what a tensor holds."""
        self._said.put(News(number, _packed(said)))

    def batch(self) -> list[News]:
        """All that was said since the last one; waits for something a little, never long."""
        batch: list[News] = []
        try:
            batch.append(self._said.get(timeout=HEARTBEAT))
            while True:
                batch.append(self._said.get_nowait())
        except Empty:
            return batch

    def close(self) -> None:
        self.over.set()
        for handle in list(self._under_way.values()):
            handle.cancel()


def _packed(said: Any) -> Any:
    if isinstance(said, Scored):
        return said._replace(logits=_packed(said.logits))
    if not isinstance(said, torch.Tensor):
        return said
    return Packed(said.cpu().contiguous().view(torch.uint8).numpy(), said.dtype)


def _unpacked(said: Any) -> Any:
    if isinstance(said, Scored):
        return said._replace(logits=_unpacked(said.logits))
    return torch.from_numpy(said.numbers).view(said.dtype) if isinstance(said, Packed) else said
