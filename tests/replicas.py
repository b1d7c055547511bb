"""A cluster in this process: responders as replicas that can be killed or fall silent under what they do. No Ray."""

import asyncio
from collections.abc import AsyncGenerator, Collection

from core.cluster.following import Full, Lost
from core.cluster.pool import ClusterPool
from core.cluster.responder import Responder
from core.cluster.wire import Call, SaidBatch, eligible
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.local import LocalLease
from core.pairs import Pair
from core.settings import Settings
from core.steps import Steps
from tests.pairs import PAIR


class HeldPair:
    """What a responder uses of a pool, over one loaded pair that stays where it is."""

    pairs, stuck = (PAIR,), False

    def __init__(self, lease: LocalLease):
        self.lease, self.released = lease, 0

    def bring(self, pair: Pair, tokens: int | None = None) -> Steps[None, Lease]:
        return self.lease
        yield


class Replica:
    def __init__(self, name: str, lease: LocalLease, pins=None):
        self.name, self.responder = name, Responder(HeldPair(lease), name, pins)
        self.dead = self.silent = False
        self.asked: list[Call] = []


class NearCluster:
    """A Cluster of such replicas. They are asked in the order of their names."""

    def __init__(self, *replicas: Replica, places: int = 64):
        self.replicas, self.places, self.waiting, self.closed = list(replicas), places, 0, False

    async def ask(self, call: Call) -> AsyncGenerator[SaidBatch, None]:
        replica = await self._chosen(call)
        replica.asked.append(call)
        answer = replica.responder.answer(call)
        try:
            async for batch in answer:
                if replica.dead:
                    raise Lost("it was killed")
                while replica.silent:
                    await asyncio.sleep(0.01)
                yield batch
        finally:
            await answer.aclose()

    async def _chosen(self, call: Call) -> Replica:
        if self.waiting >= self.places:
            raise Full
        self.waiting += 1
        try:
            while True:
                there = {each.name: each for each in self.replicas if not each.dead}
                told = {name: each.responder.fingerprints.get(call.place) for name, each in there.items()}
                for group in eligible(told, call.wanted, call.avoid):
                    return there[group[0]]
                await asyncio.sleep(0.01)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        self.closed = True

    def stop(self, key: str, sides: Collection[str]) -> None:
        for replica in self.replicas:
            replica.responder.stop(key, sides)


def cluster_pool(cluster: NearCluster, **settings) -> ClusterPool:
    """The pool of a page server over the tiny pair."""
    pool = ClusterPool(Settings(**{"busy_seconds": 5.0, **settings}), HuggingFaceHub(), cluster)
    pool.pairs, pool.default = (PAIR,), PAIR
    return pool


def remote_lease(cluster: NearCluster) -> Lease:
    return cluster_pool(cluster).wait(PAIR.id)
