"""`python app.py experiment`: one guided experiment, or all of them."""

import argparse
import json
import signal
import sys

from ..errors import UserError
from ..experiments import EXPERIMENTS, NAMES, Experiment, ExperimentVerdict, Step, find, perform, report
from ..hub import HuggingFaceHub
from ..lease import Lease
from ..pool import Pool, Progress
from ..settings import Settings, add_model_flags
from ..steps import Stop, Stopped, finish
from .terminal import INTERRUPTED, Saying, say, stopped_by


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(NAMES)}; or all")
    parser.add_argument("--json", action="store_true", help="print one JSON object (a list for all)")
    add_model_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 when everything ran, whatever it found; 2 when something could not be run.

    Ctrl+C ends the experiment that is running: status 130, and what was found until then is printed, of that experiment too.
    """
    chosen = EXPERIMENTS if flags.name == "all" else (find(flags.name),)
    verdicts, failed = [], []
    stop = Stop()
    with Pool(settings, HuggingFaceHub()) as pool:
        with Saying() as progress:
            lease = pool.wait(pool.default.id, progress)
        with lease, stopped_by(stop, signal.SIGINT):
            for experiment in chosen:
                try:
                    verdicts.append(_perform(experiment, lease, stop))
                except (Stopped, KeyboardInterrupt):
                    stop.press()
                except UserError as error:
                    failed.append(f"{experiment.name} could not be run: {error}")
                if stop.pressed:
                    break
    if flags.json:
        printed = [verdict.model_dump(mode="json") for verdict in verdicts]
        say(json.dumps(printed if flags.name == "all" else printed[0] if printed else None, indent=2))
    elif flags.name == "all":
        say(report.summary(verdicts))
    elif verdicts:
        say(report.whole(chosen[0], verdicts[0]))
    for sentence in failed:
        say(sentence, sys.stderr)
    return INTERRUPTED if stop.pressed else 2 if failed else 0


def _perform(experiment: Experiment, lease: Lease, stop: Stop) -> ExperimentVerdict:
    with Saying(f"{experiment.name}: ") as progress:

        def tell(step: Step) -> None:
            left = "" if step.seconds_left is None else f": {report.time_left(step.seconds_left)}"
            progress(Progress(step.text + left, step.done / max(1, step.total)))

        return finish(perform(experiment, lease, stop), tell)
