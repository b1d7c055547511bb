"""The pool of a page server whose models are in replicas elsewhere: the same questions, no weights in this process."""

import logging
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ..errors import UserError
from ..hub import Hub
from ..lease import Lease
from ..pairs import Pair
from ..pool import Pool, Progress
from ..settings import Settings
from ..steps import Steps, finish
from ..types import MAX_IN_ALL, SIDES
from . import wire
from .cards import card_from
from .following import HELP, Cluster, Counts, Loop, Way, answers
from .lease import RemoteLease

log = logging.getLogger(__name__)

FOR_A_MACHINE = Progress("Waiting for a free machine")


class ClusterPool(Pool):
    """Leases on pairs of a cluster. Where no fingerprint is pinned for a pair it is the one that is found first."""

    def __init__(self, settings: Settings, hub: Hub, cluster: Cluster):
        super().__init__(settings, hub)
        self.cluster, self.pins, self.counts = cluster, dict(settings.pins), Counts()
        self._loop = Loop()
        self._leases: dict[str, RemoteLease] = {}  # by the places of their models
        self._was_ready = False

    def bring(self, pair: Pair, tokens: int | None = None) -> Steps[Progress, Lease]:  # type: ignore[override]
        """What is known of the pair is asked once, and again when nobody answers under its fingerprint any more.

        Raises:
            UserError: nobody has it, or it has another fingerprint than the one that is pinned.
        """
        self._check_ending()
        place = wire.place_of(pair)
        known = self._leases.get(place)
        if known is None or known.way.stale or known.pair != pair:
            known = self._leases[place] = yield from self._meet(pair)
        self._was_ready = self._was_ready or pair == self.default
        return known

    def _behind_others(self, pair: Pair) -> Steps[Progress, Lease]:
        """What is in memory in a replica is in its own pool's hands."""
        return self.bring(pair)

    def _meet(self, pair: Pair) -> Steps[Progress, RemoteLease]:
        way = Way(self.cluster, self._loop, pair, patience=self.settings.busy_seconds, counts=self.counts)
        progress, found = FOR_A_MACHINE, dict[str, Any]()
        with closing(answers(way, wire.AskCard())) as told:
            for said in told:
                self._check_ending()
                match said:
                    case ("progress", text, fraction):
                        progress = Progress(text, fraction)
                    case ("value", value):
                        found = value
                yield progress
        way.wanted = found["fingerprint"]
        pinned = self.pins.get(pair.id, way.wanted)
        if way.wanted != pinned:
            self.counts.foreign += 1
            raise UserError(
                f"The replicas of {pair.title} have the fingerprint {way.wanted[:16]}, and {pinned[:16]} is pinned here; whoever runs this server must bring them together."
            )
        cards = {side: card_from(found[side]) for side in SIDES}
        way.portable = all(card.engine.is_portable for card in cards.values())
        most = min(self.settings.characters or MAX_IN_ALL, MAX_IN_ALL)
        return RemoteLease(way, cards, most, self._count)

    def start_loading(self, id: str) -> None:
        """Ask for it on a thread of its own; a failure shows when somebody asks."""

        def ask() -> None:
            try:
                finish(self.open(id)).release()
            except UserError as error:
                log.warning("%s is not there yet: %s", id, error)

        threading.Thread(target=ask, name="loader", daemon=True).start()

    def close(self, *, wait: bool = True) -> None:
        super().close(wait=wait)
        self.cluster.close()

    def peek(self, id: str) -> Lease | None:
        lease = next((each for each in self._leases.values() if each.pair.id == id), None)
        return None if lease is None or lease.way.stale else lease

    @property
    def figures(self) -> Mapping[str, tuple[str, int]]:
        return {name: (help, getattr(self.counts, name)) for name, help in HELP.items()}

    @property
    def ready(self) -> bool:
        return not self._ending and self._was_ready
