"""Seconds from starting the process until there is a page, and until the default pair answers.

    python -m benchmarks.start

What `make run` starts is started as a process of its own, and asked over HTTP from outside.
"""

import argparse
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradio_client import Client

from benchmarks import report
from core.types import DEFAULT_SAMPLING, Comparison
from tests.ports import free_port

APP = Path(__file__).parent.parent / "app.py"
PATIENCE = 600  # seconds


def start(flags: Sequence[str]) -> tuple[float, float]:
    """Seconds until the page is served, and until a reply of one token has come back."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(APP), "--port", str(port), *flags], stdout=subprocess.DEVNULL)
    try:
        while not answers(url):
            if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise RuntimeError("the app did not start; run `python app.py` to see why")
            time.sleep(0.02)
        served = time.perf_counter() - began
        client = Client(url, verbose=False)
        pair = client.predict(api_name="/pairs")[0]["id"]
        sampling = DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 1})
        asked = Comparison(pair=pair, prompt="Hello", sampling=sampling, today="2026-01-01")
        client.predict(asked.model_dump(mode="json"), api_name="/compare")
        return served, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    report.add_save_flag(parser)
    flags, app_flags = parser.parse_known_args(arguments)
    out = report.Report(report.command("benchmarks.start", arguments), "cpu", flags.save)
    starts = [start(app_flags) for _ in range(flags.repetitions)]
    rows: list[dict[str, Any]] = [
        {
            "from the start of the process until": what,
            "seconds (median)": statistics.median(taken),
            "slowest": max(taken),
        }
        for what, taken in zip(
            ("the page is served", "both models of the pair have answered"), zip(*starts, strict=True), strict=True
        )
    ]
    out.add(f"Start-up, {flags.repetitions} times", rows)
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
