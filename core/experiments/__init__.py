"""Guided experiments: each runs on the pair that is loaded and judges itself, from this run alone.

Knows comparisons, models and plain text. It does not know pages: the same steps and verdicts are
shown in the browser, printed, and returned by the endpoint.
"""

from datetime import date
from time import perf_counter

from ..lease import Lease
from ..steps import Steps, Stop, Stopped, watch
from . import report
from .lab import Lab
from .pace import Pace
from .table import EXPERIMENTS, NAMES, Experiment, find
from .values import ExperimentVerdict, Finding, Step

__all__ = [
    "EXPERIMENTS",
    "NAMES",
    "Experiment",
    "ExperimentVerdict",
    "Finding",
    "Lab",
    "Step",
    "find",
    "perform",
    "report",
]


def perform(experiment: Experiment, lease: Lease, stop: Stop | None = None) -> Steps[Step, ExperimentVerdict]:
    """Run one experiment, yielding its steps. Closing the generator stops what is under way.

    Args:
        stop: pressed, it ends the experiment early, with what has come until then.

    Raises:
        UserError: this pair cannot be asked what the experiment asks.
        Stopped: early, and nothing has come yet.
    """
    began = perf_counter()
    lab = Lab(lease, date.today().isoformat(), Pace(experiment.comparisons))
    try:
        finding = yield from watch(_measured(experiment, lab), lambda step: step, stop)
    except Stopped:
        if not lab.pace.results:
            raise
        finding = lab.pace.so_far()
    return ExperimentVerdict(
        experiment=experiment.name,
        pair=lease.pair.id,
        base_sha256=lease.base.weights_sha256,
        post_sha256=lease.post.weights_sha256,
        seconds=round(perf_counter() - began, 2),
        finding=finding,
    )


def _measured(experiment: Experiment, lab: Lab) -> Steps[Step, Finding]:
    yield from lab.measure(experiment.example)
    finding = yield from experiment.run(lab)
    return finding.model_copy(update={"details": (*finding.details, *lab.pace.told())})
