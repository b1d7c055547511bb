"""`python app.py experiment`: one guided experiment, or all of them."""

import argparse
import json
import sys

from ..errors import UserError
from ..experiments import EXPERIMENTS, NAMES, Experiment, ExperimentVerdict, NewProcesses, find, perform, report
from ..hub import HuggingFaceHub
from ..pool import Lease, Pool, Progress
from ..settings import Settings
from ..steps import finish
from .terminal import Saying


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(NAMES)}; or all")
    parser.add_argument("--json", action="store_true", help="print one JSON object (a list for all)")


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 when everything ran, whatever it found; 2 when something could not be run."""
    chosen = EXPERIMENTS if flags.name == "all" else (find(flags.name),)
    processes, verdicts, failed = NewProcesses(settings), [], []
    with Pool(settings, HuggingFaceHub()) as pool, pool.wait(pool.default.id, Saying()) as lease:
        for experiment in chosen:
            try:
                verdicts.append(_perform(experiment, lease, processes))
            except UserError as error:
                failed.append(f"{experiment.name} could not be run: {error}")
    if flags.json:
        printed = [verdict.model_dump(mode="json") for verdict in verdicts]
        print(json.dumps(printed if flags.name == "all" else printed[0] if printed else None, indent=2))
    elif flags.name == "all":
        print(report.summary(verdicts))
    elif verdicts:
        print(report.whole(chosen[0], verdicts[0]))
    for sentence in failed:
        print(sentence, file=sys.stderr)
    return 2 if failed else 0


def _perform(experiment: Experiment, lease: Lease, processes: NewProcesses) -> ExperimentVerdict:
    say = Saying(f"{experiment.name}: ")
    return finish(perform(experiment, lease, processes.ask), lambda step: say(Progress(step.text)))
