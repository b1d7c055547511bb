"""Tests with teeth: what may be changed, that the sample is the same every time, and that what is noticed is told from what is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import mutants

ROOT = Path(__file__).parent.parent

SMALL = '''"""Says what it is."""

import logging

log = logging.getLogger(__name__)
__all__ = ["double"]
Number = int | float


def double(value: int = 2) -> "int":
    """Twice the value."""
    assert value == 3, "no other"
    if value:
        log.warning("doubling", 5)
        raise ValueError(f"{value + 7} is too much")
    return "a sentence of 8 words" * value
'''


def drawn(folder, monkeypatch, text: str, count: int = 100, seed: int = 1) -> list[mutants.Mutant]:
    (folder / "small.py").write_text(text)
    monkeypatch.setattr(mutants, "ROOT", folder)
    return mutants.mutants("small.py", count, seed)


def test_only_what_a_test_of_behaviour_could_notice_is_changed(tmp_path, monkeypatch):
    found = drawn(tmp_path, monkeypatch, SMALL)
    changes = {(mutant.was, mutant.now) for mutant in found}
    assert {was for was, _ in changes} == {
        'def double(value: int = 2) -> "int":',
        "if value:",
        'raise ValueError(f"{value + 7} is too much")',
        'return "a sentence of 8 words" * value',
    }
    assert ("if value:", "if not (value):") in changes
    assert ('raise ValueError(f"{value + 7} is too much")', "pass") in changes
    assert ('return "a sentence of 8 words" * value', 'return "a sentence of 8 words" / value') in changes
    assert all(mutant.source != SMALL and compile(mutant.source, "small.py", "exec") for mutant in found)


def test_a_sample_is_the_same_for_a_seed_and_another_for_another(tmp_path, monkeypatch):
    text = (ROOT / "core" / "links.py").read_text("utf-8")
    first, again, other = (drawn(tmp_path, monkeypatch, text, 10, seed) for seed in (1, 1, 2))
    assert first == again and len(first) == len(other) == 10 and first != other


def test_every_file_that_the_table_promises_is_tried_with_tests_that_are_there():
    promised = [*ROOT.glob("core/engine/*.py"), *ROOT.glob("core/ui/*/session.py"), ROOT / "core" / "ui" / "visitor.py"]
    promised += [
        ROOT / "core" / f"{name}.py"
        for name in (
            "prompts",
            "rendering",
            "chat_template",
            "detokenizer",
            "receipts",
            "links",
            "replay",
            "verdict",
            "run",
            "lens",
            "lease",
            "local",
            "scoring",
        )
    ]
    names = {path.relative_to(ROOT).as_posix() for path in promised if path.name != "__init__.py"}
    assert set(mutants.TABLE["tests"]) == names
    for tests in mutants.TABLE["tests"].values():
        assert tests and all((ROOT / test).exists() for test in tests)


@pytest.mark.parametrize("row", mutants.TABLE["equal"], ids=lambda row: f"{row['file']}: {row['now']}")
def test_what_is_said_to_mean_the_same_still_stands_there(row):
    lines = [line.strip() for line in (ROOT / row["file"]).read_text("utf-8").splitlines()]
    assert row["was"] in lines or row["was"] in " ".join(lines)
    assert row["why"] and row["now"] != row["was"]


def test_equal_changes_do_not_count_and_every_other_that_survives_does(monkeypatch):
    one, two, three = (mutants.Mutant("a.py", number, "was", f"now {number}", "") for number in (1, 2, 3))
    monkeypatch.setitem(mutants.TABLE, "equal", [{"file": "a.py", "was": "was", "now": "now 1", "why": "It is."}])
    assert mutants.share({one: "survived", two: "noticed", three: "hung"}) == 1
    assert mutants.share({one: "survived", two: "noticed", three: "survived"}) == 1 / 2
    text = mutants.report({"a.py": [one, two, three]}, {one: "survived", two: "noticed", three: "survived"}, 3, 1)
    assert "| `a.py` | 3 | 1 | 0 | 1 | 1 |" in text and "**50.0%**" in text
    assert "| `a.py` | `was` | `now 1` | It is. |" in text and "| `a.py` | `was` | `now 3` |  |" in text


@pytest.mark.slow
@pytest.mark.first
def test_what_is_noticed_is_told_from_what_is_not_and_from_what_hangs():
    """Two trials end by themselves; the third waits for ever, and what it is given is what this test takes."""
    script = """
import playwright.sync_api, pytest, torch  # once, and not in each trial
from tools.mutants import ROOT, Mutant, Trial, run
text = (ROOT / "core" / "steps.py").read_text("utf-8")
changes = {
    "hung": ("step = next(steps)", "step = next(steps)\\n                __import__('time').sleep(600)"),
    "survived": ("Somebody stopped", "Somebody has stopped"),
    "noticed": ("raise Stopped", "return Stopped"),
}
mutants = {how: Mutant("core/steps.py", 0, was, now, text.replace(was, now)) for how, (was, now) in changes.items()}
assert all(mutant.source != text for mutant in mutants.values())
trials = [Trial(mutant, ("tests/test_steps.py",), 10 if how == "hung" else 120) for how, mutant in mutants.items()]
found = {trial.mutant: how for trial, how, _ in run(trials, 2)}
assert found == {mutant: how for how, mutant in mutants.items()}, found
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
