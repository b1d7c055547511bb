"""What happens on the Experiments tab, without a browser: the views of one experiment, from its first step to its verdict."""

from dataclasses import replace

import pytest

from core.errors import UserError
from core.experiments import EXPERIMENTS, Finding, Lab, Step
from core.pool import Progress
from core.steps import Stop
from core.ui.experiments import session
from core.ui.experiments.session import View
from tests.scripted import PAIR, ScriptedPool

FOUND = Finding(outcome="shown", sentence="It is so.")
ASKING, ASKED, JUDGING = (
    Step(text=text, done=done, total=2) for text, done in (("Asking", 1), ("Asking", 2), ("Judging", 2))
)


@pytest.fixture(autouse=True)
def _nothing_is_timed(monkeypatch):
    monkeypatch.setattr(Lab, "measure", lambda lab, prompt: iter(()))


def experiment(*steps: Step, error: Exception | None = None):
    """One that takes these steps and finds FOUND."""

    def run(lab):
        assert lab.lease.pair == PAIR
        yield from steps
        if error is not None:
            raise error
        return FOUND

    return replace(EXPERIMENTS[0], run=run)


def views(*steps: Step, error: Exception | None = None, pool: ScriptedPool | None = None, stop: Stop | None = None):
    return session.perform(pool or ScriptedPool(), experiment(*steps, error=error), PAIR.id, stop or Stop())


def test_the_last_word_on_every_step_is_shown_and_then_the_verdict():
    *under_way, last = views(ASKING, ASKED, JUDGING)
    assert [view.steps for view in under_way] == [(), (ASKING,), (ASKED,), (ASKED, JUDGING)]
    assert all(view.busy and view.verdict is None for view in under_way)
    assert last.steps == (ASKED, JUDGING) and not last.busy and last.mistake == ""
    assert last.verdict is not None and (last.verdict.finding, last.verdict.pair) == (FOUND, PAIR.id)
    assert last.experiment.name == last.verdict.experiment == EXPERIMENTS[0].name


def test_a_mistake_ends_it_in_one_sentence_without_a_verdict():
    *_, last = views(ASKING, error=UserError("This pair cannot be asked that."))
    assert (last.mistake, last.steps) == ("This pair cannot be asked that.", (ASKING,))
    assert last.verdict is None and not last.busy


def test_an_experiment_that_is_stopped_before_anything_came_says_so():
    stop = Stop()
    running = views(ASKING, ASKED, JUDGING, stop=stop)
    assert [next(running).steps for _ in range(2)] == [(), (ASKING,)]
    stop.press()
    [last] = running
    assert last.mistake.startswith("Stopped") and last.verdict is None and not last.busy and last.steps == (ASKING,)


def test_loading_the_models_is_a_step_too():
    loading = views(ASKING, pool=ScriptedPool(loading=0.2))
    assert next(loading).steps == ()
    assert next(loading).steps == (Step(text="Downloading Scripted-Base (12 MB)", done=50, total=100),)
    *_, last = loading
    assert [step.text for step in last.steps] == ["Downloading Scripted-Base (12 MB)", "Asking"]


@pytest.mark.parametrize(("fraction", "done"), [(None, 0), (0.0, 0), (0.126, 13), (1.0, 100)])
def test_progress_is_told_in_whole_percents(fraction, done):
    assert session._loading(Progress("Loading", fraction)) == Step(text="Loading", done=done, total=100)


def test_closing_the_page_ends_what_is_under_way():
    ended = []

    def run(lab):
        try:
            yield ASKING
            yield ASKED
        finally:
            ended.append("closed")

    running = session.perform(ScriptedPool(), replace(EXPERIMENTS[0], run=run), PAIR.id, Stop())
    while next(running) != View(replace(EXPERIMENTS[0], run=run), busy=True, steps=(ASKING,)):
        pass
    running.close()
    assert ended == ["closed"]


def test_a_step_that_goes_on_takes_the_place_of_its_own_last_word_alone():
    def step(text: str, done: int) -> Step:
        return Step(text=text, done=done, total=2)

    view = View(EXPERIMENTS[0], busy=True)
    for each in (step("Asking", 0), step("Asking", 2), step("Reading", 0), step("Reading", 1)):
        view = view.doing(each)
    assert view.steps == (step("Asking", 2), step("Reading", 1))
