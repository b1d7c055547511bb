"""Which replica: of those with the wanted fingerprint, the one of two that has fewer asks. Serve loads this by its name.

Not by Serve's FIFOMixin: that may give a replica which was chosen for one request to another one.
"""

import random
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from .wire import eligible


class FingerprintRouter(RequestRouter):
    """Knows the fields of a `Call` by their names, and what replicas say of themselves."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [_two(candidate_replicas)]
        pending_request.routing_context.should_backoff = True  # else an empty choice is made again without a pause
        asked = pending_request.kwargs
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        told = {name: _told(replica).get(asked["place"]) for name, replica in replicas.items()}
        return [_two([replicas[name] for name in group]) for group in eligible(told, asked["wanted"], asked["avoid"])]


def _told(replica: Any) -> dict[str, str]:
    """The fingerprints that it said when it became ready, and since then."""
    return {**replica.replica_metadata.get("fingerprints", {}), **replica.routing_stats.get("fingerprints", {})}


def _two(replicas: list[Any]) -> list[Any]:
    return random.sample(replicas, min(2, len(replicas)))
