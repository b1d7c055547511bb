"""How a benchmark says what it found: tables, one line of JSON, and the file that keeps both for each machine."""

import argparse
import json
import os
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


def machine(device: str) -> str:
    """The machine in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}"


@dataclass
class Report:
    """What one benchmark found. Tables are printed as they are added; `end` prints the line of JSON.

    Args:
        command: what a person types to get these tables.
        save: folder for the results; None keeps nothing.
        name, heading: of the file in that folder; the machine's own unless it is not the machine that is measured.
    """

    command: str
    device: str
    save: Path | None = None
    name: str = ""
    heading: str = ""
    tables: list[Row] = field(default_factory=list)

    def add(self, title: str, rows: Sequence[Row]) -> None:
        """Print a table. Rows have equal keys. What was added is kept even if a later part fails."""
        self.tables.append({"title": title, "rows": list(rows)})
        print(f"\n{title}\n\n{table(rows)}", flush=True)
        if self.save is not None:
            heading = self.heading or machine(self.device)
            _keep(self.save / f"{self.name or _file_name(heading)}.json", self._content(), heading)

    def end(self) -> None:
        print(f"\n{json.dumps(self._content())}", flush=True)

    def _content(self) -> Row:
        return {
            "command": self.command,
            "machine": machine(self.device),
            "date": date.today().isoformat(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "tables": self.tables,
        }


def table(rows: Sequence[Row]) -> str:
    """Rows with equal keys as a Markdown table that also reads well in a terminal."""
    columns = list(rows[0])
    cells = [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    lines = (columns, ["-" * width for width in widths], *cells)
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"


def _keep(file: Path, content: Row, heading: str) -> None:
    """Put one run into a JSON file, in place of an earlier run of the same command, and render the file as Markdown."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
    kept[content["command"]] = content
    file.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", "utf-8")
    parts = [f"# {heading}\n", *(_section(run, heading) for _, run in sorted(kept.items()))]
    file.with_suffix(".md").write_text("\n".join(parts), "utf-8")


def _section(run: Row, heading: str) -> str:
    where = "" if run["machine"] == heading else f", {run['machine']}"
    tables = "\n".join(f"{part['title']}\n\n{table(part['rows'])}\n" for part in run["tables"])
    versions = f"torch {run['torch']}, transformers {run['transformers']}"
    return f"## `{run['command']}`\n\n{run['date']}, {versions}{where}\n\n{tables}"


def _file_name(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def add_save_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="FOLDER",
        help="also keep the tables in the file of the machine, or of what is measured (default folder: benchmarks/results)",
    )


def command(module: str, arguments: Sequence[str]) -> str:
    """What a person types to run this again; --save, which changes nothing that is measured, is left out."""
    kept = [
        part
        for before, part in zip(["", *arguments], arguments, strict=False)
        if not part.startswith("--save") and (before != "--save" or part.startswith("-"))
    ]
    return shlex.join(["python", "-m", module, *kept])
