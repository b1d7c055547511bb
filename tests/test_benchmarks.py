"""Every benchmark runs and says what it found: tables, then one line of JSON. How fast is not tested."""

import json
import subprocess
import sys
from argparse import Namespace
from typing import Any

import pytest
import torch

from benchmarks import arithmetic, clients, engine, gpu, lens, real, report, study, subjects
from core.engine.device import Placement
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.first]


@pytest.fixture(scope="module")
def pair_flags(tmp_path_factory) -> list[str]:
    base, post = tiny.save_pair(tmp_path_factory.mktemp("pair"))
    return ["--base", str(base), "--post", str(post), "--device", "cpu"]


def found(printed: str) -> dict:
    """What the last line holds; each table in it was printed before."""
    *lines, last = printed.splitlines()
    content = json.loads(last)
    for part in content["tables"]:
        assert part["title"] in lines
        assert any(line.startswith("|") and all(name in line for name in part["rows"][0]) for line in lines)
    return content


def found_by(benchmark: str, arguments: list[str]) -> dict:
    """In a process of its own: gradio_client leaves event loops behind for the garbage collector."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments]
    return found(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_engine(capsys):
    assert engine.main(["--pairs", "tiny", "--repetitions", "1", "--replies", "2", "--at-once", "3"]) == 0
    content = found(capsys.readouterr().out)
    speed, reading, check, again = content["tables"]
    assert reading["rows"][0]["tokens"] == engine.READ and reading["rows"][0]["times"] > 0
    assert check["rows"][0]["seconds for both models"] > 0
    assert [row["comparisons at once"] for row in speed["rows"]] == [3]
    assert all(row["times generate"] > 0 for row in speed["rows"])
    assert again["rows"][0]["identical"] == again["rows"][0]["replies asked again under load"] == 4


def test_page(pair_flags):
    content = found_by("page", [*pair_flags, "--tokens", "16", "--repetitions", "1"])
    ways, views = (table["rows"] for table in content["tables"])
    assert ways[0]["times the bare engine"] == 1
    assert len(ways) == 3
    assert [row["times the bare generator"] > 0 for row in views] == [True] * 3
    assert views[2]["bytes"] < 1.2 * views[1]["bytes"], "nothing of the chat is sent again"


def test_arithmetic(capsys, monkeypatch):
    monkeypatch.setattr(arithmetic, "LANES", (128, 256))
    monkeypatch.setattr(arithmetic, "WORDS", (512, 4096))
    assert arithmetic.main(["--pairs", "tiny", "--repetitions", "1"]) == 0
    costs, draws, checks, turns, memory = (table["rows"] for table in found(capsys.readouterr().out)["tables"])
    assert [row["lane"] for row in costs] == [128, 256] and [row["words"] for row in draws] == [512, 4096]
    assert all(row["times fast"] > 0 and row["portable lane, MB"] > row["fast lane, MB"] for row in costs)
    assert checks[0]["tokens"] == 6
    assert turns[0]["portable: read a turn"] <= turns[0]["fast: read a turn"]
    assert memory[0]["portable, MB"] > 0 and memory[0]["times"] > 0


def test_start(pair_flags):
    content = found_by("start", [*pair_flags, "--repetitions", "1"])
    served, answered = content["tables"][0]["rows"]
    assert 0 < served["slowest"] < answered["slowest"]


def test_gpu_dry_run(capsys):
    assert gpu.main(["--device", "cpu", "--dry", "--repetitions", "1", "--replies", "1"]) == 0
    content = found(capsys.readouterr().out)
    certification = content["tables"][0]["rows"]
    assert len({row["lane"] for row in certification}) == 2, "every lane length has a row"
    assert {row["certified"] for row in certification} == {"yes"}
    again, audited = (table["rows"][0] for table in content["tables"][1:3])
    assert again["identical"] == again["replies asked again under load"] == 2
    assert audited["identical under use_deterministic_algorithms"] == audited["replies"] == 2
    assert audited["refused there"] == "nothing" and not torch.are_deterministic_algorithms_enabled()
    assert len(content["tables"]) == 4


@pytest.mark.parametrize(("refuses", "identical", "refused"), [(False, 0, "nothing"), (True, 0, "cumsum has none")])
def test_the_audit_tells_what_the_flag_changes_and_what_it_refuses(monkeypatch, refuses, identical, refused):
    def together(engines, requests):
        flag = torch.are_deterministic_algorithms_enabled()
        if flag and refuses:
            raise RuntimeError("cumsum has none")
        return [[Namespace(tokens=[(1, float(flag), None)]) for _ in engines]]

    monkeypatch.setattr(clients, "together", together)
    engines: list[Any] = [Namespace(context=256)] * 2
    row = clients.audit(Namespace(name="pair", vocabulary=99), engines, 3)
    assert row["replies"] == 6 and row["refused there"] == refused
    assert row["identical under use_deterministic_algorithms"] == identical
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_part_for_which_there_is_too_little_memory_loses_that_part_alone(capsys, monkeypatch):
    def too_large(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "certification", too_large)
    assert gpu.main(["--device", "cpu", "--dry", "--parts", "certify,replay", "--replies", "1"]) == 0
    lost, again = found(capsys.readouterr().out)["tables"]
    assert lost["title"] == "Lost: certify tiny" and lost["rows"][0]["lost to"] == "too little memory"
    assert again["title"].startswith("Asked again")


def test_no_engine_is_left_where_there_is_no_memory_for_both(monkeypatch):
    left: list[str] = []

    def engine(model, *given):
        if left:
            raise torch.OutOfMemoryError("CUDA out of memory")
        left.append(model)
        return Namespace(close=lambda: left.remove(model))

    monkeypatch.setattr(subjects, "Engine", engine)
    placement = Placement(torch.device("cpu"), torch.float32)
    subject = subjects.Subject("pair", (Namespace(config=Namespace(vocab_size=5)), Namespace()), 1)
    with pytest.raises(torch.OutOfMemoryError):
        subject.engines(placement)
    assert left == []


def test_gpu_without_one_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_gpu_without_its_packages_says_so(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "NEEDED", ("torch", "surely_not_installed"))
    assert gpu.main([]) == 2
    assert "has no surely_not_installed" in capsys.readouterr().err


def test_results_keep_the_last_run_of_each_command(tmp_path):
    for command, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        report.Report(command, "cpu", tmp_path).add("Title", [{"figure": value}])
    kept = json.loads(next(tmp_path.glob("*.json")).read_text("utf-8"))
    assert {command: run["tables"][0]["rows"] for command, run in kept.items()} == {
        "a": [{"figure": 3.0}],
        "b": [{"figure": 2.0}],
    }
    rendered = next(tmp_path.glob("*.md")).read_text("utf-8")
    assert "3.00" in rendered
    assert "1.00" not in rendered


@pytest.mark.parametrize("arguments", [["--pairs", "8b", "--save"], ["--save", "folder", "--pairs", "8b"]])
def test_the_command_is_kept_without_where_it_was_kept(arguments):
    assert report.command("benchmarks.engine", arguments) == "python -m benchmarks.engine --pairs 8b"


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        ([], ""),
        (["--save"], ""),
        (["--repetitions", "3"], " --repetitions 3"),
        (["--save", "/a b", "--dry"], " --dry"),
        (["--dry", "--save=/a b"], " --dry"),
    ],
)
def test_the_command_above_a_table_is_what_was_typed_without_where_it_is_kept(arguments, typed):
    assert report.command("benchmarks.lens", arguments) == f"python -m benchmarks.lens{typed}"


def test_lens(capsys):
    assert lens.main(["--repetitions", "1", "--tokens", "12"]) == 0
    row = found(capsys.readouterr().out)["tables"][0]["rows"][0]
    assert row["tokens"] == 12
    assert row["read / write"] > 0


def test_study(capsys):
    flags = ["--repetitions", "1", "--seeds", "8", "--prompts", "3", "--tokens", "4"]
    assert study.main(flags) == 0
    rows = found(capsys.readouterr().out)["tables"][0]["rows"]
    assert [(row["prompts"], row["seeds"]) for row in rows] == [(1, 8), (3, 4)]
    assert all(row["seconds"] > 0 and row["share of them"] > 0 for row in rows)


def test_real(capsys):
    assert real.main(["embedded", "--replies", "1", "--tokens", "8", "--repetitions", "1", "--context", "256"]) == 0
    rows = found(capsys.readouterr().out)["tables"][0]["rows"]
    figures = {row["figure"]: (row["base"], row["post-trained"]) for row in rows}
    assert figures["greedy replies"] == figures["replies equal to generate's, token by token"] == (1, 1)
    assert figures["receipts"] == figures["of them replayed identically"] == (2, 2)
    assert figures["conversations"] == figures["prompts equal to apply_chat_template's"] == (0, 10)
    assert all(nats < 1e-3 for nats in figures["farthest from float64, in nats"])


def test_real_says_where_and_by_how_much_replies_differ():
    assert real.first_difference((1, 2, 3), (1, 4, 3), (None, 0.00012, 2.0)) == "step 1 (margin 1.2e-04)"
    assert real.first_difference((1, 2), (1, 2, 3), (0.5, 0.5)) == "step 2 (margin none)"


@pytest.mark.parametrize(
    ("models", "named"), [(["embedded"], (None, None)), (["a"], ("a", "a")), (["a", "b"], ("a", "b"))]
)
def test_real_takes_a_pair_or_one_or_two_models(models, named):
    flags = Namespace(models=models, device="cpu", dtype="float32", context=None)
    settings = real.pair_settings(flags)
    assert (settings.base, settings.post) == named


def test_results_that_are_not_the_machines_own_say_where_they_are_from(tmp_path):
    report.Report("a", "cpu", tmp_path, "real", "Real weights").add("Title", [{"figure": 0.0001}])
    rendered = (tmp_path / "real.md").read_text("utf-8")
    assert rendered.startswith("# Real weights\n")
    assert report.machine("cpu") in rendered
    assert "1.0e-04" in rendered
