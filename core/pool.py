"""Which models are in memory: loaded on first use, kept while there is room, the least recently used idle one makes room.

A model that is writing anybody's reply is held by a lease and is never unloaded. Two visitors who ask
for the same pair share one load and see the same progress.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import inf
from time import monotonic, sleep
from typing import NamedTuple, Self
from weakref import WeakKeyDictionary

from .checkpoints import loading, sources
from .checkpoints.budget import Need
from .checkpoints.loading import Checkpoint
from .checkpoints.siblings import kinship
from .engine import Patience
from .engine.device import Placement, give_back, place
from .engine.engine import Shape
from .errors import NotEnoughMemory, UserError
from .hub import Hub
from .lease import Kinship, Lease
from .local import LocalLease
from .new_process import NewProcesses
from .pairs import Pair, at_commits, default_pair, find_pair, here, known_pairs, label, places
from .settings import Settings
from .steps import Steps, finish
from .types import MAX_IN_ALL, SIDES, Side

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What is going on while a pair is loaded, and how much of it is done (0 to 1) where that is known."""

    text: str
    fraction: float | None = None

    def __str__(self) -> str:
        return self.text if self.fraction is None else f"{self.text} {self.fraction:.0%}"


WAITING = Progress("Waiting for another model to load")
FOR_MEMORY = Progress("Waiting for memory that others use")
_TO_LET_GO = 60  # seconds that those who give way have for it
GRACE = 20  # seconds for which they leave alone what somebody else asked last: who reads a reply asks again
RESTARTING = "The server is restarting, so nothing new is begun; ask again in a minute."


class _Key(NamedTuple):
    spec: str
    merged_into: str | None  # if it is an adapter
    device: int  # which of several
    arithmetic: str


def _place_of(spec: str) -> str:
    """The same for whatever names one folder or file here."""
    with suppress(UserError):  # a path to nothing is told where it is loaded
        return str(here(spec) or spec)
    return spec


@dataclass(eq=False)
class _Entry:
    """One model on its way into memory, or in it."""

    key: _Key
    loading: "Future[Checkpoint]"
    progress: Progress = WAITING
    users: int = 0
    giving_way: int = 0  # of its users
    short: bool = False  # it lacks memory that those have who give way
    used: float = field(default_factory=monotonic)
    asked: float = -inf  # when somebody last had it who does not give way
    over: Checkpoint | None = None  # of the same weights, whose engine hung
    sibling: "_Entry | None" = None  # while it is loaded: they share what memory there is
    need: Need | None = None  # what it takes, once that is known
    whole: bool = False  # known to be no adapter, so that nothing hangs on what it could be merged into

    kin: "WeakKeyDictionary[_Entry, Kinship]" = field(default_factory=WeakKeyDictionary)  # of its siblings

    @property
    def idle(self) -> bool:
        return self.users == 0 and self.ready

    @property
    def wanted_again(self) -> bool:
        """Whether somebody who does not give way may well be about to ask it again."""
        return self.ready and monotonic() - self.asked < GRACE

    @property
    def ready(self) -> bool:
        return self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None

    @property
    def broken(self) -> bool:
        """It could not be loaded, or its engine has failed since."""
        return self.loading.done() and not (self.ready and not self.loading.result().engine.closed)

    @property
    def hung(self) -> bool:
        """Its engine has: the weights are as they were."""
        return self.ready and self.loading.result().engine.hung


class Pool:
    """The models of this process. Left as a `with` block, it unloads them."""

    def __init__(self, settings: Settings, hub: Hub):
        self.settings = settings
        self.hub = hub
        self.pairs = known_pairs(settings)
        self.default = default_pair(settings)
        self._entries: dict[_Key, _Entry] = {}
        self._lock = threading.Lock()  # of the table
        self._mixing = threading.Lock()
        self._processes = NewProcesses(settings)
        self._memory = threading.Lock()  # one model at a time takes memory, so that what is free stays true
        self._loaders = ThreadPoolExecutor(4, thread_name_prefix="loader")
        self._ending = False
        self._loaded: set[_Key] = set()  # that were in memory once
        self.written = 0  # tokens of replies that have ended
        self._hangs: list[float] = []  # when engines hung
        self._let_go = 0  # how many leases have ended
        self._shapes: dict[_Key, Shape] = {}  # of what gave way: it comes back with the same, and so with the same bits

    def open(
        self,
        id: str,
        commits: Mapping[Side, str] | None = None,
        *,
        gives_way: bool = False,
        tokens: int | None = None,
    ) -> Steps[Progress, Lease]:
        """Load a pair if need be, yielding progress about ten times a second; returns a lease.

        Args:
            commits: for sides that come from the Hub, the commit to take instead of the pair's own.
            gives_way: waits as long as others have the memory, and is asked to let go (`Lease.wanted`) when somebody lacks it.
            tokens: how many the replies may have for which it is taken, where a GPU is lent for a time (zerogpu.py); None is not known.

        Raises:
            UserError: unknown pair, or it cannot be loaded here. What was loaded before stays as it was.
        """
        pair = at_commits(find_pair(self.pairs, id), commits or {})
        return (yield from self._behind_others(pair) if gives_way else self.bring(pair, tokens))

    def add(self, pair: Pair) -> None:
        """Let it be asked for by its id from now on, as the rows of pairs.toml are. Safe to call more than once.

        Raises:
            UserError: another pair has this id.
        """
        with self._lock:
            named = next((row for row in self.pairs if row.id == pair.id), None)
            if named is None:
                self.pairs = (*self.pairs, pair)
            elif places(named) != places(pair):
                raise UserError(f"Another pair is called {pair.title} here; give one of these folders another name.")

    def bring(self, pair: Pair, tokens: int | None = None) -> Steps[Progress, LocalLease]:
        """`open` for a pair that is not among `pairs`."""
        entries = self._take(pair)
        yield from self._follow(entries)
        return self._lease(pair, entries)

    def _behind_others(self, pair: Pair) -> Steps[Progress, Lease]:
        """`bring` for whoever gives way: not before those who lack memory have it, and again when somebody has let go of some."""
        while True:
            yield from self._while(self._somebody_is_short)
            alone, seen = not self._others(pair), self._let_go
            entries = self._take(pair, gives_way=True)
            yield from self._follow(entries, gives_way=True)
            if self._somebody_is_short():
                self._give_back(entries, gives_way=True)
                continue
            try:
                return self._lease(pair, entries, gives_way=True)
            except NotEnoughMemory:
                if alone and not self._others(pair):
                    raise
            yield from self._while(partial(self._nothing_changed, pair, seen))

    def _nothing_changed(self, pair: Pair, seen: int) -> bool:
        return self._let_go == seen and self._others(pair)

    def _while(self, true: Callable[[], bool]) -> Steps[Progress, None]:
        while true():
            self._check_ending()
            yield FOR_MEMORY
            sleep(0.1)

    def _somebody_is_short(self) -> bool:
        with self._lock:
            return any(entry.short and not entry.loading.done() for entry in self._entries.values())

    def _others(self, pair: Pair) -> bool:
        """Whether models of other pairs are in use, or were a moment ago."""
        with self._lock:
            own = [self._known(key) for key in self._keys(pair)]
            return any(entry.users or entry.wanted_again for entry in self._entries.values() if entry not in own)

    def _follow(self, entries: list[_Entry], *, gives_way: bool = False) -> Steps[Progress, None]:
        """Until they are loaded, or somebody is short for whom it gives way."""
        try:
            for entry in entries:
                while not wait([entry.loading], timeout=0.1).done and not (gives_way and self._somebody_is_short()):
                    self._check_ending()
                    yield entry.progress
        except BaseException:
            self._give_back(entries, gives_way=gives_way)
            raise

    def _lease(self, pair: Pair, entries: list[_Entry], *, gives_way: bool = False) -> LocalLease:
        """A lease on models that have been taken; they are given back when it is released, or when there can be none."""
        done = threading.Event()

        def release() -> None:
            if not done.is_set():
                done.set()
                self._let_go += 1
                self._give_back(entries, gives_way=gives_way)

        try:
            loaded = {side: entry.loading.result() for side, entry in zip(SIDES, entries, strict=True)}
            self._loaded.update(self._keys(pair))
            if entries[1] not in entries[0].kin:
                entries[0].kin[entries[1]] = kinship(loaded["base"].card, loaded["post"].card)
        except BaseException:
            self._give_back(entries, gives_way=gives_way)
            raise
        most = min(self.settings.characters or MAX_IN_ALL, MAX_IN_ALL)
        kin, wanted = entries[0].kin[entries[1]], self._somebody_is_short if gives_way else lambda: False
        return LocalLease(pair, loaded, release, self._processes.ask, self._mixing, kin, most, self._count, wanted)

    def wait(self, id: str, report: Callable[[Progress], None] = lambda progress: None) -> Lease:
        """`open` for those who have nothing else to do meanwhile."""
        return finish(self.open(id), report)

    @property
    def ready(self) -> bool:
        """Whether whoever asks now is served: the default pair was in memory once, and no end was announced."""
        return not self._ending and self._loaded.issuperset(self._keys(self.default))

    @property
    def figures(self) -> Mapping[str, tuple[str, int]]:
        """What is counted of replicas elsewhere, by its name: what it says, and how often. Here there are none."""
        return {}

    def _count(self, tokens: int) -> None:
        with self._lock:
            self.written += tokens

    def start_loading(self, id: str) -> None:
        """Begin loading a pair for whoever asks for it next; a failure shows when they do."""
        self._give_back(self._take(find_pair(self.pairs, id)))

    def peek(self, id: str) -> Lease | None:
        """A lease when the pair is in memory already; never loads anything."""
        pair = find_pair(self.pairs, id)
        with self._lock:
            known = [self._known(key) for key in self._keys(pair)]
            entries = [entry for entry in known if entry is not None and entry.ready and not entry.broken]
            if len(entries) < len(known):
                return None
            for entry in entries:
                entry.users += 1
        return self._lease(pair, entries)

    def take_no_more(self) -> None:
        """From now on whoever asks for a pair gets a sentence; leases that are out stay what they are."""
        self._ending = True

    def _hung(self) -> None:
        self._hangs.append(monotonic())

    @property
    def stuck(self) -> bool:
        """Whether engines hung twice within `Settings.hang_again` seconds: another one would not help."""
        return any(after - before < self.settings.hang_again for before, after in pairwise(list(self._hangs)))

    def _check_ending(self) -> None:
        if self._ending:
            raise UserError(RESTARTING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        self.close(wait=kind is not KeyboardInterrupt)

    def close(self, *, wait: bool = True) -> None:
        """Unload every model; `wait` for those that are still being loaded, or downloaded, too.

        What replies that are being written have so far stands, as though they had been stopped.
        """
        self.take_no_more()
        self._loaders.shutdown(wait=wait, cancel_futures=True)
        with self._lock:
            entries = list(self._entries.values())
            self._entries.clear()
        for entry in entries:
            if entry.ready:
                entry.loading.result().close()

    def _keys(self, pair: Pair) -> tuple[_Key, _Key]:
        base, post = map(_place_of, (pair.base, pair.post))
        first, second = map(self._device, (0, 1))
        return _Key(base, None, first, pair.arithmetic), _Key(post, base, second, pair.arithmetic)

    def _device(self, index: int) -> int:
        """The number of the device of the first or second model of a pair; what is wrong with the device is said where one is loaded."""
        try:
            return place(self.settings, index).device.index or 0
        except UserError:
            return index

    def _known(self, key: _Key) -> _Entry | None:
        """The entry of this model, whatever it is in its pairs."""
        alone = key._replace(merged_into=None)
        same = (each for each in self._entries.values() if each.whole and each.key._replace(merged_into=None) == alone)
        return self._entries.get(key) or next(same, None)

    def _take(self, pair: Pair, *, gives_way: bool = False) -> list[_Entry]:
        """The entries of both models, with one more user; starts loading what is new or failed before."""
        taken, new = list[_Entry](), list[_Entry]()
        with self._lock:
            self._check_ending()
            for key in self._keys(pair):
                entry = self._known(key)
                if entry is None or entry.broken:
                    over = entry.loading.result() if entry is not None and entry.hung else None
                    if entry is not None:
                        del self._entries[entry.key]
                    entry = self._entries[key] = _Entry(key, Future(), over=over)
                    new.append(entry)
                entry.users += 1
                entry.giving_way += gives_way
                taken.append(entry)
            for entry, other in (taken, taken[::-1]):
                if entry in new:
                    entry.sibling = other
            for entry in new:
                entry.loading = self._loaders.submit(self._load, entry)
        return taken

    def _give_back(self, entries: list[_Entry], *, gives_way: bool = False) -> None:
        with self._lock:
            for entry in entries:
                entry.users -= 1
                entry.giving_way -= gives_way
                if gives_way and entry.ready:
                    self._shapes[entry.key] = entry.loading.result().engine.shape
                entry.used = monotonic()
                entry.asked = entry.asked if gives_way else entry.used
                forgotten = entry.users == 0 and entry.broken and not entry.hung
                if forgotten and self._entries.get(entry.key) is entry:
                    del self._entries[entry.key]

    def _load(self, entry: _Entry) -> Checkpoint:
        """The model of an entry. Raises UserError."""
        try:
            loaded = self._find_and_load(entry)
            self._loaded.add(entry.key)
            return loaded
        except UserError as error:
            failure = type(error)(*error.args)
        except Exception as error:
            log.exception("loading %s failed", entry.key.spec)
            what = label(entry.key.spec)
            failure = UserError(
                f"{what} could not be loaded ({type(error).__name__}: {sources.reason(error, what)}); its files are damaged or of a kind that the app does not know: choose another model."
            )
        finally:
            entry.sibling = None
        raise failure  # out here it holds none of the frames, and so none of the weights, of what failed

    def _find_and_load(self, entry: _Entry) -> Checkpoint:
        spec, adapter_base = entry.key.spec, entry.key.merged_into
        name = label(spec)

        def report(text: str, fraction: float | None) -> None:
            entry.progress = Progress(text, fraction)

        if entry.over is not None:
            report(f"Starting {name} again", None)
            over, entry.over = entry.over, None
            return over.again()
        report(f"Looking for {name}", None)
        patience = Patience(self.settings.hang_seconds, self._hung)
        source = sources.find(spec, self.hub, adapter_base)
        entry.whole = source.adapter_of is None
        placement = self._place(entry.key)
        entry.need = loading.check_kind(source, self.hub, placement)
        self._find_need(entry.sibling)
        for each in (source, source.adapter_of):
            if each is not None:
                sources.bring(each, self.hub, report)
        entry.progress = WAITING
        with self._memory:
            while True:
                try:
                    gives_way = entry.users == entry.giving_way > 0
                    like = self._shapes.get(entry.key) if gives_way else None
                    beside = like or self._beside(entry.sibling)
                    loaded = loading.load(source, self.hub, self.settings, placement, report, patience, beside)
                    if like in (None, loaded.engine.shape):
                        return loaded
                    loaded.close()
                    del loaded
                    raise NotEnoughMemory(
                        f"{name} does not fit any more in the lanes that it had; run the study again."
                    )
                except NotEnoughMemory:
                    if not self._unload_idle(gives_way) and not self._ask_for_room(entry):
                        raise

    def _find_need(self, sibling: _Entry | None) -> None:
        """What a sibling takes that is still to be loaded; what is wrong with it is said where it is loaded itself."""
        if sibling is not None and sibling.need is None and not sibling.loading.done():
            with suppress(UserError):
                source = sources.find(sibling.key.spec, self.hub, sibling.key.merged_into)
                sibling.need = loading.check_kind(source, self.hub, self._place(sibling.key))

    def _beside(self, sibling: _Entry | None) -> Need | Shape | None:
        """The lanes of a sibling that is in memory; what it takes where it is still to come."""
        if sibling is None or (sibling.loading.done() and sibling.broken):
            return None
        return sibling.loading.result().engine.shape if sibling.ready else sibling.need

    def _place(self, key: _Key) -> Placement:
        return place(self.settings, key.device, key.arithmetic)

    def _ask_for_room(self, entry: _Entry) -> bool:
        """Wait until those who give way have let go, and unload a model of theirs; False where nobody does, or for whoever gives way, too."""
        until = monotonic() + _TO_LET_GO
        while entry.users > entry.giving_way and monotonic() < until:
            self._check_ending()
            for each in (entry, entry.sibling):
                if each is not None:
                    each.short = True
            if self._unload_idle():
                return True
            with self._lock:
                nobody = all(not each.giving_way or each.users > each.giving_way for each in self._entries.values())
            if nobody:
                return self._unload_idle()
            sleep(0.05)
        return False

    def _unload_idle(self, gives_way: bool = False) -> bool:
        """Unload the model that has been idle the longest; False when every loaded model is in use, or for whoever gives way was a moment ago."""
        with self._lock:
            idle = [each for each in self._entries.values() if each.idle and not (gives_way and each.wanted_again)]
            idle.sort(key=lambda entry: entry.used)
            if not idle:
                return False
            del self._entries[idle[0].key]
        checkpoint = idle[0].loading.result()
        log.info("unloading %s to make room", checkpoint.info.name)
        checkpoint.close()
        del checkpoint, idle
        give_back()
        return True
