"""`study` on the command line: what it prints and writes, when it fails, and that it goes on where it was."""

import csv
import json
import re
from contextlib import nullcontext

import pytest

import app
from core.cli import replay as replaying
from core.cli import study as command
from core.study import export
from core.study import receipt as receipts
from tests.scripted import ScriptedPool


class CountingPool(ScriptedPool):
    """Counts how often the pair is asked for, and at which commits."""

    loads, commits = 0, None

    def open(self, id, commits=None, gives_way=False, tokens=None):
        self.loads += 1
        self.commits = commits
        return super().open(id)


@pytest.fixture
def pool(monkeypatch) -> CountingPool:
    pool = CountingPool("The capital is Lyon, I think.", "It is Paris.")
    for module in (command, replaying):
        monkeypatch.setattr(module, "Pool", lambda settings, hub: nullcontext(pool))
    return pool


ASK = ["study", "--prompt", "What is the capital of France?", "--seeds", "8", "--test", "contains:Paris"]


def test_a_stranger_has_both_rates_and_their_intervals(pool, capsys):
    assert app.main(ASK) == 0
    printed = capsys.readouterr().out
    assert "8 seeds, 32 of 32 replies: What is the capital of France?" in printed
    assert printed.count("each under its own framing: 0 of 8 replies equal") == 1
    assert printed.count("both under") == 2
    [line] = {line for line in printed.splitlines() if line.startswith("  contains:Paris")}
    assert re.split(" {2,}", line.strip()) == [
        "contains:Paris", "0 of 8, 0% (0% to 32%)", "8 of 8, 100% (68% to 100%)", "+100 (+54 to +100), p 0.0078"
    ]  # fmt: skip
    assert "Two overlapping intervals are no test" in printed and "ended early" not in printed


def test_results_and_receipt_are_one_json_object_and_rows_go_into_files(pool, capsys, tmp_path):
    names = [str(tmp_path / name) for name in ("replies.csv", "replies.jsonl", "receipt.json")]
    flags = ["--json", "--out", names[0], "--out", names[1], "--receipt", names[2], "--own-framings"]
    assert app.main([*ASK, *flags]) == 0
    report = export.StudyReport.model_validate_json(capsys.readouterr().out)
    assert report.results.done == 16
    assert receipts.read((tmp_path / "receipt.json").read_bytes()) == report.receipt
    lines = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text("utf-8").splitlines()]
    with (tmp_path / "replies.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(lines) == len(table) == 16
    for line, row in zip(lines, table, strict=True):
        assert row["reply"] == line["reply"] and int(row["seed"]) == line["seed"]
        assert (
            row["contains:Paris"] == str(int("Paris" in line["reply"])) == str(int(line["verdicts"]["contains:Paris"]))
        )
    assert {line["seed"] for line in lines} == {report.receipt.plan.seed(0, i) for i in range(8)}


def test_the_branching_factor_and_where_replies_part_are_told_where_they_are_asked(pool, capsys, tmp_path):
    file, table = tmp_path / "replies.jsonl", tmp_path / "replies.csv"
    out = ["--out", str(file), "--out", str(table)]
    assert app.main([*ASK, "--own-framings", "--branching", "--temperature", "1.5", *out]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  branching factor")]
    assert re.fullmatch(r"  branching factor +\d+\.\d\d \([\d.]+ to [\d.]+\) +\d+\.\d\d \([\d.]+ to [\d.]+\)", line)
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    with table.open(encoding="utf-8", newline="") as read:
        rows = list(csv.DictReader(read))
    for line, row in zip(lines, rows, strict=True):
        assert len(line["entropies"]) == line["tokens"] and all(0 <= entropy < 11 for entropy in line["entropies"])
        assert float(row["branching"]) == line["branching"] > 1 and int(row["parts_at"]) == line["parts_at"] == 1
        assert "entropies" not in row


def test_a_suite_is_told_by_the_prompts_that_flip_most(pool, capsys, tmp_path):
    file = tmp_path / "suite.csv"
    file.write_text("prompt,category,expect\nWhere?,a,Paris\nWhen?,b,\n", "utf-8")
    rows = tmp_path / "rows.csv"
    assert app.main(["study", str(file), "--own-framings", "--out", str(rows)]) == 0
    printed = capsys.readouterr().out
    assert "2 prompts, 4 seeds each, 16 of 16 replies: All prompts" in printed
    assert "  row 1, 4 flips: Where?" in printed and "row 2" not in printed
    assert rows.read_text("utf-8").splitlines()[-1].endswith(",,1,0,0,0,1"), "no verdict where nothing is expected"
    assert app.main(["study", "claims", "--seeds", "1", "--own-framings"]) == 0
    assert "30 prompts, once each, 60 of 60 replies" in capsys.readouterr().out, "one that comes with the app"
    file.write_text("prompt\n\nWhere?,x\n", "utf-8")
    assert app.main(["study", str(file)]) == 2
    assert "Row 1 of suite.csv: it has more fields" in capsys.readouterr().err


def test_a_condition_that_is_true_is_an_exit_status(pool, capsys):
    assert app.main([*ASK, "--fail-if", "post<0.9"]) == 0
    assert app.main([*ASK, "--fail-if", "post<0.9", "--fail-if", "base[declines]<1"]) == 1
    assert "base[declines]<1: it is 0.000 for scripted.\n" in capsys.readouterr().err


def test_what_is_kept_is_not_asked_again_and_the_date_stays(pool, capsys, tmp_path):
    keep = ["--keep", str(tmp_path / "study.sqlite")]
    assert app.main([*ASK, *keep, "--today", "2026-01-31"]) == 0
    first = capsys.readouterr().out
    assert pool.loads == 1
    assert app.main([*ASK, *keep]) == 0 and app.main(["study", *keep]) == 0
    assert pool.loads == 1 and capsys.readouterr().out == 2 * first
    assert app.main([*ASK, *keep, "--test", "contains:Lyon"]) == 0 and pool.loads == 1, "other tests need no model"
    assert app.main([*ASK, *keep, "--system", "Be brief."]) == 0 and pool.loads == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["study"], "Name a file of prompts, or write one with --prompt"),
        (["study", "a.csv", "--prompt", "x"], "not both"),
        (["study", "nowhere.csv"], "'nowhere.csv' cannot be read"),
        (["study", "a.csv", "--system", "x"], "leave out --system"),
        (["study", "--prompt", " "], "The prompt is empty"),
        ([*ASK, "--seeds", "7"], "one prompt needs 8 to 1,024 seeds"),
        ([*ASK, "--test", "Paris"], "'Paris' is no test"),
        ([*ASK, "--test", "number:x"], "a range of numbers is written as"),
        ([*ASK, "--test", "regex:("], "is no regular expression of Python"),
        ([*ASK, "--pairs", "a,b"], "There is no pair 'a' here"),
        ([*ASK, "--out", "report.pdf"], "must end with"),
        ([*ASK, "--fail-if", "post"], "is no condition on this study"),
        ([*ASK, "--temperature", "3"], "temperature"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_run(pool, capsys, arguments, why):
    assert app.main(arguments) == 2
    printed = capsys.readouterr()
    assert why in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not pool.loads


def test_the_stages_of_a_lineage_are_each_held_against_the_first(pool, capsys, monkeypatch, tmp_path):
    added: list = []
    monkeypatch.setattr(pool, "add", added.append, raising=False)
    file, report = str(tmp_path / "receipt.json"), tmp_path / "report.html"
    stages = ["--stages", "lab/base, lab/sft,lab/final"]
    assert app.main([*ASK, "--own-framings", *stages, "--receipt", file, "--out", str(report)]) == 0
    assert [(pair.base, pair.post) for pair in added] == [("lab/base", "lab/sft"), ("lab/base", "lab/final")]
    printed = capsys.readouterr().out
    rows = [re.split(" {2,}", line.strip()) for line in printed.splitlines() if line.startswith("  lab/base |")]
    assert [row[0] for row in rows] == ["lab/base | lab/sft", "lab/base | lab/final"]
    assert {row[2] for row in rows} == {"8 of 8, 100% (68% to 100%)"}
    told = "Scripted-Base: 0%; Scripted-Chat: 100%; Scripted-Chat: 100%."
    assert "From stage to stage" in report.read_text("utf-8") and told in report.read_text("utf-8")
    added.clear()
    assert app.main(["replay", file, *stages]) == 0 and len(added) == 2
    capsys.readouterr()
    for wrong, sentence in (
        (["--stages"], "No stages are known of Scripted pair"),
        (["--stages", "lab/base"], "name them in their order"),
        (["--stages", "./nothing,lab/sft"], "check the path"),
        ([*stages, "--pairs", "scripted"], "leave out one of them"),
    ):
        assert app.main([*ASK, *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_its_receipt_replays_whole_or_in_part(pool, capsys, tmp_path):
    file = str(tmp_path / "receipt.json")
    assert app.main([*ASK, "--receipt", file]) == 0
    capsys.readouterr()
    assert app.main(["replay", file]) == 0
    assert capsys.readouterr().out == "Identical: all 32 replies were run again, every one the same.\n"
    assert app.main(["replay", file, "--sample", "5", "--sample-seed", "3", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["covered"], verdict["cells"], verdict["sample_seed"]) == (5, 32, 3)
    keep = ["--keep", str(tmp_path / "study.sqlite")]
    assert app.main([*ASK, *keep]) == 0 and app.main(["replay", file, *keep]) == 0
    assert app.main(["replay", file, "--sample", "0"]) == 2
    assert app.main(["replay", file, "--keep", str(tmp_path / "none.sqlite")]) == 2 and not list(tmp_path.glob("none*"))
    report = str(tmp_path / "report.html")
    assert app.main([*ASK, "--out", report]) == 0 and app.main(["replay", report]) == 0, "a report carries it"
    capsys.readouterr()
    pool.say("The capital is Lyon, I think.", "It is Rome.")
    assert app.main(["replay", file]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("Diverged: all 32 replies were run again, 16 of them not the same.\n")
    assert "Not the same: row 1, repetition 1, the post-trained side of scripted under chat.\n" in printed
    assert printed.endswith("And 4 more.\n")


def test_what_was_counted_until_it_was_stopped_is_printed(pool, capsys, monkeypatch):
    def follow(steps, stop):
        for step in steps:
            if step.done == 4:
                stop.press()
                break
        steps.close()

    monkeypatch.setattr(command, "follow", follow)
    assert app.main(ASK) == 130
    printed = capsys.readouterr().out
    assert "4 of 32 replies" in printed and "It was ended early" in printed
