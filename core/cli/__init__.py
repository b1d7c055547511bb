"""Same Seed: one prompt, one seed, one temperature; a base model and its post-trained sibling, side by side.

python app.py                     serve the page (the default)
python app.py compare --prompt X  run one comparison and print both replies
python app.py replay FILE         run a receipt again and say whether the replies are the same
python app.py diff A B            say which inputs of two receipts differ, and where the replies diverge
python app.py lens RECEIPT        say, token by token, what post-training changed in a reply
python app.py experiment NAME     run a guided experiment (or all of them) and print what it found
python app.py study --prompt X    ask over many seeds, or many prompts, and count with intervals
python app.py pairs               list the model pairs
python app.py download PAIR       fetch a pair ahead of a lesson, and check its files
python app.py fingerprint         print what decides the bits of a pair here, to be pinned in a cluster
python app.py --version           say which version this is
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .. import __version__
from .. import settings as configuration
from ..errors import UserError
from ..installation import COMMAND
from ..pairs import check_paths
from ..settings import Settings
from .log import log_harmlessly
from .terminal import INTERRUPTED, SIGNALLED, say, use_escapes

# Each command is the file of its name in here, with `add_flags` and `run`. Only the one that is asked for is
# imported, so that help and the list of pairs wait for no library.
COMMANDS = {
    "serve": "serve the page (the default)",
    "compare": "run one comparison and print both replies",
    "replay": "run a receipt again; exit status 0 identical, 1 diverged, 2 not replayable here",
    "diff": "say which inputs of two receipts differ, and where the replies diverge",
    "experiment": "run a guided experiment, or all, and print what it found",
    "lens": "say, token by token, what post-training changed in a reply",
    "study": "ask over many seeds, or many prompts, and count with intervals; a report and a receipt",
    "pairs": "list the model pairs",
    "download": "fetch a pair ahead of a lesson, and check its files",
    "fingerprint": "print what decides the bits of a pair here, to be pinned in a cluster",
}


class _Parser(argparse.ArgumentParser):
    """Its mistakes and its help go out like all else: they repeat what was typed, and a shell types the names of files."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say(message.removesuffix("\n"), file or sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """What `python app.py` and `same-seed` do: run one command with these arguments, or the process's own."""
    configuration.quieten()  # before the libraries that read the environment
    if arguments is not None:
        return run(arguments)
    try:
        try:
            status = run(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        status = SIGNALLED + 13  # SIGPIPE, which Windows does not name
    if status > SIGNALLED:
        sys.stdout.flush()
        os._exit(status)  # else the end of the process waits for a download that is under way
    return status


def run(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit status: 0, 2 after a mistake that is explained in one sentence, 130 after Ctrl+C.

    `serve` also returns 143 after SIGTERM, and `replay` 1 for a receipt that runs and gives other replies.
    """
    log_harmlessly()
    use_escapes()
    try:
        flags = parse(arguments)
        settings = Settings.read(flags, configuration.environment())
        check_paths(settings)
        return flags.run(flags, settings)
    except UserError as error:
        say(str(error), sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of the command that is named first, or of `serve`. Raises SystemExit when they cannot be read."""
    named = bool(arguments) and arguments[0] in (*COMMANDS, "-h", "--help", "--version")
    chosen, *rest = arguments if named else ("serve", *arguments)
    parser = _Parser(
        prog=COMMAND,
        description=str(__doc__).replace("python app.py", COMMAND),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"same-seed {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help)
        if name == chosen:
            module = import_module(f".{name}", __name__)
            module.add_flags(command)
            command.set_defaults(run=module.run)
    return parser.parse_args([chosen, *rest])
