"""Branches, handovers, sweeps and grids: each is made of ordinary comparisons."""

import csv
import io
import json
import time
from itertools import pairwise

import pytest

import app
from core import lens, receipts, what_if, wording
from core.difference import first_divergence
from core.errors import UserError
from core.run import compare
from core.steps import Stop, finish
from core.types import SIDES, Comparison, Dial, LensReport, Record, Turn
from core.ui.lens import session as lens_session
from tests import tiny
from tests.pairs import OnePair, comparison, tiny_lease, whole


@pytest.fixture(scope="module")
def lease():
    with tiny_lease() as lease:
        yield lease


@pytest.fixture(scope="module")
def result(lease):
    return compare(lease, comparison(temperature=0.9))


def test_a_branch_with_the_same_token_is_the_same_reply(lease, result):
    whole = result.post.token_ids
    same = compare(lease, what_if.branch(result.comparison, whole, 6, whole[6]))
    assert (*whole[:7], *same.post.token_ids)[: len(whole)] == whole
    other = compare(lease, what_if.branch(result.comparison, whole, 6, 99))
    for side in SIDES:
        assert other.side(side).prompt_token_ids[-7:] == (*whole[:6], 99)
    with pytest.raises(UserError, match="tokens 1 to 40"):
        what_if.branch(result.comparison, whole, 40, 1)


def test_a_handover_of_nothing_is_the_plain_comparison_and_each_goes_on_from_the_other(lease, result):
    assert what_if.handover(lease, result.comparison, result.base.token_ids, result.post.token_ids, 0) == (
        result.comparison
    )
    asked = what_if.handover(lease, result.comparison, result.base.token_ids, (*result.post.token_ids[:3], 2), 5)
    assert asked.prefill_post == result.base.token_ids[:5]
    assert asked.prefill_base == result.post.token_ids[:3], "an end of turn is not handed over"
    handed = compare(lease, asked)
    assert handed.base.token_ids != result.base.token_ids
    assert Comparison.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.parametrize("space", ["logits", "weights"])
def test_a_sweep_goes_from_the_base_to_the_post_trained_reply(lease, space):
    asked = comparison(temperature=0.9, max_new_tokens=12, framing_base="chat")
    plain = compare(lease, asked)
    points = [point for point in what_if.sweep(lease, asked, space, (1.0, 0.0, 0.5)) if point is not None]
    assert [point.amount for point in points] == [0.0, 0.5, 1.0]
    assert points[0].token_ids == plain.base.token_ids
    assert points[0].divergence is None
    assert points[-1].token_ids == plain.post.token_ids
    assert points[-1].text == plain.post.text
    assert points[-1].divergence == first_divergence(plain.base.token_ids, plain.post.token_ids)
    half = compare(lease, asked.model_copy(update={"dial": Dial(amount=0.5, space=space)}))
    assert points[1].token_ids == half.post.token_ids


def test_closing_a_sweep_stops_it(lease):
    sweep = what_if.sweep(lease, comparison(max_new_tokens=200))
    next(sweep)
    sweep.close()
    assert compare(lease, comparison(max_new_tokens=3)).post.token_ids


def test_the_first_divergence():
    assert first_divergence((1, 2, 3), (1, 2, 3)) is None
    assert first_divergence((1, 2, 3), (1, 5, 3)) == 1
    assert first_divergence((1, 2), (1, 2, 3)) == 2
    assert first_divergence((), (1,)) == 0


def test_the_grid_parts_the_gain_into_weights_and_template(lease):
    asked = comparison(temperature=0.8, max_new_tokens=15)
    with_system = asked.model_copy(
        update={"conversation": asked.conversation.model_copy(update={"system": "Be brief."})}
    )
    grids = [grid for grid in what_if.grids(lease, with_system) if grid is not None]
    assert [grid.system for grid in grids] == [False, True]
    for grid in grids:
        assert len({(cell.weights, cell.framing) for cell in grid.cells}) == 4
        assert grid.by_weights + grid.by_template == pytest.approx(grid.total)
    chat = compare(lease, asked.model_copy(update={"framing_base": "chat"}))
    mine = grids[0].cell("post", "chat")
    assert mine.token_ids == chat.post.token_ids
    assert grids[0].cell("base", "chat").token_ids == chat.base.token_ids
    assert mine.logprob == pytest.approx(sum(chat.post.logprobs) / len(chat.post.logprobs), abs=1e-4)
    assert len([grid for grid in what_if.grids(lease, asked) if grid is not None]) == 1, "no system prompt, one grid"


def test_equal_weights_leave_everything_to_the_template():
    with tiny_lease(base_seed=4, post_seed=4) as lease:
        grid = next(grid for grid in what_if.grids(lease, comparison(max_new_tokens=10)) if grid is not None)
    assert grid.by_weights == 0
    assert grid.by_template == grid.total


# --- a lens as a report, in words and as a file ------------------------------------------------------------------------


def test_a_report_can_be_read_back_and_made_again(lease, result):
    made = finish(lens.report(lease, result, "post"))
    assert LensReport.model_validate_json(made.model_dump_json()) == made
    again = compare(lease, made.comparison)
    assert finish(lens.report(lease, again, "post")) == made
    assert made.summary.tokens == len(result.post.token_ids)
    assert made.summary.mean_kl == pytest.approx(sum(shift.kl for shift in made.lens.shifts) / len(made.lens.shifts))
    shares = made.summary.shares
    assert shares.unshifted + shares.marginal + shares.shifted == pytest.approx(1)


def test_a_reply_of_other_weights_is_refused_with_both_fingerprints(lease, result):
    stranger = result.model_copy(update={"base": result.base.model_copy(update={"weights_sha256": "a" * 64})})
    with pytest.raises(UserError, match=r"base side \(aaaaaaaa; here they are [0-9a-f]{8}\)"):
        finish(lens.report(lease, stranger, "post"))


def test_the_table_holds_every_figure_and_no_formula(lease, result):
    formula = lease.post.tokenizer('=1+1, "quoted"\nnext', add_special_tokens=False)["input_ids"]
    found = whole(lease, result.comparison, "post", formula)
    rows = list(csv.DictReader(io.StringIO(lens.table(found))))
    assert len(rows) == len(formula)
    assert "".join(json.loads(row["text"]) for row in rows) == '=1+1, "quoted"\nnext'
    assert all(row["text"].startswith('"') for row in rows)
    for row, shift in zip(rows, found.shifts, strict=True):
        assert float(row["kl"]) == shift.kl
        assert float(row["log_ratio"]) == shift.log_ratio
        assert row["class"] == shift.shift_class
        assert float(row["base_1"].rpartition(" ")[2]) == pytest.approx(shift.top_base[0].logprob, abs=1e-6)


def test_the_words_name_every_token_and_the_figures(lease, result):
    made = finish(lens.report(lease, result, "base", "own"))
    lines = wording.lens_lines(made)
    assert lines[0] == "Base reply, 40 tokens; the sibling reads its own framing of the conversation"
    assert len(lines) == 6 + 40
    for line, shift in zip(lines[6:], made.lens.shifts, strict=True):
        assert line.split()[0] == str(shift.step + 1)
        assert line.endswith(repr(shift.text))
        assert f"{shift.kl:.3f}" in line


@pytest.mark.slow
def test_the_command_prints_the_lens_of_a_receipt_and_writes_the_table(tmp_path, capsys):
    """The whole way: compare, receipt, lens; the writer's figures are the recorded ones."""
    base, post = tiny.save_pair(tmp_path)
    own = ["--base", str(base), "--post", str(post), "--device", "cpu", "--dtype", "float32", "--threads", "1"]
    file, answer, sheet = tmp_path / "receipt.json", tmp_path / "answer.json", tmp_path / "lens.csv"
    asked = ["compare", "--prompt", "The sea is", "--max-new-tokens", "24", "--receipt", str(file), "--json"]
    assert app.main([*asked, *own]) == 0
    answer.write_text(capsys.readouterr().out)
    result = json.loads(answer.read_text())
    for source, side in ((file, "post"), (answer, "base")):
        assert app.main(["lens", str(source), "--side", side, "--csv", str(sheet), "--json", *own]) == 0
        report = LensReport.model_validate_json(capsys.readouterr().out)
        assert [shift.id for shift in report.lens.shifts] == result[side]["token_ids"]
        scored = [getattr(shift, f"logprob_{side}") for shift in report.lens.shifts]
        assert scored == pytest.approx(result[side]["logprobs"], abs=1e-3), "prefill and decode round differently"
        assert len(list(csv.DictReader(io.StringIO(sheet.read_text())))) == len(report.lens.shifts)
    assert app.main(["lens", str(tmp_path / "nothing.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


# --- what the tab does, without a browser ------------------------------------------------------------------


def kept(result) -> tuple[Record, ...]:
    turn = Turn(prompt=result.comparison.prompt, base=result.base.text, post=result.post.text)
    sides = (receipts.side_receipt(result.side(side)) for side in SIDES)
    return (Record.of(result.comparison, turn, *sides),)


def test_stop_ends_what_is_under_way_and_keeps_what_was_read(lease):
    long = kept(compare(lease, comparison(max_new_tokens=150)))
    stop = Stop()
    views = []
    for view in lens_session.read(OnePair(lease), long, 0, "post", "identical", stop):
        views.append(view)
        if view.lines and view.lines.count("\n") > 1:
            stop.press()
    assert views[-1].notice.startswith("Stopped")
    assert all(view.report is None for view in views)
    lines = [view.lines for view in views if view.lines]
    assert all(later.startswith(earlier) for earlier, later in pairwise(lines)), "the string only grows"
    stop = Stop()
    dialled = lens_session.dial(OnePair(lease), long, 0, 0.5, "logits", stop)
    next(view for view in dialled if view.what_if)
    stop.press()
    *_, last = dialled
    assert last.made.record.post.finish_reason == "stopped"


def test_a_closed_tab_frees_both_models_whatever_it_was_doing(lease):
    chat = kept(compare(lease, comparison(max_new_tokens=150)))
    for start in (
        lambda: lens_session.read(OnePair(lease), chat, 0, "base", "own", Stop()),
        lambda: lens_session.hand_over(OnePair(lease), chat, 0, 3, Stop()),
        lambda: lens_session.dial(OnePair(lease), chat, 0, 0.5, "logits", Stop()),
        lambda: lens_session.sweep(OnePair(lease), chat, 0, "logits", Stop()),
        lambda: lens_session.grid(OnePair(lease), chat, 0, Stop()),
    ):
        views = start()
        for _ in range(4):
            next(views, None)
        views.close()
    began = time.monotonic()
    while any(lease.loaded[side].engine._scheduler.active() for side in SIDES):
        assert time.monotonic() - began < 60, "somebody still holds a slot"
        time.sleep(0.05)


def test_a_branch_of_a_conversation_that_has_changed_is_refused(lease, result):
    chat = kept(result)
    *_, read = lens_session.read(OnePair(lease), chat, 0, "post", "identical", Stop())
    head = json.loads(read.lines.split("\n")[0])
    other = kept(compare(lease, comparison("Another prompt", max_new_tokens=5)))
    for turns, changes, said in (
        (other, {}, "changed since"),
        (chat, {"of": None}, "changed since"),
        (chat, {"step": "1"}, "one of the tokens"),
        (chat, {"side": "both"}, "one of the tokens"),
        (chat, {"turn": [0]}, "Choose one of the turns"),
        (chat, {"step": 400}, "tokens 1 to 40"),
        (chat, {"token": -3}, "from 0 on"),
        (chat, {"token": 10**6}, "does not have"),
    ):
        asked = {**head, "step": 1, "token": 5, **changes}
        *_, last = lens_session.branch(OnePair(lease), turns, asked, Stop())
        assert said in last.notice and last.tone == "error"
