"""All that a GPU must show, in one command.

    make gpu                                      on a machine with a GPU
    python -m benchmarks.gpu --device cpu --dry   the same code on tiny models, to see that it runs

Its parts are those of benchmarks/gpu_parts.py, and with --train the training of the embedded pair. Needs torch, transformers and pydantic. What a part
found is kept when the part is done, under the command that runs that part alone, and takes the place of what it found before. A part ends after
--minutes with what it has, but for a row that has begun, and one that runs out of memory, or fails, loses itself alone.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.report import Report

NEEDED = ("torch", "transformers", "pydantic")
PARTS = ("certify", "replay", "graphs", "streams", "audit", "kernels", "speed")
PAIRS, TINY = "embedded,odd,0.6b,1.7b,8b", "tiny"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with one sentence when this machine cannot run it, or 1 when a part or training failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"{sys.executable} has no {' and no '.join(missing)}; install it, or bring build/gpu-packages from `make gpu-packages` on another machine.",
            file=sys.stderr,
        )
        return 2
    from benchmarks import report

    flags = _parser(report.RESULTS).parse_args(arguments)
    import torch

    if flags.device == "cuda" and not torch.cuda.is_available():
        print(
            f"There is no GPU that torch {torch.__version__} can use here; run this on a machine with one, or try the same code with `python -m benchmarks.gpu --device cpu --dry`.",
            file=sys.stderr,
        )
        return 2
    out = report.Report(report.command("benchmarks.gpu", arguments), flags.device)
    failed = not run_parts(out, flags)
    failed |= flags.train and not train(out, flags.corpus, flags.device)
    out.end()
    return 1 if failed else 0


def _parser(results: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dry", action="store_true", help="a tiny model, short lanes, few replies, nothing kept")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--pairs", help=f"comma-separated names of benchmarks/subjects.py (default: {PAIRS})")
    parser.add_argument("--replies", type=int, help="how many are asked again under load (1000)")
    parser.add_argument("--others", type=int, help="how many requests are there meanwhile (64)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10, help="after which a part begins no new row (10)")
    parser.add_argument("--train", action="store_true", help="also train the embedded pair (checkpoints/recipe)")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"), help="what --train learns from")
    parser.add_argument("--save", type=Path, default=results, help="folder of the results (benchmarks/results)")
    return parser


def run_parts(out: "Report", flags: argparse.Namespace) -> bool:
    """Every part for each pair, one pair in memory at a time; False where one failed. `out` gets all of their tables."""
    from benchmarks import gpu_parts, report, subjects
    from core.engine.device import deterministic_cuda, place
    from core.settings import Settings

    placement = place(Settings(device=flags.device))
    if flags.device == "cuda":
        deterministic_cuda()
    size = gpu_parts.Size.dry() if flags.dry else gpu_parts.Size()
    size = size.asked(flags.replies, flags.others, flags.repetitions)
    wanted = [part for part in PARTS if part in flags.parts.split(",")]
    well = True
    for name in (flags.pairs or (TINY if flags.dry else PAIRS)).split(","):
        subject = None
        for part in wanted:
            alone = ["--device", flags.device, *(["--dry"] if flags.dry else []), "--pairs", name, "--parts", part]
            kept = report.Report(
                report.command("benchmarks.gpu", alone), flags.device, None if flags.dry else flags.save
            )
            with losing_only_itself(kept, f"{part} {name}"):
                subject = subject or subjects.make(name, placement)
                run = gpu_parts.Run(subject, placement, size, time.perf_counter() + 60 * flags.minutes)
                title, rows = gpu_parts.PARTS[part]
                kept.add(f"{title}: {subject.name}", list(gpu_parts.in_time(rows(run), run.until)))
            out.tables += kept.tables
            well &= not any(table["title"].startswith("Failed") for table in kept.tables)
    return well


@contextmanager
def losing_only_itself(out: "Report", part: str) -> Iterator[None]:
    """A part that fails, or for which there is too little memory, is a row that says so, and the others go on."""
    import torch

    from core.engine.device import give_back

    try:
        yield
    except torch.OutOfMemoryError:
        out.add(f"Lost: {part}", [{"part": part, "lost to": "too little memory"}])
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        out.add(f"Failed: {part}", [{"part": part, "lost to": said}])
    give_back()


def train(out: "Report", corpus: Path, device: str) -> bool:
    """Train the embedded pair in a process of its own, its progress on this terminal; False when it failed."""
    if not corpus.is_dir():
        print(
            f"--train needs the corpus, and there is no folder {str(corpus)!r}; name it with --corpus.", file=sys.stderr
        )
        return False
    config = "gpu" if device == "cuda" else "cpu"
    command = [sys.executable, "-m", "checkpoints.recipe", "--config", config, "--corpus", str(corpus)]
    began = time.perf_counter()
    status = subprocess.run(command, check=False).returncode
    row: dict[str, Any] = {
        "configuration": config,
        "minutes": (time.perf_counter() - began) / 60,
        "exit status": status,
    }
    out.add("Training of the embedded pair", [row])
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
