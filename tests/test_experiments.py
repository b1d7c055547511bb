"""The guided experiments on tiny random pairs: they judge what they measured, and nothing crashes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core import experiments
from core.difference import first_divergence
from core.errors import UserError
from core.experiments import EXPERIMENTS, ExperimentVerdict, costume, cutoff, pace, report
from core.experiments.correction import Lie, token_diff, unsaid
from core.experiments.costume import LADDER
from core.experiments.lab import Lab, as_rates
from core.experiments.ledger import ROUNDS, crowd_sizes
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.pool import Pool
from core.settings import Settings
from core.steps import Stop, Stopped, finish
from core.types import SIDES
from tests import tiny
from tests.pairs import nowhere

NAMES = [experiment.name for experiment in EXPERIMENTS]


def _pool(folder: Path, **options) -> Pool:
    base, post = tiny.save_pair(folder, context=1024, **options)
    return Pool(Settings(base=str(base), post=str(post), device="cpu", threads=1), HuggingFaceHub())


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = _pool(tmp_path_factory.mktemp("pair"))
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def lease(pool):
    """One that starts no new process."""
    with pool.wait(pool.default.id) as lease:
        yield replace(lease, _elsewhere=nowhere)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two copies of the same weights as a pair."""
    pool = _pool(tmp_path_factory.mktemp("twins"), post_seed=1)
    yield pool.wait(pool.default.id)
    pool.close()


def perform(name: str, lease: Lease) -> tuple[list[experiments.Step], ExperimentVerdict]:
    steps, running = [], experiments.perform(experiments.find(name), lease)
    while True:
        try:
            steps.append(next(running))
        except StopIteration as end:
            return steps, end.value


@pytest.fixture(scope="module")
def verdict(lease) -> Callable[[str], ExperimentVerdict]:
    """The verdict of an experiment on the random pair, run once."""
    known: dict[str, ExperimentVerdict] = {}

    def get(name: str) -> ExperimentVerdict:
        if name not in known:
            known[name] = perform(name, lease)[1]
        return known[name]

    return get


# --- every experiment ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_random_weights_nothing_crashes_and_the_verdict_can_be_printed_and_read_back(verdict, name):
    found = verdict(name)
    assert found.experiment == name
    assert found.finding.outcome in ("shown", "not shown")
    assert found.finding.sentence.endswith(".")
    assert found.finding.exhibits, "there is something to open in Compare"
    assert all(len(row) == len(table.columns) for table in found.finding.tables for row in table.rows)
    assert ExperimentVerdict.model_validate_json(found.model_dump_json()) == found
    assert experiments.find(name).title in report.whole(experiments.find(name), found)


@pytest.mark.parametrize("name", NAMES)
def test_the_texts_are_short_and_hold_no_figure(name):
    row = experiments.find(name)
    assert len(row.text.split()) < 120
    assert not any(
        character.isdigit() for text in (row.belief, row.text, row.runs, row.judged, row.look) for character in text
    )


def test_steps_tell_what_is_done_and_end_complete(lease):
    steps, _ = perform("weights", lease)
    texts = list(dict.fromkeys(step.text for step in steps))
    assert texts[0] == "Timing a short reply" and texts[2] == "Chatting, turn 1 of 4" and len(texts) == 7
    for text in texts:
        of_it = [step for step in steps if step.text == text]
        assert [step.done for step in of_it] == sorted(step.done for step in of_it)
        assert of_it[-1].done == of_it[-1].total


def test_closing_an_experiment_stops_what_is_under_way(lease):
    running = experiments.perform(experiments.find("repeat"), lease)
    next(running)
    running.close()
    deadline = time.monotonic() + 30
    while not all(lease.loaded[side].engine._scheduler.idle for side in SIDES) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(lease.loaded[side].engine._scheduler.idle for side in SIDES), "the slots are free again"


def test_an_unknown_name_is_one_sentence():
    for name in ("a" * 5_000, ["a"] * 5_000):  # from an API
        with pytest.raises(UserError) as told:
            experiments.find(name)
        assert len(str(told.value)) < 300
    with pytest.raises(UserError, match="There is no experiment 'x'; choose one of weights, repeat"):
        experiments.find("x")


# --- training is over -----------------------------------------------------------------------------------


def test_weights_are_read_again_and_not_remembered(lease, monkeypatch):
    """A byte that changes during the chat is seen."""

    parameter = next(lease.loaded["base"].model.parameters())
    ask = Lab.ask

    def nudging(lab, doing, comparisons):
        parameter.data.view(-1)[0] += 1
        return ask(lab, doing, comparisons)

    before = parameter.data.view(-1)[0].item()
    monkeypatch.setattr(Lab, "ask", nudging)
    try:
        found = perform("weights", lease)[1].finding
    finally:
        parameter.data.view(-1)[0] = before
    assert found.outcome == "not shown"
    assert "The weights of the base model are not what they were" in found.sentence
    assert found.figures["base_sha256_before"] != found.figures["base_sha256_after"]


def test_weights_counts_tokens_turn_by_turn(verdict):
    sent = [row[2] for row in verdict("weights").finding.tables[1].rows]
    assert sent == sorted(set(sent)) and len(sent) == 4


# --- same inputs, same output ---------------------------------------------------------------------------


@pytest.mark.slow
def test_repeat_holds_alone_in_a_crowd_and_in_a_new_process(pool):
    with pool.wait(pool.default.id) as lease:
        _, found = perform("repeat", lease)
    assert found.finding.outcome == "shown", found.finding.sentence
    assert found.finding.figures["new_process"] == "identical"
    assert found.finding.figures["repetitions"] == 21 == found.finding.figures["base_identical"]


def test_repeat_says_when_the_new_process_cannot_start(verdict):
    finding = verdict("repeat").finding
    assert finding.figures["new_process"] == "a test starts none"
    assert "The repetition in a new process was left out: a test starts none." in finding.details
    assert finding.figures["repetitions"] == 20


def test_repeat_notices_a_reply_that_differs(lease, monkeypatch):
    """A new process that answers with something else is not called identical."""
    monkeypatch.setattr("core.experiments.repeat.REPEATS", 1)

    def another(comparison, lease):
        from core.run import compare

        other = comparison.model_copy(update={"sampling": comparison.sampling.model_copy(update={"seed": 5})})
        yield
        return compare(lease, other)

    finding = perform("repeat", replace(lease, _elsewhere=another))[1].finding
    assert finding.outcome == "not shown" and "in a new process" in finding.sentence
    assert finding.figures["new_process"] == "different"


def test_a_new_process_needs_memory(pool, lease, monkeypatch):
    monkeypatch.setattr("core.checkpoints.memory.free_bytes", lambda device: 1000)
    asked = Lab(lease, "2026-01-01").comparison("Hello")
    with pytest.raises(UserError, match=r"a second copy of this pair needs about \d\.\d GB and 0\.0 GB is free"):
        next(pool.peek(pool.default.id).elsewhere(asked))


def test_a_new_process_is_given_the_models_of_a_pair_of_ones_own(pool, lease):
    asked = Lab(lease, "2026-01-01").comparison("Hello")
    own = replace(lease, pair=lease.pair.model_copy(update={"id": "x | y", "base": "some/x", "post": "y"}))
    command = pool._processes._command(asked.model_copy(update={"pair": "x | y"}), own)
    assert {"--pair=x | y", "--base=some/x", "--post=y"} <= set(command)
    command = pool._processes._command(asked.model_copy(update={"pair": "embedded"}), lease)
    assert "--pair=embedded" in command and not any(flag.startswith(("--base", "--post")) for flag in command)


# --- time ------------------------------------------------------------------------------------------------


class Clock:
    """Stands for time.monotonic: it goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(pace, "monotonic", lambda: self.now)


def test_the_time_that_is_left_follows_from_what_the_comparisons_took(monkeypatch):
    clock, run = Clock(monkeypatch), pace.Pace(10)
    came: list[Any] = run.results
    run.measured(1.0, 4)
    assert run.share == 1 and run.seconds_left() is None
    for clock.now in (3.0, 6.0):
        came.append(None)
    assert run.seconds_left() == 24
    came += [None] * 8
    assert run.seconds_left() is None, "nothing that can be told"


def test_on_a_slow_machine_replies_are_shorter_and_the_verdict_says_so():
    run = pace.Pace(40, budget=100)
    run.measured(pace.MEASURED_TOKENS * 1.0, 4)  # a second for each token of four replies
    assert run.share == pytest.approx(100 / (32 * 40 / 4))
    assert (run.tokens(32), run.tokens(8), run.tokens(10)) == (10, 8, 8)
    (said,) = run.told()
    assert "about 2 minutes" in said and "31% of their usual tokens" in said
    assert pace.Pace(40).tokens(32) == 32 and pace.Pace(40).told() == ()


def test_every_reply_keeps_to_it_and_says_so(lease, monkeypatch):
    monkeypatch.setattr(pace.Pace, "measured", lambda run, seconds, at_once: setattr(run, "share", 0.25))
    finding = perform("inputs", lease)[1].finding
    assert {exhibit.result.comparison.sampling.max_new_tokens for exhibit in finding.exhibits} == {8}
    assert "To keep to about 5 minutes" in finding.details[-1]


@pytest.mark.parametrize("name", ["weights", "inputs"])
def test_a_row_knows_about_how_many_comparisons_it_asks(lease, name):
    experiment, lab = experiments.find(name), Lab(lease, "2026-01-01")
    finish(experiment.run(lab))
    assert experiment.comparisons == len(lab.pace.results)


@pytest.mark.parametrize("steps", [1, 12])
def test_stopped_early_it_gives_what_has_come_until_then(lease, steps):
    stop = Stop()
    running = experiments.perform(experiments.find("repeat"), lease, stop)
    for _ in range(steps):
        next(running)
    while steps > 1 and not next(running).done:
        pass
    stop.press()
    if steps == 1:
        with pytest.raises(Stopped):
            finish(running)
        return
    found = finish(running).finding
    assert found.outcome == "stopped early" and "there is no verdict" in found.sentence
    assert found.exhibits and len(found.exhibits) == len(found.tables[0].rows) == found.figures["comparisons"]


# --- your correction teaches nobody ----------------------------------------------------------------------


def test_correction_sends_what_it_says(verdict):
    finding = verdict("correction").finding
    same, fresh, deleted = (exhibit.result.comparison for exhibit in finding.exhibits)
    assert same.prompt == fresh.prompt == deleted.prompt
    assert len({comparison.sampling for comparison in (same, fresh, deleted)}) == 1, "same seed throughout"
    assert [len(comparison.conversation.turns) for comparison in (same, fresh, deleted)] == [2, 0, 1]
    corrected = same.conversation.turns[1]
    row = next(row for row in finding.tables[0].rows if row[1] == corrected.prompt)
    assert finding.tables[0].columns[3] == "Reply to the correction" and row[3] == (corrected.post or "(nothing)")
    assert finding.figures["weights_equal"] is True
    assert finding.figures["post_same_as_first_in_a_fresh_chat"] == finding.figures["questions"]
    assert finding.figures["post_same_as_before_with_the_correction_deleted"] == finding.figures["questions"]


def test_a_random_model_uses_no_correction_and_the_verdict_says_so(verdict):
    finding = verdict("correction").finding
    assert finding.outcome == "not shown"
    assert "Nothing was learned" in finding.sentence and "hardly shows the contrast" in finding.sentence


def test_a_made_up_answer_that_a_model_gives_of_itself_is_not_used():
    lie = Lie("What color is snow?", "Snow is {}.", ("black", "purple"))
    says = lambda text: SimpleNamespace(side=lambda side: SimpleNamespace(text=text if side == "base" else "White."))  # noqa: E731
    assert unsaid(lie, says("White."), says("It is cold.")) == lie
    assert unsaid(lie, says("White."), says("As black as night.")).correction == "Snow is purple."
    assert unsaid(lie, says("Black."), says("Purple.")) is None


def test_the_token_diff_rebuilds_both_texts(lease):
    first, second = (lease.post.tokenizer(text)["input_ids"] for text in ("a fox and a dog", "the fox or a dog jumps"))
    parts = token_diff(lease.post.tokenizer, first, second)
    for where, ids in (("first", first), ("second", second)):
        text = "".join(part.text for part in parts if part.where in ("both", where))
        assert text == lease.post.tokenizer.decode(ids)


# --- if it behaves differently, an input changed ---------------------------------------------------------


def test_inputs_has_an_identical_control_and_finds_where_replies_part(verdict):
    finding = verdict("inputs").finding
    assert finding.outcome == "shown"
    assert finding.figures["control_identical"] is True
    rows = {row[0]: row for row in finding.tables[0].rows}
    assert rows["nothing (control)"][3] == rows["nothing (control)"][6] == "never"
    first, *others = finding.exhibits
    seed = next(exhibit.result for exhibit in others if "seed" in exhibit.label)
    step = first_divergence(first.result.base.token_ids, seed.base.token_ids)
    assert step is not None and rows["seed"][3] == step + 1
    assert rows["seed"][4] == round(first.result.base.margins[step], 4)
    swapped = others[-1].result
    apart = first_divergence(swapped.base.token_ids, swapped.post.token_ids)
    assert apart is not None and rows["weights"][3] == rows["weights"][6] == apart + 1
    assert finding.figures["weights_alone_diverge_at_token"] == apart + 1, "counted from 1 as in the table"
    assert rows["weights"][4] == round(swapped.base.margins[apart], 4)
    assert rows["weights"][7] == round(swapped.post.margins[apart], 4)


def test_what_so_few_can_stand_for_is_said_as_intervals_of_rates():
    said = as_rates({"used": (5, 6), "declined": (0, 3)})
    assert said.startswith("As rates over such prompts (Wilson's intervals of 95%): used 5 of 6, 44% to 97%; declined")
    assert "declined 0 of 3, 0% to 56%" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answers", "correction", "costume", "cutoff"])
def test_where_prompts_are_counted_the_rates_are_said_with_their_intervals(verdict, name):
    assert sum(detail.startswith("As rates over such prompts") for detail in verdict(name).finding.details) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_reply_without_words_is_said_in_words(verdict, name):
    for table in verdict(name).finding.tables:
        replies = [i for i, column in enumerate(table.columns) if "repl" in column.lower()]
        assert all(str(row[i]).strip() for row in table.rows for i in replies)


def test_inputs_with_equal_weights_finds_no_difference_of_the_weights(twins):
    finding = perform("inputs", twins)[1].finding
    assert finding.figures["weights_alone_diverge_at_token"] is None
    assert any("the weights alone make no difference" in detail for detail in finding.details)


# --- the cutoff is not negotiable -----------------------------------------------------------------------


def test_cutoff_probes_every_year_with_both_models(verdict):
    finding = verdict("cutoff").finding
    for series in finding.plots[0].series:
        assert [x for x, _ in series.points] == list(range(cutoff.FIRST_YEAR, cutoff.LAST_YEAR + 1))
        assert all(y < 0 for _, y in series.points)
    assert finding.outcome == "not shown", "random weights know no cutoff"
    later = [row[1] for row in finding.tables[0].rows if row[0] == "after the cutoff"]
    insisting = [row[1] for row in finding.tables[0].rows if row[0] == "insisting"]
    assert insisting == [f"{question} \u2192 {cutoff.INSISTING}" for question in later]


def test_a_year_is_scored_as_the_plain_forward_pass_scores_it(lease, verdict):
    """The probe of one year against the model itself, without engine or cache."""
    scores = []
    for sentence in cutoff.DATED:
        years = [lease.base.tokenizer(sentence.format(year=year))["input_ids"] for year in (1995, 2004, 2010)]
        begin = next(i for i in range(len(years[0])) if len({ids[i] for ids in years}) > 1)
        ids = years[1]
        with torch.inference_mode():
            logits = lease.loaded["base"].model(torch.tensor([ids])).logits[0].double()
        logprobs = torch.log_softmax(logits[:, : tiny.VOCABULARY], -1)
        scores.append(sum(logprobs[i - 1, ids[i]].item() for i in range(begin, len(ids))))
    base = next(series for series in verdict("cutoff").finding.plots[0].series if series.side == "base")
    assert dict(base.points)[2004] == pytest.approx(sum(scores) / len(scores), abs=0.1)  # bfloat16


def test_the_effective_cutoff_is_where_the_curve_falls_for_good():
    curve = {year: -2.0 - 0.05 * (2015 - year) if year <= 2015 else -8.0 for year in range(1995, 2031)}
    assert cutoff.effective_cutoff(curve) == 2015
    assert cutoff.effective_cutoff({**curve, 2003: -9.0}) == 2015, "one rare year is no cutoff"


def test_the_stated_cutoff_is_the_year_named_most_often():
    assert cutoff.stated_cutoff(["It ends in 2015.", "In 2015. Not 1999.", "I do not know."]) == 2015
    assert cutoff.stated_cutoff(["I do not know."]) is None


# --- pre-training continues, post-training answers; the costume slips -------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answers", "costume"])
def test_two_copies_of_the_same_weights_show_no_difference(twins, name):
    finding = perform(name, twins)[1].finding
    assert finding.outcome == "not shown"
    assert finding.figures["no_difference"] is True
    assert finding.sentence.startswith("No difference")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answers", "costume"])
def test_other_weights_do_show_a_difference(verdict, name):
    assert verdict(name).finding.figures["no_difference"] is False


def test_answers_counts_every_reply_once(verdict):
    finding = verdict("answers").finding
    for row in finding.tables[0].rows:
        assert sum(row[2:7]) == finding.figures["prompts"] == 12


def test_costume_reads_only_what_was_drawn(verdict):
    """The beginning that a reply is given is not counted as its tokens, and the base is read behind the same ids."""
    finding = verdict("costume").finding
    begun = next(each.result for each in finding.exhibits if each.label.startswith("a reply already begun: "))
    assert begun.post.text.startswith("It was a dark night, and the old")
    assert begun.comparison.prefill_post and not begun.comparison.prefill_base
    bare = next(each.result for each in finding.exhibits if each.label.startswith("bare text: "))
    assert bare.comparison.framing_post == "document"
    assert [row[0] for row in finding.tables[0].rows] == [rung.name for rung in LADDER]
    assert len(finding.exhibits) == len(finding.tables[1].rows) == sum(len(rung.questions) for rung in LADDER)


@pytest.mark.parametrize(
    ("question", "reply", "does"),
    [
        (costume.PLAIN[0], "The capital of France is Lyon.", "answers"),
        (costume.PLAIN[0], "The answer is 19.", "misses the question"),
        (costume.PLAIN[1], "Here is a list of three animals:\n\n- Cat\n- Frog\n- Kangaroo", "answers"),
        (costume.PLAIN[1], "The three animals in the world is written by Jane Austen.", "misses the question"),
        (costume.PLAIN[2], "I do not know what a lake is.", "declines"),
        (costume.PLAIN[2], "What is a river? What is a hill?", "asks more"),
    ],
)
def test_nonsense_in_the_form_of_an_answer_is_no_answer(question, reply, does):
    """Right or wrong does not count; whether it is about the question does."""
    assert costume._does(question, reply) == does


# --- one function call per token ---------------------------------------------------------------------------


@pytest.mark.slow
def test_ledger_counts_passes_and_copies(verdict, lease):
    finding = verdict("ledger").finding
    usage = finding.exhibits[0].result.post.usage
    assert usage.decode_passes == usage.output_tokens - 1
    assert finding.outcome == "shown", "whatever the clock says"
    assert finding.figures["different_copies"] == 0 and finding.figures["copies"] == ROUNDS * 7
    assert (
        finding.figures["post_bytes_per_pass"] == lease.post.info.parameters * lease.loaded["post"].model.dtype.itemsize
    )
    assert sum("does not tell what its training cost" in detail for detail in finding.details) == 2


@pytest.mark.slow
def test_ledger_reads_the_cost_of_training_from_the_card(lease, pool):
    card = Path(pool.default.post) / "README.md"
    card.write_text(
        "---\nlicense: mit\ntraining_tokens: 12345678\ntraining_seconds: 600\ntraining_machine: two cores\n---\n# Card\n"
    )
    try:
        finding = perform("ledger", lease)[1].finding
    finally:
        card.unlink()
    assert any("took 12,345,678 tokens and 10 minutes (two cores)" in detail for detail in finding.details)
    assert finding.tables[-1].rows[0][:4] == ("post-trained", 12345678, 600, "two cores")


@pytest.mark.parametrize(
    ("slots", "sizes"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_crowds_grow_to_all_slots(slots, sizes):
    assert crowd_sizes(slots) == sizes


# --- the command line ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_experiment_on_the_command_line(pool):
    flags = [f"--base={pool.settings.base}", f"--post={pool.settings.post}", "--device=cpu", "--threads=1"]
    app = str(Path(__file__).parent.parent / "app.py")
    ran = subprocess.run(
        [sys.executable, app, "experiment", "weights", "--json", *flags], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    printed = json.loads(ran.stdout)
    assert printed["experiment"] == "weights" and printed["finding"]["outcome"] == "shown"
    assert "Chatting, turn 4 of 4" in ran.stderr


@pytest.mark.slow
def test_all_prints_a_table(verdict):
    lines = report.summary([verdict(name) for name in NAMES]).splitlines()
    assert len(lines) == 2 + len(NAMES)
    assert all(line.startswith(name) for name, line in zip(NAMES, lines[2:], strict=True))


def test_settings_go_to_the_new_process_whole():
    settings = replace(Settings(), base="a", post="b", device="cpu", slots=3)
    assert settings.model_flags() == [
        "--pair=embedded",
        "--base=a",
        "--post=b",
        "--device=cpu",
        "--dtype=auto",
        "--slots=3",
    ]
