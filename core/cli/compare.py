"""`python app.py compare`: one comparison, from flags to both replies in print."""

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .. import receipts
from ..compare import compare
from ..errors import UserError
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..settings import Settings
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
from .terminal import Saying, write_file


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what to send to both models; - reads standard input")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE.json",
        help='earlier turns: a list of {"prompt": ..., "base": ..., "post": ...}, or a whole conversation; reasoning_base and reasoning_post may hold what the replies thought',
    )
    for name, value in DEFAULT_SAMPLING:
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--framing-base", choices=FRAMINGS, default="document")
    parser.add_argument("--framing-post", choices=FRAMINGS, default="chat")
    parser.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help='switches that the chat template reads, as {"enable_thinking": false}',
    )
    parser.add_argument("--today", help="the date that a chat template may write (default: today)")
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="also write the receipt of this run")
    parser.add_argument("--json", action="store_true", help="print one JSON object, receipt included")


def run(flags: argparse.Namespace, settings: Settings) -> int:
    with Pool(settings, HuggingFaceHub()) as pool:
        comparison = _comparison(flags, pool.default.id)
        with pool.wait(comparison.pair, Saying()) as lease:
            prompts = [lease.prompt(comparison, side) for side in SIDES]
            notes = [note for prompt in prompts for note in (*prompt.notes, prompt.remembers)]
            for note in dict.fromkeys(filter(None, (lease.kin.difference, *notes))):
                print(note, file=sys.stderr)
            answer = receipts.answer(compare(lease, comparison))
    print(answer.model_dump_json(indent=2) if flags.json else _plain(answer))
    if flags.receipt:  # after the answer, which must not be lost with a file that cannot be written
        write_file(flags.receipt, receipts.write(answer.receipt))
    return 0


def _comparison(flags: argparse.Namespace, pair: str) -> Comparison:
    conversation = read_history(flags.history) if flags.history else Conversation()
    try:
        if flags.system is not None:
            conversation = Conversation(system=flags.system, turns=conversation.turns)
        sampling = Sampling.model_validate({name: getattr(flags, name) for name in Sampling.model_fields})
        return Comparison(
            pair=pair,
            conversation=conversation,
            prompt=_standard_input() if flags.prompt == "-" else flags.prompt,
            sampling=sampling,
            framing_base=flags.framing_base,
            framing_post=flags.framing_post,
            today=flags.today or date.today().isoformat(),
            chat_template_kwargs=_switches(flags.chat_template_kwargs),
        )
    except ValidationError as error:
        raise explain(error) from None


def _switches(text: str | None) -> dict[str, Any]:
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


def _plain(result: Result) -> str:
    """Both replies as a person reads them, reasoning apart."""
    blocks = []
    for side in SIDES:
        answer = result.side(side)
        thought = f" ({answer.reasoning_tokens} of reasoning)" if answer.reasoning_tokens else ""
        speed = f"{len(answer.token_ids)} tokens{thought}, {answer.finish_reason}"
        head = f"=== {answer.checkpoint.name} ({SIDE_NAMES[side]}; weights {answer.weights_sha256[:8]}; {speed})"
        reasoning = [f"--- reasoning\n{answer.reasoning.strip()}\n--- answer"] if answer.reasoning.strip() else []
        blocks.append("\n".join([head, *reasoning, answer.text]))
    return "\n\n".join(blocks)
