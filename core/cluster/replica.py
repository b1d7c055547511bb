"""One replica on Ray Serve: the app's own Pool and engines behind a Responder. What is asked of it is what `Call` says."""

import os
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Any

from ray import serve

from .. import settings as configuration
from ..settings import Settings
from .wire import Call, SaidBatch


class Models:
    """Ready when its pairs are loaded, certified and tried; never, where one has another fingerprint than is pinned.

    Args:
        settings: fields of Settings by their names.
        pairs: the ids of those that are loaded before it is ready.
        pins: the fingerprints that pairs must have, by their ids.
        version: of the app, so that another one is another deployment.
    """

    def __init__(self, settings: Mapping[str, Any], pairs: Collection[str], pins: Mapping[str, str], version: str):
        configuration.quieten()  # before the libraries that read the environment
        from ..hub import HuggingFaceHub
        from ..pool import Pool
        from .responder import Responder

        self.name = serve.get_replica_context().replica_id.unique_id
        self.responder = Responder(Pool(Settings(**settings), HuggingFaceHub()), self.name, pins)
        for id in pairs:
            self.responder.load(id)

    def check_health(self) -> None:
        """Serve starts a replica again where this raises."""
        self.responder.check()

    def record_replica_metadata(self) -> dict[str, Any]:
        return self.record_routing_stats()

    def record_routing_stats(self) -> dict[str, Any]:
        return {"fingerprints": self.responder.fingerprints}

    async def answer(
        self, key: str, pair: dict[str, Any], asked: dict[str, Any], place: str, wanted: str, avoid: tuple[str, ...]
    ) -> AsyncGenerator[SaidBatch, None]:
        """Cancelled, it ends what was asked."""
        async for batch in self.responder.answer(Call(key, pair, asked, place, wanted, avoid)):
            yield batch

    def stop(self, key: str, sides: Collection[Any]) -> None:
        self.responder.stop(key, sides)

    def where(self) -> dict[str, Any]:
        """For whoever runs it, and for tests."""
        return {
            "replica": self.name,
            "pid": os.getpid(),
            "under_way": self.responder.under_way,
            "fingerprints": self.responder.fingerprints,
        }
