"""`python app.py compare`: one comparison, from flags to both replies in print."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .. import canonical, export, receipts
from ..errors import UserError
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..run import Run
from ..settings import Settings, add_model_flags
from ..steps import Stop
from ..types import (
    DEFAULT_SAMPLING,
    FRAMINGS,
    SIDE_NAMES,
    SIDES,
    Comparison,
    Conversation,
    Result,
    Sampling,
    Turn,
    explain,
)
from .files import read_file, write_file
from .terminal import INTERRUPTED, Saying, console_of, say, stopped_by


def add_flags(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="what to send to both models; - reads standard input")
    asked.add_argument(
        "--comparison",
        metavar="FILE.json",
        help="a whole Comparison, as the API takes it, instead of the prompt and all that goes with it; - reads standard input",
    )
    parser.add_argument("--system", help="system prompt")
    parser.add_argument(
        "--history",
        metavar="FILE.json",
        help='earlier turns: a list of {"prompt": ..., "base": ..., "post": ...}, or a whole conversation; reasoning_base and reasoning_post may hold what the replies thought',
    )
    add_settings_flags(parser, DEFAULT_SAMPLING)
    parser.add_argument("--receipt", metavar="FILE", help="also write the receipt of this run")
    parser.add_argument("--json", action="store_true", help="print one JSON object, receipt included")
    add_model_flags(parser)


def add_settings_flags(parser: argparse.ArgumentParser, defaults: Sampling) -> None:
    """Everything that can change a reply beside the models and the words."""
    for name, value in defaults:
        metavar = "N" if isinstance(value, int) else "X"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            metavar=metavar,
            help=f"{Sampling.model_fields[name].description} (default: {value})",
        )
    for side in SIDES:
        framing = Comparison.model_fields[f"framing_{side}"].default
        parser.add_argument(
            f"--framing-{side}",
            choices=FRAMINGS,
            help=f"how the conversation becomes text for the {SIDE_NAMES[side]} side (default: {framing})",
        )
    parser.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help='switches that the chat template reads, as {"enable_thinking": false}',
    )
    parser.add_argument("--today", metavar="DATE", help="the date that a chat template may write (default: today)")


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 130 when Ctrl+C ended the replies; what was written until then is printed, and has a receipt."""
    with Pool(settings, HuggingFaceHub()) as pool:
        comparison = _comparison(flags, pool.default.id)
        with Saying() as progress:
            lease = pool.wait(comparison.pair, progress)
        with lease:
            prompts = [lease.prompt(comparison, side) for side in SIDES]
            notes = [note for prompt in prompts for note in (*prompt.notes, prompt.remembers)]
            for note in dict.fromkeys(filter(None, (lease.kin.difference, *notes))):
                say(note, sys.stderr)
            run, stop = Run(lease, comparison), Stop()
            stop.also(run.stop)
            with stopped_by(stop, signal.SIGINT):
                streamed = not flags.json and _stream(run)
                for _ in () if streamed else run.snapshots(lambda: 1.0):
                    pass
            answer = receipts.answer(run.result())
    try:
        if not streamed:
            say(answer.model_dump_json(indent=2) if flags.json else _plain(answer))
    finally:  # neither is lost with the other
        if flags.receipt is not None:
            write_file(flags.receipt, receipts.write(answer.receipt))
    return INTERRUPTED if stop.pressed else 0


def _stream(run: Run) -> bool:
    """Print both replies while they are written, if there is a terminal."""
    console = console_of(sys.stdout)
    if console is None:
        return False
    from . import replies

    replies.stream(run, console)
    return True


def _comparison(flags: argparse.Namespace, pair: str) -> Comparison:
    if flags.comparison is not None:
        return _whole(flags, pair)
    conversation = read_history(flags.history) if flags.history is not None else Conversation()
    prompt = standard_input() if flags.prompt == "-" else flags.prompt
    if not prompt.strip():
        raise UserError("The prompt is empty; write what both models shall be sent.")
    system = conversation.system if flags.system is None else flags.system
    return Comparison.of(
        pair,
        prompt,
        today=flags.today,
        conversation={"system": system, "turns": conversation.turns},
        chat_template_kwargs=switches(flags.chat_template_kwargs),
        **given(flags, *Sampling.model_fields, "framing_base", "framing_post"),
    )


def given(flags: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}


def _whole(flags: argparse.Namespace, pair: str) -> Comparison:
    """The comparison of a file, on its own pair unless flags name another.

    Raises:
        UserError: it is none, or a flag says a part of it again.
    """
    framings = ("framing_base", "framing_post")
    again = given(flags, "system", "history", *Sampling.model_fields, *framings, "chat_template_kwargs", "today")
    for name in again:
        raise UserError(f"--comparison holds everything that is asked; leave out --{name.replace('_', '-')}.")
    whole = standard_input().encode() if flags.comparison == "-" else read_file(flags.comparison)
    data = canonical.parse(whole, "comparison", receipts.MAX_BYTES)
    try:
        comparison = Comparison.model_validate(data)
    except ValidationError as error:
        raise UserError(f"--comparison: {explain(error)}") from None
    return comparison.model_copy(update={"pair": pair}) if flags.pair or flags.base else comparison


def switches(text: str | None) -> dict[str, Any]:
    """Raises UserError when it is not a JSON object."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f'--chat-template-kwargs takes a JSON object, as {{"enable_thinking": false}}; {text!r} is none.'
        )
    return found


def standard_input() -> str:
    """Raises UserError when it is not text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise UserError(f"Standard input is not {sys.stdin.encoding} text; send the prompt in this encoding.") from None


def read_history(file: str) -> Conversation:
    """Earlier turns from a file.

    Raises:
        UserError: it is missing, not JSON, or not a conversation.
    """
    try:
        data = json.loads(Path(file).read_text("utf-8"))
        if isinstance(data, list):
            return Conversation(turns=TypeAdapter(tuple[Turn, ...]).validate_python(data))
        return Conversation.model_validate(data)
    except ValidationError as error:
        raise UserError(f"--history: {explain(error)}") from None
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f'--history takes a JSON file with a list of {{"prompt", "base", "post"}}; {file!r} cannot be read as one.'
        ) from None


def _plain(result: Result) -> str:
    """Both replies as a person reads them, reasoning apart."""
    blocks = [export.settings(result.comparison)]
    for side in SIDES:
        answer = result.side(side)
        thought = f" ({answer.reasoning_tokens} of reasoning)" if answer.reasoning_tokens else ""
        speed = f"{len(answer.token_ids)} tokens{thought}, {answer.finish_reason}"
        head = f"=== {answer.checkpoint.name} ({SIDE_NAMES[side]}; weights {answer.weights_sha256[:8]}; {speed})"
        reasoning = [f"--- reasoning\n{answer.reasoning.strip()}\n--- answer"] if answer.reasoning.strip() else []
        blocks.append("\n".join([head, *reasoning, answer.text]))
    return "\n\n".join(blocks)
