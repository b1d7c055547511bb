"""Damages everything that strangers can hand over, as often as one likes: `python -m tools.fuzz --cases 1000000`.

The cases are those of tests/fuzzing.py, each the same for ever: `--reader NAME --first N --cases 1` runs one again. It
prints a table, and ends with status 1 at the first case that is neither read nor refused in one sentence.
"""

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.report import table
from core import settings
from tests import fuzzing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="in all (default: a million)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each reader")
    parser.add_argument("--reader", help="this one alone")
    flags = parser.parse_args(arguments)
    settings.quieten()
    logging.disable(logging.CRITICAL)
    rows: list[dict[str, Any]] = []
    with fuzzing.readers() as readers:
        chosen = [reader for reader in readers if flags.reader in (None, reader.name)]
        if not chosen:
            parser.error(f"--reader is one of {', '.join(reader.name for reader in readers)}")
        others = fuzzing.others(readers)
        for reader in chosen:
            began, ended = time.monotonic(), Counter[str]()
            for number in range(flags.first, flags.first + max(1, flags.cases // len(chosen))):
                try:
                    ended[fuzzing.run(reader, number, others)] += 1
                except Exception:
                    traceback.print_exc()
                    print(f"python -m tools.fuzz --reader '{reader.name}' --first {number} --cases 1", file=sys.stderr)
                    return 1
            seconds = time.monotonic() - began
            rows.append({"reader": reader.name, "cases": ended.total(), **{how: ended[how] for how in ("read", "refused")}, "seconds": round(seconds, 1)})  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in ("cases", "read", "refused", "seconds")}
    print(table([*rows, {"reader": "all", **total}]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
