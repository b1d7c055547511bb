"""What happens on the Experiments tab, as plain generators of views: no widgets in here."""

import threading
from collections.abc import Generator
from dataclasses import dataclass, replace

from .. import experiments
from ..errors import UserError
from ..experiments import Experiment, ExperimentVerdict, NewProcesses, Step
from ..pool import Pool
from ..steps import Steps


@dataclass(frozen=True)
class View:
    """What the tab shows of one experiment: the last word on every step, and at the end a verdict or what went wrong."""

    experiment: Experiment
    steps: tuple[Step, ...] = ()
    verdict: ExperimentVerdict | None = None
    mistake: str = ""
    busy: bool = False

    def doing(self, step: Step) -> "View":
        """With one more step, or with the last one further on."""
        earlier = self.steps[:-1] if self.steps and self.steps[-1].text == step.text else self.steps
        return replace(self, steps=(*earlier, step))


def perform(
    pool: Pool, processes: NewProcesses, experiment: Experiment, pair: str, stop: threading.Event
) -> Generator[View, None, None]:
    """Run an experiment on a pair, loading it if need be. Closing the generator, or `stop`, stops what is under way."""
    view = View(experiment, busy=True)
    running = _run(pool, processes, experiment, pair)
    try:
        yield view
        while not stop.is_set():
            changed = view.doing(next(running))
            if changed != view:
                view = changed
                yield view
        yield replace(view, busy=False, mistake="Stopped. An experiment that did not run to its end has no verdict.")
    except StopIteration as end:
        yield replace(view, busy=False, verdict=end.value)
    except UserError as error:
        yield replace(view, busy=False, mistake=str(error))
    finally:
        running.close()


def _run(pool: Pool, processes: NewProcesses, experiment: Experiment, pair: str) -> Steps[Step, ExperimentVerdict]:
    opening = pool.open(pair)
    while True:
        try:
            progress = next(opening)
        except StopIteration as end:
            lease = end.value
            break
        yield Step(text=progress.text, done=round(100 * (progress.fraction or 0)), total=100)
    try:
        return (yield from experiments.perform(experiment, lease, processes.ask))
    finally:
        lease.release()
