"""The example receipt on another kind of processor: `make other-machine`, an arm64 that qemu emulates here.

Python and qemu are Debian's packages, with all that they depend on: downloaded as for a machine that has none, and unpacked
into build/other-machine. Nothing is installed, and nobody need be root. The app's packages are those of locks/run.txt, for
arm64; torch is the last one whose wheel for arm64 needs no libraries of NVIDIA's cards. There the receipt is replayed, and every
bit of its replies is held against this machine's (tools/every_bit.py).
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Row
from core.settings import QUIET
from core.types import SIDE_NAMES, SIDES

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "other-machine"
RECEIPT = "docs/examples/capital-of-france.json"
TORCH = "torch==2.9.1"
SMALL = ("--context", "256", "--slots", "1")  # there: emulation is slow, and no bit depends on either
PORTABLE = "portable"
WAYS = {PORTABLE: (), "fast float32": ("--arithmetic", "fast", "--dtype", "float32")}  # the second is the control
FIGURES = ("tokens", "margins", "log-probabilities", "logits")


class Other:
    """The emulated machine, set up in `folder`; what is there already is used again."""

    def __init__(self, folder: Path):
        self.folder = folder
        host = _told("dpkg", "--print-architecture").strip()
        self.qemu = self._debian(host, "qemu-user-static") / "usr" / "bin" / "qemu-aarch64-static"
        self.system = self._debian("arm64", "python3", "libstdc++6", "libgomp1")
        self.python = (self.system / "usr" / "bin" / "python3").resolve()
        self.packages = self._packages(self.python.name.removeprefix("python"))

    def _debian(self, architecture: str, *packages: str) -> Path:
        """A folder with these packages of Debian and all that they depend on."""
        done, work = self.folder / architecture, self.folder / f"{architecture}-work"
        if done.exists():
            return done
        shutil.rmtree(work, ignore_errors=True)
        for folder in ("lists/partial", "archives/partial", "unpacked"):
            (work / folder).mkdir(parents=True)
        (work / "status").touch()  # no package is installed
        options = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "",  # else root's downloads are another user's, who may not write here
            "Dir::Cache": work,
            "Dir::State": work,
            "Dir::State::status": work / "status",
        }
        apt = ["apt-get", "--quiet", "--yes", *(f"--option={name}={value}" for name, value in options.items())]
        _told(*apt, "update")
        _told(*apt, "install", "--download-only", "--no-install-recommends", *packages)
        for file in sorted(work.glob("archives/*.deb")):
            _told("dpkg", "--extract", str(file), str(work / "unpacked"))
        (work / "unpacked").rename(done)
        shutil.rmtree(work)
        return done

    def _packages(self, version: str) -> Path:
        """A folder with the app's packages for this Python; those that are there already are left."""
        target = self.folder / "packages"
        uv = str(Path(sys.executable).with_name("uv"))
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--no-build", "--target", str(target)]
        install += ["--python-platform", "aarch64-manylinux_2_28", "--python-version", version]
        _told(*install, "--require-hashes", "-r", str(ROOT / "locks" / "run.txt"))
        _told(*install, TORCH)
        return target

    def run(self, module: str, *arguments: str) -> str:
        """What a module prints there, given nothing of this machine's environment.

        It starts processes of its own by `sys.executable`, which this machine can run only through qemu: a script that does.
        """
        environment = {**QUIET, "PYTHONPATH": str(self.packages), "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        words = [str(self.qemu), "-L", str(self.system), str(self.python)]
        program = self.folder / "python"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', "utf-8")
        program.chmod(0o755)
        script = f"import runpy, sys; sys.executable = {str(program)!r}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        return _told(*words, "-s", "-c", script, *arguments, environment=environment)


def _told(*command: str, environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises subprocess.CalledProcessError where it fails; what it says then is on the terminal."""
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def same(here: Sequence[Any], there: Sequence[Any]) -> int:
    """How many places are the same to the last bit; floats are written in full."""
    return sum(json.dumps(a) == json.dumps(b) for a, b in zip(here, there, strict=False))


def compared(here: Row, there: Row) -> list[Row]:
    """A row for each side: of how many tokens each figure is the same."""
    return [
        {
            "side": SIDE_NAMES[side],
            "of": len(here[side]["logits"]),  # as many as the receipt has
            **{figure: same(here[side][figure], there[side][figure]) for figure in FIGURES},
            "farthest log-probability, in nats": _farthest(here[side], there[side]),
        }
        for side in SIDES
    ]


def _farthest(here: Row, there: Row) -> float:
    both = zip(here["log-probabilities"], there["log-probabilities"], strict=False)
    return max(abs(a - b) for a, b in both)


def whole(row: Row) -> bool:
    """Whether no bit of any token differs."""
    return all(row[figure] == row["of"] for figure in FIGURES)


def machine(name: str, told: Row) -> Row:
    """A row of what a machine is and what it says by itself."""
    answers = ", ".join(told["other answers"]) or "none"
    about = {"machine": name, "device": told["device"], "torch": told["torch"], "self-test: other answers": answers}
    return {**about, "replay by reading": told["read"], "replay by writing again": told["written again"]}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m tools.other_machine", description=str(__doc__).splitlines()[0])
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    missing = [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]
    if missing:
        print(f"{missing[0]} is not here: run this on Debian or one of its kind.", file=sys.stderr)
        return 2
    out = report.Report("make other-machine", "cpu", flags.save, "other-machine", "Emulated arm64")
    other = Other(BUILD)
    identical = True
    for way, options in WAYS.items():
        asked = ("tools.every_bit", RECEIPT, *options)
        here, there = json.loads(_told(sys.executable, "-m", *asked)), json.loads(other.run(*asked, *SMALL))
        rows = compared(here, there)
        out.add(f"`{RECEIPT}` in {way} arithmetic", [machine("here", here), machine("emulated arm64", there)])
        out.add(f"In {way} arithmetic: tokens of which a figure is the same here and there, to the last bit", rows)
        identical &= way != PORTABLE or all(map(whole, rows))
    out.end()
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
