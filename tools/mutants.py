"""Changes one place of the code at a time and asks whether a quick test notices.

    python -m tools.mutants                            the sample that benchmarks/results/mutants.md tells of
    python -m tools.mutants core/links.py --each 40    more of one file

Which files, which tests stand nearest to each, and which changes are known to mean the same, is in
mutants.toml. The changes are mutmut's, and two of our own; of each file a sample is drawn in which
every kind of change is as frequent as any other. Nothing on the disk is touched: a child process
imports the one module in its changed form and runs the tests up to the first that fails. Needs fork,
so not on Windows.

What is never changed, because no test of behaviour could notice: docstrings, annotations and aliases of
types, protocols, decorators, sentences (any string with a space in it) and what is put into them,
arguments of exceptions and of the log, assertions, `strict=` of zip, `__all__`.
"""

import argparse
import importlib.machinery
import importlib.util
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import CodeType
from typing import Any

import libcst as cst
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parent.parent
TABLE = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text("utf-8"))
RESULT = ROOT / "benchmarks" / "results" / "mutants.md"
TIMES, SECONDS = 5, 60  # a change that takes so many times as long as the tests do, and so much more, has hung them
PRELOADED = ("gradio", "hypothesis", "peft", "playwright.sync_api", "pytest", "torch", "transformers.models.llama")


# --- what is changed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change of one file: what stood there, what stands there now (both as lines), and the whole new text."""

    file: str
    number: int  # of the line
    was: str
    now: str
    source: str = field(repr=False)

    @property
    def why_equal(self) -> str | None:
        """The reason for which it means the same, if one is known."""
        rows = TABLE["equal"]
        return next(
            (row["why"] for row in rows if (row["file"], row["was"], row["now"]) == (self.file, self.was, self.now)),
            None,
        )


Operator = Callable[[Any], Iterable[cst.CSTNode]]


def _turned(node: cst.If | cst.While | cst.CompIf) -> Iterator[cst.CSTNode]:
    """`if a` -> `if not (a)`."""
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def _left_out(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """A call for its effect, or a `raise` -> `pass`."""
    [statement, *_] = node.body
    if isinstance(statement, cst.Raise) or (isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call)):
        yield node.with_changes(body=[cst.Pass()])


OPERATORS: list[tuple[type, Operator]] = [
    *mutation_operators,
    (cst.If, _turned),
    (cst.While, _turned),
    (cst.CompIf, _turned),
    (cst.SimpleStatementLine, _left_out),
]


class _Places(cst.CSTVisitor):
    """Collects (operator, node, changed node) wherever a change could be noticed."""

    def __init__(self) -> None:
        self.found: list[tuple[str, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _without_meaning(node):
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.found += [(operator.__name__, node, changed) for changed in operator(node)]
        return not isinstance(node, cst.Call) or not _said(node)


def _without_meaning(node: cst.CSTNode) -> bool:
    """Whether nothing in here is changed (see the head of this file)."""
    match node:
        case cst.Annotation() | cst.Decorator() | cst.Assert() | cst.Import() | cst.ImportFrom():
            return True
        case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
            return True
        case cst.SimpleStatementLine(body=[cst.Expr(value=cst.Call() as call), *_]):
            return isinstance(call.func, cst.Attribute) and _said(call)
        case cst.SimpleString(value=text):
            return " " in text
        case cst.FormattedString(parts=parts):
            return any(isinstance(part, cst.FormattedStringText) and " " in part.value for part in parts)
        case cst.ConcatenatedString():
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))]):
            return name in ("__all__", "log") or (name[:1].isupper() and not name.isupper())
        case cst.ClassDef(bases=bases):
            return any(isinstance(base.value, cst.Name) and base.value.value == "Protocol" for base in bases)
        case cst.Arg(keyword=cst.Name(value="strict")):
            return True
    return False


def _said(call: cst.Call) -> bool:
    """Whether its arguments are words for people: an exception, or a line of the log."""
    match call.func:
        case cst.Name(value=name):
            return name.endswith("Error") or name == "Unreplayable"
        case cst.Attribute(value=cst.Name(value="log")):
            return True
    return False


def mutants(file: str, count: int, seed: int) -> list[Mutant]:
    """A sample of the changes of a file, the same for the same text, count and seed."""
    text = (ROOT / file).read_text("utf-8")
    module = cst.parse_module(text)
    places = _Places()
    module.visit(places)
    draw = random.Random(f"{seed} {file}")
    kinds: dict[str, list[tuple[cst.CSTNode, cst.CSTNode]]] = {}
    for kind, node, changed in places.found:
        kinds.setdefault(kind, []).append((node, changed))
    for each in kinds.values():
        draw.shuffle(each)
    sample: dict[str, Mutant] = {}
    while kinds and len(sample) < count:
        for kind in draw.sample(sorted(kinds), len(kinds)):
            made = _made(file, text, module, *kinds[kind].pop())
            if made is not None and len(sample) < count:
                sample.setdefault(made.source, made)
        kinds = {kind: each for kind, each in kinds.items() if each}
    return sorted(sample.values(), key=lambda mutant: mutant.number)


def _made(file: str, text: str, module: cst.Module, node: cst.CSTNode, changed: cst.CSTNode) -> Mutant | None:
    """None where the change is none, or is no Python."""
    tree: Any = module.deep_replace(node, changed)
    source: str = tree.code
    if source == text or source.count("strict=True") < text.count("strict=True"):
        return None
    try:
        compile(source, file, "exec")
    except SyntaxError:
        return None
    before, after = text.splitlines(), source.splitlines()
    first = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    last = next(i for i, (a, b) in enumerate(zip(before[::-1], after[::-1], strict=False)) if a != b)
    was, now = (_one_line(lines[first : max(len(lines) - last, first + 1)]) for lines in (before, after))
    return Mutant(file, first + 1, was, now, source)


def _one_line(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)


# --- who notices --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Tests to be run on one mutant, or on the code as it is, and after how many seconds they count as hung."""

    mutant: Mutant | None
    tests: tuple[str, ...]
    limit: float


class _Changed(importlib.machinery.SourceFileLoader):
    """Imports one module in its changed form."""

    def __init__(self, mutant: Mutant):
        super().__init__(mutant.file.removesuffix(".py").replace("/", "."), str(ROOT / mutant.file))
        self.mutant = mutant

    def find_spec(self, name: str, path: Any, target: Any = None, /) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.mutant.source, self.path, "exec")


def _child(trial: Trial) -> int:
    """Runs in a process of its own, and gives the exit status of pytest."""
    os.setsid()
    if trial.mutant is not None:  # what its tests say is of no interest
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.meta_path.insert(0, _Changed(trial.mutant))
    import pytest

    return int(pytest.main([*trial.tests, "-x", "--assert=plain", "-p", "no:xdist", "-m", "not browser and not slow"]))


def _start(trial: Trial) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 3
    try:
        status = _child(trial)
    finally:
        os._exit(status)


def _preload() -> None:
    """What takes long to import and is never changed; and tests by properties that try the same examples every time."""
    for name in PRELOADED:
        importlib.import_module(name)
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", database=None, derandomize=True, deadline=None, phases=phases)
    settings.load_profile("mutants")


@dataclass
class _Running:
    trial: Trial
    took: float = 0.0  # seconds, those apart in which this process itself was stopped


def run(trials: Iterable[Trial], jobs: int) -> Iterator[tuple[Trial, str, float]]:
    """How each trial ended, as it ends: "noticed", "hung" or "survived"; and its seconds."""
    waiting, running = iter(trials), dict[int, _Running]()
    before = time.monotonic()
    try:
        while True:
            while len(running) < jobs and (following := next(waiting, None)) is not None:
                running[_start(following)] = _Running(following)
            if not running:
                return
            time.sleep(0.05)
            before, passed = time.monotonic(), min(1.0, time.monotonic() - before)
            for pid, each in list(running.items()):
                each.took += passed
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended or each.took > each.trial.limit:
                    _end(pid, bool(ended))
                    del running[pid]
                    survived = bool(ended) and os.waitstatus_to_exitcode(status) == 0
                    yield each.trial, "survived" if survived else "noticed" if ended else "hung", each.took
    finally:
        for pid in running:
            _end(pid, False)


def _end(pid: int, ended: bool) -> None:
    """End what a trial has started, and the trial itself where it has not ended."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not ended:
        os.waitpid(pid, 0)


def limits(suites: Iterable[tuple[str, ...]], jobs: int) -> dict[tuple[str, ...], float]:
    """After how many seconds each suite counts as hung. SystemExit when one does not pass on the code as it is."""
    found = {}
    for trial, how, took in run((Trial(None, suite, 3600.0) for suite in dict.fromkeys(suites)), jobs):
        if how != "survived":
            raise SystemExit(f"Without any change these fail, or none is there: {' '.join(trial.tests)}")
        print(f"{took:5.0f} s  {' '.join(trial.tests)}", flush=True)
        found[trial.tests] = SECONDS + TIMES * took
    return found


# --- what is said -------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="of mutants.toml; all without any")
    parser.add_argument("--each", type=int, default=12, help="changes of each file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="say which changes are drawn, and try none")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    asked = parser.parse_args()
    if asked.save and asked.files:
        parser.error("--save is for all files together")
    files = {name: tests for name, tests in TABLE["tests"].items() if not asked.files or name in asked.files}
    drawn = {file: mutants(file, asked.each, asked.seed) for file in files}
    if asked.list:
        for each in (mutant for of_file in drawn.values() for mutant in of_file):
            print(f"{each.file}:{each.number}\n  - {each.was}\n  + {each.now}")
        return
    os.chdir(ROOT)
    _preload()
    allowed = limits((tuple(tests) for tests in files.values()), asked.jobs)
    suites = {file: tuple(tests) for file, tests in files.items()}
    trials = (Trial(each, suites[file], allowed[suites[file]]) for file in files for each in drawn[file])
    ended: dict[Mutant, str] = {}
    for trial, how, _ in run(trials, asked.jobs):
        assert trial.mutant is not None
        ended[trial.mutant] = how
        print(
            f"{how:9}{trial.mutant.file}:{trial.mutant.number}  {trial.mutant.was}  ->  {trial.mutant.now}", flush=True
        )
    print(text := report(drawn, ended, asked.each, asked.seed))
    if asked.save:
        RESULT.write_text(text, "utf-8")
    if share(ended) < 0.9:
        raise SystemExit("Less than 90 % were noticed.")


def share(ended: dict[Mutant, str]) -> float:
    """Of the changes that mean something, those that a test noticed."""
    counted = [how for mutant, how in ended.items() if mutant.why_equal is None or how != "survived"]
    return sum(how != "survived" for how in counted) / max(1, len(counted))


def report(drawn: dict[str, list[Mutant]], ended: dict[Mutant, str], each: int, seed: int) -> str:
    """Markdown: the share of every file, and every change that nobody noticed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# Tests with teeth",
        "",
        f"`make mutants FLAGS=--save` at commit {commit or 'unknown'}: up to {each} changes of each file, seed {seed};"
        f" {platform.system()} on {platform.machine()}, Python {platform.python_version()}, torch {version('torch')}.",
        "",
        "| file | changes | noticed | hung | equal | unnoticed |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    rows = {
        **{f"`{file}`": {mutant: ended[mutant] for mutant in of_file} for file, of_file in drawn.items()},
        "all": ended,
    }
    for name, of_row in rows.items():
        left = [mutant for mutant, how in of_row.items() if how == "survived"]
        equal = sum(mutant.why_equal is not None for mutant in left)
        hung = sum(how == "hung" for how in of_row.values())
        noticed = len(of_row) - hung - len(left)
        lines.append(f"| {name} | {len(of_row)} | {noticed} | {hung} | {equal} | {len(left) - equal} |")
    lines += [
        "",
        f"**{share(ended):.1%}** of the changes that mean something were noticed (a hung test notices too).",
        "",
    ]
    for title, wanted in (("Equal in meaning", True), ("Unnoticed", False)):
        left = [each for each, how in ended.items() if how == "survived" and (each.why_equal is not None) == wanted]
        if left:
            lines += [f"## {title}", "", "| where | was | is | why |", "|---|---|---|---|"]
            lines += [
                f"| `{each.file}` | {_cell(each.was)} | {_cell(each.now)} | {each.why_equal or ''} |" for each in left
            ]
            lines.append("")
    return "\n".join(lines)


def _cell(code: str) -> str:
    return "`" + re.sub(r"\|", r"\\|", code) + "`"


if __name__ == "__main__":
    main()
