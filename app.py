"""Same Seed: one prompt, one seed, one temperature; a base model and its post-trained sibling, side by side.

python app.py                     serve the page (the default)
python app.py compare --prompt X  run one comparison and print both replies
python app.py replay FILE         run a receipt again and say whether the replies are the same
python app.py diff A B            say which inputs of two receipts differ, and where the replies diverge
python app.py lens RECEIPT        say, token by token, what post-training changed in a reply
python app.py experiment NAME     run a guided experiment (or all of them) and print what it found
python app.py pairs               list the model pairs
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

from core import settings as configuration

configuration.quieten()  # before the libraries that read the environment

from pydantic import TypeAdapter, ValidationError  # noqa: E402

from core import canonical, lens, prompts, receipts, wording  # noqa: E402
from core.checkpoints.tokenizers import tokenizers_at_hand  # noqa: E402
from core.compare import compare  # noqa: E402
from core.difference import difference  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.experiments import EXPERIMENTS, Experiment, NewProcesses, Step, perform, report  # noqa: E402
from core.experiments import find as find_experiment  # noqa: E402
from core.hub import HuggingFaceHub  # noqa: E402
from core.pairs import known_pairs  # noqa: E402
from core.pool import Pool, Progress  # noqa: E402
from core.replay import replay  # noqa: E402
from core.settings import Settings  # noqa: E402
from core.steps import finish  # noqa: E402
from core.types import (  # noqa: E402
    DEFAULT_SAMPLING,
    FRAMINGS,
    SIDE_NAMES,
    SIDES,
    Comparison,
    Conversation,
    LensContext,
    Receipt,
    Result,
    Sampling,
    Side,
    Turn,
    explain,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 after a mistake that is explained in one sentence.

    `replay` also returns 1 for a receipt that runs and gives other replies.
    """
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    flags = _parser().parse_args(_with_default_command(sys.argv[1:] if arguments is None else arguments))
    try:
        return flags.command(flags, Settings.read(flags, configuration.environment()))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _with_default_command(arguments: Sequence[str]) -> list[str]:
    named = arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help"))
    return list(arguments) if named else ["serve", *arguments]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python app.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (run, add_flags, help) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help)
        configuration.add_flags(command)
        add_flags(command)
        command.set_defaults(command=run)
    return parser


# --- serve ----------------------------------------------------------------------------------------


def _serve_flags(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(experiment.name for experiment in EXPERIMENTS)
    parser.add_argument("--lesson", metavar="NAME", help=f"open the page on one experiment: {names}")


def serve(flags: argparse.Namespace, settings: Settings) -> int:
    from core.ui import page

    pool = Pool(settings, HuggingFaceHub())
    pool.start_loading(pool.default.id)  # so that the first visitor does not wait; the page is there meanwhile
    page.launch(page.build(pool, find_experiment(flags.lesson) if flags.lesson else None), settings)
    return 0


# --- compare --------------------------------------------------------------------------------------


def _compare_flags(parser: argparse.ArgumentParser) -> None:
    default = DEFAULT_SAMPLING
    parser.add_argument("--prompt", required=True, help="what to send to both models; - reads standard input")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE.json",
        help='earlier turns: a list of {"prompt": ..., "base": ..., "post": ...}, or a whole conversation',
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--temperature", type=float, default=default.temperature)
    parser.add_argument("--top-k", type=int, default=default.top_k)
    parser.add_argument("--top-p", type=float, default=default.top_p)
    parser.add_argument("--min-p", type=float, default=default.min_p)
    parser.add_argument("--repetition-penalty", type=float, default=default.repetition_penalty)
    parser.add_argument("--max-new-tokens", type=int, default=default.max_new_tokens)
    parser.add_argument("--framing-base", choices=FRAMINGS, default="document")
    parser.add_argument("--framing-post", choices=FRAMINGS, default="chat")
    parser.add_argument("--today", help="the date that a chat template may write (default: today)")
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="also write the receipt of this run")
    parser.add_argument("--json", action="store_true", help="print one JSON object, receipt included")


def run_compare(flags: argparse.Namespace, settings: Settings) -> int:
    pool = Pool(settings, HuggingFaceHub())
    try:
        comparison = _comparison(flags, pool)
        lease = pool.wait(comparison.pair, _Saying())
        answer = receipts.answer(compare(lease, comparison))
    finally:
        pool.close()
    print(answer.model_dump_json(indent=2) if flags.json else _plain(answer))
    if flags.receipt:  # after the answer, which must not be lost with a file that cannot be written
        write_file(flags.receipt, receipts.write(answer.receipt))
    return 0


def _comparison(flags: argparse.Namespace, pool: Pool) -> Comparison:
    conversation = read_history(flags.history) if flags.history else Conversation()
    try:
        if flags.system is not None:
            conversation = Conversation(system=flags.system, turns=conversation.turns)
        sampling = Sampling.model_validate({name: getattr(flags, name) for name in Sampling.model_fields})
        return Comparison(
            pair=pool.default.id,
            conversation=conversation,
            prompt=_standard_input() if flags.prompt == "-" else flags.prompt,
            sampling=sampling,
            framing_base=flags.framing_base,
            framing_post=flags.framing_post,
            today=flags.today or date.today().isoformat(),
        )
    except ValidationError as error:
        raise explain(error) from None


def _standard_input() -> str:
    """Raises UserError when it is not text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise UserError(f"Standard input is not {sys.stdin.encoding} text; send the prompt in this encoding.") from None


def read_history(file: Path) -> Conversation:
    """Earlier turns from a file.

    Raises:
        UserError: it is missing, not JSON, or not a conversation.
    """
    try:
        data = json.loads(file.read_text("utf-8"))
        if isinstance(data, list):
            return Conversation(turns=TypeAdapter(tuple[Turn, ...]).validate_python(data))
        return Conversation.model_validate(data)
    except ValidationError as error:
        raise UserError(f"--history: {explain(error)}") from None
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f'--history takes a JSON file with a list of {{"prompt", "base", "post"}}; {str(file)!r} cannot be read as one.'
        ) from None


class _Saying:
    """Prints progress: what is new, and of one thing every further tenth."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        what = progress.text.partition(":")[0]
        tenth = "" if progress.fraction is None else f"{int(progress.fraction * 10)}"
        if what + tenth != self._last:
            print(progress.text, "" if progress.fraction is None else f"({progress.fraction:.0%})", file=sys.stderr)
        self._last = what + tenth


def _plain(result: Result) -> str:
    """Both replies as a person reads them."""
    blocks = []
    for side in SIDES:
        answer = result.side(side)
        speed = f"{len(answer.token_ids)} tokens, {answer.finish_reason}"
        blocks.append(
            f"=== {answer.checkpoint.name} ({SIDE_NAMES[side]}; weights {answer.weights_sha256[:8]}; {speed})\n{answer.text}"
        )
    return "\n\n".join(blocks)


# --- replay and diff ------------------------------------------------------------------------------


def _replay_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a receipt")
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object")


def _diff_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A", help="a receipt")
    parser.add_argument("second", type=Path, metavar="B", help="another receipt")
    parser.add_argument("--json", action="store_true", help="print the difference as one JSON object")


def run_replay(flags: argparse.Namespace, settings: Settings) -> int:
    receipt = receipts.read(read_file(flags.file))
    pool = Pool(settings, HuggingFaceHub())
    chosen = pool.default.id if flags.pair or flags.base else None
    try:
        verdict = finish(replay(pool, receipt, chosen), _Saying())
    finally:
        pool.close()
    print(verdict.model_dump_json(indent=2) if flags.json else "\n".join(wording.verdict_lines(verdict)))
    return {"identical": 0, "diverged": 1, "not replayable": 2}[verdict.outcome]


def run_diff(flags: argparse.Namespace, settings: Settings) -> int:
    first, second = (receipts.read(read_file(file)) for file in (flags.first, flags.second))
    texts = [_sent_texts(receipt, settings) for receipt in (first, second)]
    found = difference(first, second, (texts[0], texts[1]))
    print(found.model_dump_json(indent=2) if flags.json else "\n".join(wording.difference_lines(found)))
    return 0


def _sent_texts(receipt: Receipt, settings: Settings) -> Mapping[Side, str]:
    """What was sent, where the pair's tokenizers lie here; no weights are loaded for it."""
    pair = next((pair for pair in known_pairs(settings) if pair.id == receipt.comparison.pair), None)
    tokenizers = tokenizers_at_hand(pair) if pair else None
    return prompts.texts(receipt.comparison, tokenizers) if tokenizers else {}


def read_file(file: Path) -> bytes:
    """Raises UserError when there is no such file, or it is too large to be a receipt."""
    try:
        with file.open("rb") as stream:
            return stream.read(receipts.MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror}.") from None


def write_file(file: Path, text: str) -> None:
    """Raises UserError when the file cannot be written."""
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be written: {error.strerror}.") from None


# --- lens -----------------------------------------------------------------------------------------


def _lens_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="RECEIPT", help="a receipt, or what compare --json printed")
    parser.add_argument("--side", choices=SIDES, default="post", help="whose reply (default: post)")
    parser.add_argument(
        "--reads",
        choices=get_args(LensContext),
        default="identical",
        help="what the sibling reads: the identical token ids (default), or its own framing of the conversation",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a table with a row for each token")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run_lens(flags: argparse.Namespace, settings: Settings) -> int:
    receipt = receipts.within(canonical.parse(read_file(flags.file), "receipt", receipts.MAX_BYTES))
    pool = Pool(settings, HuggingFaceHub())
    try:
        lease = pool.wait(pool.default.id if flags.pair or flags.base else receipt.comparison.pair, _Saying())
        found = finish(lens.report(lease, receipt, flags.side, flags.reads))
    finally:
        pool.close()
    if flags.csv:
        write_file(flags.csv, lens.table(found.lens))
    print(found.model_dump_json(indent=2) if flags.json else "\n".join(wording.lens_lines(found)))
    return 0


# --- experiment -------------------------------------------------------------------------------------


def _experiment_flags(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(experiment.name for experiment in EXPERIMENTS)
    parser.add_argument("name", metavar="NAME", help=f"one of {names}; or all")
    parser.add_argument("--json", action="store_true", help="print one JSON object (a list for all)")


def run_experiment(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 when everything ran, whatever it found; 2 when something could not be run."""
    chosen = EXPERIMENTS if flags.name == "all" else (find_experiment(flags.name),)
    pool, processes = Pool(settings, HuggingFaceHub()), NewProcesses(settings)
    verdicts, failed = [], []
    try:
        lease = pool.wait(pool.default.id, _Saying())
        for experiment in chosen:
            try:
                steps = perform(experiment, lease, processes.ask)
                verdicts.append(finish(steps, _SayingSteps(experiment)))
            except UserError as error:
                failed.append((experiment, error))
        lease.release()
    finally:
        pool.close()
    if flags.json:
        printed = [verdict.model_dump(mode="json") for verdict in verdicts]
        print(json.dumps(printed if flags.name == "all" else printed[0] if printed else None, indent=2))
    elif flags.name == "all":
        print(report.summary(verdicts))
    elif verdicts:
        print(report.whole(chosen[0], verdicts[0]))
    for experiment, reason in failed:
        print(f"{experiment.name} could not be run: {reason}", file=sys.stderr)
    return 2 if failed else 0


class _SayingSteps:
    """Prints each step of an experiment once."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._last = experiment, ""

    def __call__(self, step: Step) -> None:
        if step.text != self._last:
            print(f"{self._experiment.name}: {step.text}", file=sys.stderr)
        self._last = step.text


# --- pairs ----------------------------------------------------------------------------------------


def run_pairs(flags: argparse.Namespace, settings: Settings) -> int:
    pool = Pool(settings, HuggingFaceHub())
    pairs = pool.pairs
    pool.close()
    if flags.json:
        print(json.dumps([pair.model_dump() for pair in pairs], indent=2))
        return 0
    width = max(len(pair.id) for pair in pairs)
    for pair in pairs:
        print(f"{pair.id:<{width}}  {pair.title}\n{'':<{width}}  {pair.base} -> {pair.post}")
    return 0


COMMANDS = {
    "serve": (serve, _serve_flags, "serve the page (the default)"),
    "compare": (run_compare, _compare_flags, "run one comparison and print both replies"),
    "replay": (
        run_replay,
        _replay_flags,
        "run a receipt again; exit status 0 identical, 1 diverged, 2 not replayable here",
    ),
    "diff": (run_diff, _diff_flags, "say which inputs of two receipts differ, and where the replies diverge"),
    "experiment": (run_experiment, _experiment_flags, "run a guided experiment, or all, and print what it found"),
    "lens": (run_lens, _lens_flags, "say, token by token, what post-training changed in a reply"),
    "pairs": (
        run_pairs,
        lambda parser: parser.add_argument("--json", action="store_true", help="print one JSON list"),
        "list the model pairs",
    ),
}


def __getattr__(name: str) -> Any:
    """The page as the module's `demo`, for those who import it to serve it; built when it is asked for."""
    if name != "demo":
        raise AttributeError(name)
    from core.ui import page

    return page.build(Pool(Settings(), HuggingFaceHub()))


if __name__ == "__main__":
    sys.exit(main())
