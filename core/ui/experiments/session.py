"""What happens on the Experiments tab, as plain generators of views: no widgets in here."""

from collections.abc import Generator
from dataclasses import dataclass, replace

from ... import experiments
from ...errors import UserError
from ...experiments import Experiment, ExperimentVerdict, Step
from ...pool import Pool, Progress
from ...steps import Steps, Stop, Stopped, watch


@dataclass(frozen=True)
class View:
    """What the tab shows of one experiment: the last word on every step, and at the end a verdict or what went wrong."""

    experiment: Experiment
    busy: bool
    steps: tuple[Step, ...] = ()
    verdict: ExperimentVerdict | None = None
    mistake: str = ""

    def doing(self, step: Step) -> "View":
        """With one more step, or with the last one further on."""
        earlier = self.steps[:-1] if self.steps and self.steps[-1].text == step.text else self.steps
        return replace(self, steps=(*earlier, step))


def perform(pool: Pool, experiment: Experiment, pair: str, stop: Stop) -> Generator[View, None, None]:
    """Run an experiment on a pair, loading it if need be. Closing the generator, or `stop`, stops what is under way."""
    view = View(experiment, busy=True)

    def doing(step: Step) -> View:
        nonlocal view
        view = view.doing(step)
        return view

    try:
        yield view
        verdict = yield from watch(_run(pool, experiment, pair, stop), doing)
        yield replace(view, busy=False, verdict=verdict)
    except Stopped:
        yield replace(view, busy=False, mistake="Stopped before anything had come back.")
    except UserError as error:
        yield replace(view, busy=False, mistake=str(error))


def _run(pool: Pool, experiment: Experiment, pair: str, stop: Stop) -> Steps[Step, ExperimentVerdict]:
    with (yield from watch(pool.open(pair), _loading, stop)) as lease:
        return (yield from experiments.perform(experiment, lease, stop))


def _loading(progress: Progress) -> Step:
    return Step(text=progress.text, done=round(100 * (progress.fraction or 0)), total=100)
