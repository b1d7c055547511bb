"""Every benchmark runs and says what it found: tables, then one line of JSON. How fast is not tested."""

import json
import subprocess
import sys
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from benchmarks import arithmetic, clients, engine, gpu, gpu_parts, lens, real, report, study, subjects
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
    assert max(view["bytes"] for view in views[1:]) < 1_000, "nothing of the chat, which is longer, is sent again"


def test_visitors():
    flags = ["--visitors", "1,3", "--seconds", "2", "--tokens", "30", "--against", "HEAD"]
    (table,) = found_by("visitors", flags)["tables"]
    assert [(row["revision"], row["visitors"]) for row in table["rows"]] == [
        ("HEAD", 1),
        ("here", 1),
        ("HEAD", 3),
        ("here", 3),
    ]
    assert all(row["updates a second a page"] >= row["slowest page"] > 0 for row in table["rows"])
    assert all(0 < row["p50"] <= row["p95"] and row["processor ms an update"] > 0 for row in table["rows"])


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
    """Each part has its table, in their order."""
    assert gpu.main(["--device", "cpu", "--dry", "--repetitions", "1", "--replies", "3", "--others", "2"]) == 0
    certification, again, graphs, streams, audited, kernels, speed = (
        table["rows"] for table in found(capsys.readouterr().out)["tables"]
    )
    assert len({row["lane"] for row in certification}) == 2 and {row["certified"] for row in certification} == {"yes"}
    levels = {row["level"] for row in certification}  # which ones there are depends on the processor
    assert len(certification) == 2 * len(levels) > 2, "every lane has a row for each level"
    assert again[0]["identical"] == again[0]["replies asked again"] == 6 and again[0]["others that were there"] == 2
    for (row,) in (graphs, streams):
        assert row["identical"] == row["replies"] == 4 and row["times as fast"] > 0
    assert audited[0]["identical under use_deterministic_algorithms"] == audited[0]["replies"] == 4
    assert audited[0]["refused there"] == "nothing" and not torch.are_deterministic_algorithms_enabled()
    assert {row["pass"] for row in kernels} == {"a chunk", "a step"} and "aten::mm" in {
        row["kernel"] for row in kernels
    }
    assert speed[0]["tokens/s of generate, static cache"] > 0
    assert float(speed[0]["with keys and values"][:-1]) >= float(speed[0]["share of the bandwidth bound"][:-1]) > 0


def test_a_reply_that_is_another_under_load_is_counted(monkeypatch):
    """Alone each reply is its request's; in the crowd one of them is not."""
    asked_before: list[Any] = []

    def ask(engine, asked, began):
        asked_before.append(asked)
        tokens = [(asked.sampling.seed, 0.0, None)] if len(asked_before) != 7 else []
        reply = clients.Reply(tokens=tokens, end=1.0)
        reply.ended.set()
        return reply, Namespace(cancel=lambda: None)

    monkeypatch.setattr(clients, "ask", ask)
    engines: list[Any] = [Namespace(context=256, info=lambda: Namespace(certification="so"))]
    row = clients.replays(Namespace(name="pair", vocabulary=99), engines, 3, 1, until=float("inf"))
    assert (row["replies asked again"], row["identical"], row["reproduction rate"]) == (3, 2, "66.7%")
    late = clients.replays(Namespace(name="pair", vocabulary=99), engines, 3, 1, until=0.0)
    assert late["replies asked again"] == 0


def test_a_part_begins_no_new_row_when_its_time_is_over(capsys):
    rows = iter([{"row": 1}, {"row": 2}])
    assert list(gpu_parts.in_time(rows, until=0.0)) == [{"row": 1}]
    assert "its time is over" in capsys.readouterr().out
    assert list(gpu_parts.in_time(iter([{"row": 1}, {"row": 2}]), until=float("inf"))) == [{"row": 1}, {"row": 2}]


def test_what_a_part_found_is_kept_under_the_command_that_runs_it_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(gpu_parts.PARTS, "audit", ("Title", lambda run: iter([{"figure": 1.0}])))
    flags = Namespace(
        device="cpu",
        dry=False,
        parts="audit",
        pairs="tiny",
        replies=1,
        others=1,
        repetitions=1,
        minutes=1,
        save=tmp_path,
    )
    assert gpu.run_parts(report.Report("whole", "cpu"), flags)
    (kept,) = (json.loads(file.read_text("utf-8")) for file in tmp_path.glob("*.json"))
    assert list(kept) == ["python -m benchmarks.gpu --device cpu --pairs tiny --parts audit"]


def test_a_way_to_generate_that_does_not_run_here_is_left_out(capsys, monkeypatch):
    def generate(subject, asked, threads, **told):
        if told:
            raise RuntimeError("no C compiler\nmore")
        return 1.0

    monkeypatch.setattr(engine, "generate", generate)
    subject: Any = None
    ways = engine.those_that_run(subject, clients.request(0, 99, 1), 1, engine.GENERATE | engine.STATIC)
    assert list(ways) == ["generate"] and "does not run here: RuntimeError: no C compiler\n" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("error", "title", "told", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "Lost", "too little memory", 0),
        (RuntimeError("no such kernel\nand more"), "Failed", "RuntimeError: no such kernel", 1),
    ],
)
def test_a_part_that_fails_or_lacks_memory_loses_that_part_alone(capsys, monkeypatch, error, title, told, status):
    def too_large(run):
        raise error

    monkeypatch.setitem(gpu_parts.PARTS, "certify", ("Certification", too_large))
    monkeypatch.setitem(gpu_parts.PARTS, "replay", ("Asked again", lambda run: iter([{"figure": 1}])))
    assert gpu.main(["--device", "cpu", "--dry", "--parts", "certify,replay"]) == status
    lost, again = found(capsys.readouterr().out)["tables"]
    assert lost["title"] == f"{title}: certify tiny" and lost["rows"][0]["lost to"] == told
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


@pytest.fixture
def loaded(pool, monkeypatch):
    """The benchmarks that open a pool of their own get the one that other tests have loaded."""
    for module in (lens, study):
        monkeypatch.setattr(module, "Pool", lambda settings, hub: nullcontext(pool))


def test_lens(capsys, loaded):
    assert lens.main(["--repetitions", "1", "--tokens", "12"]) == 0
    row = found(capsys.readouterr().out)["tables"][0]["rows"][0]
    assert row["tokens"] == 12
    assert row["read / write"] > 0


def test_study(capsys, loaded):
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
