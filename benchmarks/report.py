"""How a benchmark says what it found: the machine, a table, one line of JSON."""

import json
import os
import platform
from pathlib import Path

import torch
import transformers


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


def show(title: str, device: str, rows: list[dict]) -> None:
    """Print a table of rows with equal keys, then the same as one JSON line."""
    where = machine(device)
    print(f"\n{title}\n{where}; torch {torch.__version__}, transformers {transformers.__version__}\n")
    columns = list(rows[0])
    cells = [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    for line in (columns, ["-" * width for width in widths], *cells):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(json.dumps({"benchmark": title, "machine": where, "torch": str(torch.__version__), "rows": rows}), flush=True)


def _text(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
