"""Guided experiments: each runs on the pair that is loaded and judges itself, from this run alone.

Knows comparisons, models and plain text. It does not know pages: the same steps and verdicts are
shown in the browser, printed, and returned by the endpoint.
"""

from datetime import date
from time import perf_counter

from ..pool import Lease
from ..steps import Steps
from . import report
from .lab import Lab, NewProcess
from .process import NewProcesses
from .table import EXPERIMENTS, NAMES, Experiment, find
from .values import ExperimentVerdict, Finding, Step

__all__ = [
    "EXPERIMENTS",
    "NAMES",
    "Experiment",
    "ExperimentVerdict",
    "Finding",
    "Lab",
    "NewProcess",
    "NewProcesses",
    "Step",
    "find",
    "perform",
    "report",
]


def perform(experiment: Experiment, lease: Lease, new_process: NewProcess) -> Steps[Step, ExperimentVerdict]:
    """Run one experiment, yielding its steps. Closing the generator stops what is under way.

    Raises:
        UserError: this pair cannot be asked what the experiment asks.
    """
    began = perf_counter()
    finding = yield from experiment.run(Lab(lease, date.today().isoformat(), new_process))
    return ExperimentVerdict(
        experiment=experiment.name,
        pair=lease.pair.id,
        base_sha256=lease.base.weights_sha256,
        post_sha256=lease.post.weights_sha256,
        seconds=round(perf_counter() - began, 2),
        finding=finding,
    )
