"""`python app.py study`: how often, instead of once: rates over seeds and prompts, with intervals, a report and a receipt."""

import argparse
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from ..errors import UserError
from ..hub import HuggingFaceHub
from ..pairs import against_the_first, find_pair
from ..pool import Pool, Progress
from ..settings import Settings, add_model_flags
from ..steps import Steps, Stop, Stopped, finish, watch
from ..study import export, receipt, store
from ..study.checks import read_check, try_out
from ..study.export import StudyReport
from ..study.plan import DEFAULT_SEEDS, StudyCell, StudyPlan, StudyPrompt
from ..study.report import html_report
from ..study.results import read_bar, results
from ..study.run import Desk, StudyProgress
from ..study.run import run as run_study
from ..study.served import desk
from ..study.store import CellReply
from ..study.suite import MOST_BYTES, NAMES, own_suite, read_suite
from ..types import DEFAULT_SAMPLING, Conversation, Sampling, Side, explain
from .compare import add_settings_flags, given, standard_input, switches
from .files import read_file, write_file
from .terminal import INTERRUPTED, Saying, say, stopped_by

SAMPLING = DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 40})
FORMATS = (".html", ".csv", ".jsonl")

R = TypeVar("R")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "suite",
        metavar="FILE",
        nargs="?",
        help=f"a suite of prompts: CSV, else JSON Lines; or one that comes with the app: {', '.join(NAMES)}",
    )
    parser.add_argument("--prompt", help="one prompt instead of a suite; - reads standard input")
    parser.add_argument("--system", help="system prompt, with --prompt")
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=f"how often each prompt is asked (default: {DEFAULT_SEEDS}; 4 for a suite)",
    )
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="KIND:VALUE",
        help="count replies that pass: contains:A|B, equals:A|B, number:3..5 or regex:PATTERN; may be given several times",
    )
    parser.add_argument(
        "--pairs",
        dest="studied",
        metavar="ID,ID",
        help="the pairs to ask, one after the other (default: the one that other commands take)",
    )
    add_stages_flag(parser)
    parser.add_argument(
        "--own-framings",
        action="store_true",
        help="leave out both checkpoints under one framing, which tells weights from template and takes as long again",
    )
    parser.add_argument(
        "--branching",
        action="store_true",
        help="also tell the branching factor, from the entropy of what each token is drawn from: every reply is read once more",
    )
    parser.add_argument(
        "--keep",
        metavar="FILE.sqlite",
        help="keep every reply in this file as soon as it is there, and go on from what it holds; alone it goes on with its last study",
    )
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        metavar="FILE",
        help="write the report (.html) or every reply (.csv, .jsonl); may be given several times",
    )
    parser.add_argument(
        "--receipt", metavar="FILE", help="write the receipt, from which `replay` runs all or some of it again"
    )
    parser.add_argument("--json", action="store_true", help="print results and receipt as one JSON object")
    parser.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit status 1 when this is true, as post<0.9 of the first test, base[declines]>0.1 or difference<0",
    )
    add_settings_flags(parser, SAMPLING)
    add_model_flags(parser)


def add_stages_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stages",
        metavar="BASE,NAME,...",
        nargs="?",
        const="",
        help="several checkpoints of one lineage, each held against the first: folders, Hub ids, adapters; without names those that pairs.toml has for the pair",
    )


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 1 when a condition of --fail-if is true; 130 when Ctrl+C ended it, after what was counted until then."""
    for file in flags.out:
        if Path(file).suffix.lower() not in FORMATS:
            raise UserError(f"--out {file!r} must end with {', '.join(FORMATS)}.")
    stop = Stop()
    with store.opened(flags.keep) as kept, Pool(settings, HuggingFaceHub()) as pool:
        plan = _plan(flags, pool, kept.plan)
        bars = [read_bar(text, plan) for text in flags.fail_if]
        for check in {*plan.checks, *(row.expect for row in plan.prompts if row.expect)}:
            try_out(check)
        with stopped_by(stop, signal.SIGINT):
            follow(run_study(plan, kept, lambda pair: sit_down(pool, pair)), stop)
        written = kept.written(plan)
        found = results(plan, written)
        report = StudyReport(results=found, receipt=receipt.make(plan, kept, written))
    _write_files(flags, plan, written, report)
    say(report.model_dump_json(indent=2) if flags.json else export.plain(plan, found))
    failed = [sentence for bar in bars for sentence in bar.met(found)]
    for sentence in failed:
        say(sentence, sys.stderr)
    return INTERRUPTED if found.done < found.total else 1 if failed else 0


def sit_down(
    pool: Pool, pair: str, commits: Mapping[Side, str] | None = None
) -> Steps[str, AbstractContextManager[Desk]]:
    """A desk at a pair, at these commits of the Hub or its own, with its progress on the terminal."""
    with Saying() as say_progress:

        def said(progress: Progress) -> str:
            say_progress(progress)
            return str(progress)

        lease = yield from watch(pool.open(pair, commits), said)
    return desk(lease)


def follow(steps: Steps[StudyProgress, R], stop: Stop) -> R | None:
    """What comes of the work, with a bar on a terminal; None when it was stopped."""
    bar: list[tqdm] = []

    def show(progress: StudyProgress) -> None:
        if progress.loading:
            return
        if not bar:
            start = {"initial": progress.done, "total": progress.total}
            bar.append(tqdm(**start, unit=" replies", file=sys.stderr, disable=None, dynamic_ncols=True))
        bar[0].update(progress.done - bar[0].n)

    try:
        return finish(watch(steps, show, stop))
    except Stopped:
        return None
    finally:
        for each in bar:
            each.close()


def _write_files(
    flags: argparse.Namespace, plan: StudyPlan, written: Mapping[StudyCell, CellReply], report: StudyReport
) -> None:
    for file in flags.out:
        form = Path(file).suffix.lower()
        if form == ".html":
            write_file(file, html_report(plan, written, report))
        elif form == ".csv":
            write_file(file, export.comma_separated(plan, written, report.results.measures))
        else:
            write_file(file, export.json_lines(plan, written))
    if flags.receipt is not None:
        write_file(flags.receipt, receipt.dump(report.receipt))


def _plan(flags: argparse.Namespace, pool: Pool, kept: StudyPlan | None) -> StudyPlan:
    """What is asked. The date of a study that is continued stays what it was, for it is an input.

    Raises:
        UserError: it cannot be asked.
    """
    pairs = _studied(flags, pool)
    if (flags.suite is None) == (flags.prompt is None):
        if flags.suite is None and kept is not None:
            return kept
        raise UserError("Name a file of prompts, or write one with --prompt; not both.")
    if flags.suite is not None and flags.system is not None:
        raise UserError("A suite holds its own system prompts; leave out --system.")
    try:
        return StudyPlan(
            prompts=_prompts(flags),
            pairs=pairs,
            seeds=flags.seeds if flags.seeds is not None else DEFAULT_SEEDS if flags.prompt is not None else 4,
            sampling=Sampling.model_validate({**dict(SAMPLING), **given(flags, *Sampling.model_fields)}),
            crossed=not flags.own_framings,
            today=flags.today or (kept.today if kept else date.today().isoformat()),
            chat_template_kwargs=switches(flags.chat_template_kwargs),
            checks=tuple(map(read_check, flags.test)),
            branching=flags.branching,
            **given(flags, "framing_base", "framing_post"),
        )
    except ValidationError as error:
        raise explain(error) from None


def _studied(flags: argparse.Namespace, pool: Pool) -> tuple[str, ...]:
    """The pairs to ask, by their ids. Raises UserError where one is none."""
    if flags.stages is None:
        ids = [pool.default.id] if flags.studied is None else [id.strip() for id in flags.studied.split(",")]
        return tuple(find_pair(pool.pairs, id).id for id in dict.fromkeys(ids))
    if flags.studied is not None:
        raise UserError("--stages names the checkpoints and --pairs the pairs; leave out one of them.")
    return staged(pool, flags.stages)


def staged(pool: Pool, stages: str) -> tuple[str, ...]:
    """Pairs of the first of these checkpoints with each of the others, known to the pool from now on, by their ids.

    Raises:
        UserError: there are fewer than two, or one is a path to nothing.
    """
    named = [spec.strip() for spec in stages.split(",")] if stages else [each.source for each in pool.default.stages]
    if len(named) < 2:
        raise UserError(
            f"No stages are known of {pool.default.title}; name them in their order, as in --stages BASE,SFT,FINAL."
        )
    pairs = against_the_first(named, None if stages else pool.default)
    for pair in pairs:
        pool.add(pair)
    return tuple(pair.id for pair in pairs)


def _prompts(flags: argparse.Namespace) -> tuple[StudyPrompt, ...]:
    if flags.suite in NAMES and not Path(flags.suite).exists():
        return own_suite(flags.suite)
    if flags.suite is not None:
        return read_suite(Path(flags.suite).name, read_file(flags.suite, MOST_BYTES))
    prompt = standard_input() if flags.prompt == "-" else flags.prompt
    if not prompt.strip():
        raise UserError("The prompt is empty; write what both models shall be sent.")
    return (StudyPrompt(prompt=prompt, conversation=Conversation(system=flags.system or "")),)
