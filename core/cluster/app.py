"""The application that `serve deploy` and `--cluster local` start: replicas, their router, and how many there are. deploy/cluster.yaml names it."""

from typing import Any

from ray import serve
from ray.serve import Application

from .. import __version__
from ..errors import UserError
from .replica import Models

APPLICATION, DEPLOYMENT = "same-seed", "Models"
SLOTS = 4  # where nobody says otherwise
KNOWN = {"version", "settings", "pairs", "pins", "replicas", "autoscaling", "num_cpus", "num_gpus", "max_queued"}


def build(args: dict[str, Any]) -> Application:
    """What the `args` of a Serve configuration say.

    version: of the app; another one starts every replica again. settings: fields of Settings by their names; slots, threads, context, dtype and device
    are pinned here, for they decide the bits in fast arithmetic and would follow each machine's memory and cores. pairs: loaded before a replica is
    ready. pins: fingerprints by pair. replicas, or autoscaling as Serve has it. num_cpus, num_gpus: of each replica. max_queued: asks that may wait.

    Raises:
        UserError: an argument is unknown, or another version is deployed here than is asked for.
    """
    if unknown := sorted(args.keys() - KNOWN):
        raise UserError(
            f"The application knows no argument {unknown[0]!r}; its arguments are {', '.join(sorted(KNOWN))}."
        )
    version = str(args.get("version", __version__))
    if version != __version__:
        raise UserError(
            f"Version {version} is to be deployed, and here is {__version__}; install that one, or name this one."
        )
    settings = {"slots": SLOTS, "threads": 1, "context": 4096, **(args.get("settings") or {})}
    scale = (
        {"autoscaling_config": args["autoscaling"]}
        if args.get("autoscaling")
        else {"num_replicas": int(args.get("replicas", 1))}
    )
    deployment = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=int(settings["slots"]),  # more would wait in a replica where another one has room
        max_queued_requests=int(args.get("max_queued", 256)),
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=20,
        request_router_config={
            "request_router_class": f"{__package__}.router:FingerprintRouter",
            "request_routing_stats_period_s": 1.0,
        },
        ray_actor_options={"num_cpus": float(args.get("num_cpus", 1)), "num_gpus": float(args.get("num_gpus", 0))},
        **scale,
    )
    pairs = list(args.get("pairs") or ["embedded"])
    return deployment(Models).bind(settings, pairs, dict(args.get("pins") or {}), version)
