"""Which packages the app runs on, and under which licences: `python -m tools.third_party` writes THIRD_PARTY.md.

It reads what is installed: it starts at requirements.txt and follows each package's own requirements, as they are on
Linux with a processor alone. It reads names and licences as the packages state them, and no licence text.
"""

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOME = Path(__file__).parent.parent
PAGE = HOME / "THIRD_PARTY.md"

# Where the table must not depend on whose machine writes it.
MACHINE = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "python_version": "3.11",
    "python_full_version": "3.11.0",
}
# NVIDIA's libraries come with torch's builds for its cards and with no other.
LEFT_OUT = re.compile(r"nvidia-|cuda-|triton")

# Packages write one licence in many ways; here by its SPDX identifier where what they say leaves no doubt.
SPDX = {
    "Apache": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "ISC License": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "BSD": "BSD (which one: its own text)",
    "BSD License": "BSD (which one: its own text)",
}

ABOUT = """# What the app runs on

Every package that `requirements.txt` brings, with the packages that those bring, and the licence that each one states.
None of them is part of this repository; they are installed beside it, each with its licence text in its `dist-info`
folder. `python -m tools.third_party` writes this table from what is installed; a test compares the two.

Builds of torch for NVIDIA's cards bring NVIDIA's own libraries under NVIDIA's terms, which are not listed.
The embedded models and what they learned from are in [checkpoints/LICENSE.md](checkpoints/LICENSE.md).

| package | licence | wanted by |
|---|---|---|
"""


def wanted(lines: Iterable[str]) -> dict[str, str]:
    """Every package by its canonical name, and who asked for it first: requirements.txt, or another package."""
    waiting = [(Requirement(line), "requirements.txt") for line in lines]
    found: dict[str, str] = {}
    while waiting:
        requirement, by = waiting.pop(0)
        name = canonicalize_name(requirement.name)
        if name in found or LEFT_OUT.match(name):
            continue
        found[name] = by
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or _applies(needed, requirement.extras):
                waiting.append((needed, name))
    return dict(sorted(found.items()))


def _applies(needed: Requirement, extras: Iterable[str]) -> bool:
    assert needed.marker is not None
    return any(needed.marker.evaluate({**MACHINE, "extra": extra}) for extra in ("", *extras))


def licence(name: str) -> str:
    """As the package states it: its expression, else its one line, else its classifiers."""
    told = metadata.metadata(name)
    said: list[str] = (told.get_all("License-Expression") or []) + (told.get_all("License") or [])
    line = said[0] if said else ""
    if not line or "\n" in line:
        classifiers: list[str] = told.get_all("Classifier") or []
        line = ", ".join(text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: "))
    return SPDX.get(line, line) or "not stated"


def requirements() -> list[str]:
    """The lines of requirements.txt that name a package."""
    lines = (HOME / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def rows() -> list[str]:
    """The lines of the table, by name. Raises metadata.PackageNotFoundError where a package is not installed."""
    return [f"| {name} | {licence(name)} | {by} |" for name, by in wanted(requirements()).items()]


def main() -> int:
    """Write the page; 2 and a sentence where a package is missing."""
    try:
        text = ABOUT + "\n".join(rows()) + "\n"
    except metadata.PackageNotFoundError as error:
        print(
            f"{error.name} is not installed here: run `make check` once, then this with .venv/bin/python.",
            file=sys.stderr,
        )
        return 2
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
