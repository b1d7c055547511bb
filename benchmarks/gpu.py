"""All that a GPU must show, in one command.

    make gpu                                      on a machine with a GPU
    python -m benchmarks.gpu --device cpu --dry   the same code on a tiny model, to see that it runs

Certification at every lane size, replies asked again under load, the same replies under torch's flag for determinism, speed against transformers.generate
with the share of the memory-bandwidth bound, and with --train the training of the embedded pair. Needs
torch, transformers and pydantic. Every table is kept as soon as it is there, so a run that is cut
short loses nothing, and a part that runs out of memory loses that part alone.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.subjects import Subject
    from core.engine.device import Placement

NEEDED = ("torch", "transformers", "pydantic")
PARTS = ("certify", "replay", "audit", "speed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with one sentence when this machine cannot run it, or 1 when training failed."""
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
    out = report.Report(report.command("benchmarks.gpu", arguments), flags.device, None if flags.dry else flags.save)
    run_parts(out, flags)
    failed = flags.train and not train(out, flags.corpus, flags.device)
    out.end()
    return 1 if failed else 0


def _parser(results: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dry", action="store_true", help="a tiny model, short lanes, nothing kept")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--pairs", help="comma-separated names of benchmarks/subjects.py (default: embedded,0.6b,8b)")
    parser.add_argument("--replies", type=int, default=24, help="requests that are asked again under load")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="also train the embedded pair (checkpoints/recipe)")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"), help="what --train learns from")
    parser.add_argument("--save", type=Path, default=results, help="folder of the results (benchmarks/results)")
    return parser


def run_parts(out: Any, flags: argparse.Namespace) -> None:
    """Certification, replay and speed for each pair, one pair in memory at a time."""
    from benchmarks import clients, engine, subjects
    from core.engine.device import deterministic_cuda, place
    from core.settings import Settings

    placement = place(Settings(device=flags.device))
    if flags.device == "cuda":
        deterministic_cuda()
    for name in (flags.pairs or ("tiny" if flags.dry else "embedded,0.6b,8b")).split(","):
        with losing_only_itself(out, name):
            subject = subjects.make(name, placement)
            if "certify" in flags.parts:
                with losing_only_itself(out, f"certify {name}"):
                    out.add(f"Certification: {subject.name}", certification(subject, placement, flags.dry))
            with ExitStack() as running:
                engines = subject.engines(placement)
                for each in engines:
                    running.callback(each.close)
                if "replay" in flags.parts:
                    with losing_only_itself(out, f"replay {name}"):
                        rows = [clients.reproduction(subject, engines, flags.replies)]
                        out.add(f"Asked again under random load: {subject.name}", rows)
                if "audit" in flags.parts:
                    with losing_only_itself(out, f"audit {name}"):
                        rows = [clients.audit(subject, engines, flags.replies)]
                        out.add(f"Under torch's flag for determinism: {subject.name}", rows)
                if "speed" in flags.parts:
                    with losing_only_itself(out, f"speed {name}"):
                        at_once = (1,) if flags.dry else engine.AT_ONCE
                        rows = engine.speed_of(subject, engines, flags.repetitions, at_once)
                        out.add(f"Engine against transformers.generate: {subject.name}", rows)


@contextmanager
def losing_only_itself(out: Any, part: str) -> Iterator[None]:
    """A part for which there is too little memory is a row that says so, and the others go on."""
    import torch

    from core.engine.device import give_back

    try:
        yield
    except torch.OutOfMemoryError:
        out.add(f"Lost: {part}", [{"part": part, "lost to": "too little memory"}])
    give_back()


def certification(subject: "Subject", placement: "Placement", dry: bool) -> list[dict[str, Any]]:
    """One row for each lane length that the app would use with this model: whether neighbours matter, and at which level."""
    from core.engine import Engine
    from core.engine.engine import lane_sizes
    from core.engine.slots import usable_context

    shape = subject.shape(placement)
    context = min(usable_context(subject.models[0].config), 512 if dry else 16384)
    rows = []
    for size in lane_sizes(context, shape.chunk):
        began = time.perf_counter()
        one_lane = replace(shape, sizes=(size,))
        engine = Engine(subject.models[0], subject.vocabulary, one_lane, subject.attention(placement))
        engine.close()
        rows.append(
            {
                "pair": subject.name,
                "lane": size,
                "slots": shape.slots,
                "certified": "yes" if engine.certified else "NO",
                "how": engine.info().certification,
                "seconds": time.perf_counter() - began,
            }
        )
    return rows


def train(out: Any, corpus: Path, device: str) -> bool:
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
    row = {"configuration": config, "minutes": (time.perf_counter() - began) / 60, "exit status": status}
    out.add("Training of the embedded pair", [row])
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
