"""The way to the replicas through Ray Serve: a cluster that is there, or one on this machine that ends with this process."""

import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import AuthenticationError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from .. import settings as configuration
from ..errors import UserError
from ..installation import DATA, INSTALLED
from ..pairs import default_pair
from ..settings import Settings
from ..types import Side
from .app import APPLICATION, DEPLOYMENT, build
from .following import Full, Lost
from .wire import Call, SaidBatch

LOCAL = "local"
_OF_REPLICAS = (*configuration.OF_MODELS, "pair", "pairs", "hang_seconds", "hang_again")
OBJECT_STORE = 128 * 2**20  # bytes; nothing that crosses is large
# An address of this machine alone that Ray does not take for a wish for one that others reach, as it does 127.0.0.1. Where it runs on one machine only it takes the latter by itself.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else None


class RayCluster:
    """A Cluster. One that this process started ends with `close`, or with the process."""

    def __init__(self) -> None:
        self._handle: Any = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
        self._answer: Any = self._handle.options(stream=True, method_name="answer")
        self._stops = set[asyncio.Task[Any]]()

    async def ask(self, call: Call) -> AsyncGenerator[SaidBatch, None]:
        answer: Any = self._answer.remote(**call._asdict())
        try:
            async for batch in answer:
                yield batch
        except BackPressureError:
            raise Full from None
        except (RayError, RayServeException) as error:
            raise Lost(type(error).__name__) from error
        finally:
            answer.cancel()

    def stop(self, key: str, sides: Collection[Side]) -> None:
        """Past the queue in which other asks wait; whoever does not know the key does nothing."""
        task = asyncio.ensure_future(self._tell(key, list(sides)))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _tell(self, key: str, sides: list[Side]) -> None:
        with suppress(Exception):  # a replica that is lost need not be stopped
            await self._handle.broadcast("stop", key=key, sides=sides).results_async(
                timeout_s=5, return_exceptions=True
            )

    def where(self) -> list[dict[str, Any]]:
        """What every replica says of itself."""
        return self._handle.broadcast("where").results(timeout_s=10)

    def close(self) -> None:
        ray.shutdown()


def connect(settings: Settings) -> RayCluster:
    """Join the cluster of these settings, or start one here. For the main thread, whose signals stay what they were.

    Raises:
        UserError: there is none at that address, or it does not let this process in.
    """
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    signals = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        if settings.cluster == LOCAL:
            _start(settings)
        else:
            ray.init(address=settings.cluster, log_to_driver=False, configure_logging=False)
        return RayCluster()
    except AuthenticationError:
        raise UserError(
            "The cluster wants a token: copy the one that its head has (`ray get-auth-token`) to ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH."
        ) from None
    except RayServeException:
        raise UserError(
            f"The Ray cluster at {settings.cluster!r} has no application {APPLICATION}; deploy it first: serve deploy deploy/cluster.yaml"
        ) from None
    except (ConnectionError, ValueError, RayError) as error:
        raise UserError(
            f"No Ray cluster answers at {settings.cluster!r} ({str(error).splitlines()[0]}); start one with `ray start --head`."
        ) from None
    finally:
        for each, handler in signals.items():
            signal.signal(each, handler)


def _start(settings: Settings) -> None:
    """Ray and the replicas, on this machine, behind a token that no file has."""
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, so that anything else on the machine goes first
    paths = {} if INSTALLED else {"PYTHONPATH": str(DATA)}
    ray.init(
        address="local",
        num_cpus=max(configuration.usable_cores(), settings.replicas),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address=LOOPBACK,
        runtime_env={"env_vars": {**configuration.QUIET, **paths}},
    )
    serve.start(proxy_location="Disabled")
    serve.run(build(_args(settings, ray.cluster_resources().get("GPU", 0))), name=APPLICATION, route_prefix=None)


def _args(settings: Settings, gpus: float) -> dict[str, Any]:
    """What is built of these settings on one machine, whose cores and cards its replicas share."""
    threads = max(1, configuration.usable_cores() // (2 * settings.replicas))
    chosen = {name: value for name in _OF_REPLICAS if (value := getattr(settings, name)) is not None}
    return {
        "settings": {"threads": threads, **chosen},
        "pairs": [default_pair(settings).id],
        "replicas": settings.replicas,
        "pins": dict(settings.pins),
        "num_gpus": min(1.0, gpus / settings.replicas) if settings.device in ("auto", "cuda") else 0,
    }
