"""`python app.py download`: a pair's files ahead of a lesson, so that nobody needs a network then."""

import argparse

from ..checkpoints import loading, sources
from ..checkpoints.sources import Source
from ..engine.device import place
from ..hub import HuggingFaceHub, check
from ..installation import COMMAND
from ..pairs import default_pair, spelled
from ..pool import Progress
from ..settings import EMBEDDED, Settings, add_own_pair_flags
from ..types import SIDES
from .terminal import Saying, say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pair",
        metavar="PAIR",
        nargs="?",
        help=f"a pair that `{COMMAND} pairs` lists (default: your own, else {EMBEDDED})",
    )
    add_own_pair_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 when all files are here. What has arrived of a download that broke off is kept, and is not fetched again."""
    pair, hub = default_pair(settings), HuggingFaceHub()
    for number, side in enumerate(SIDES):
        with Saying() as progress:
            progress(Progress(f"Looking for {pair.spec(side)}"))
            source = sources.find(pair.spec(side), hub, pair.base if side == "post" else None)
            loading.check_kind(source, hub, place(settings, number, pair.arithmetic))
            told = [_fetch(each, hub, progress) for each in (source, source.adapter_of) if each is not None]
        for line in told:
            say(line)
    return 0


def _fetch(source: Source, hub: HuggingFaceHub, progress: Saying) -> str:
    """Bring and check the files of one source; what became of it."""
    folder = sources.bring(source, hub, lambda text, share: progress(Progress(text, share)))
    if source.repository is None:
        return f"{source.name} is a folder on this machine."
    here = f"{source.name} is on this machine, at {source.repository.revision}"
    if not source.repository.listed:
        return f"{here}. The Hub cannot be reached, so its files were not checked."
    check(source.repository, folder, lambda share: progress(Progress(f"Checking {source.name}", share)))
    size = sum(source.repository.wanted().values()) // 1_000_000
    return f"{here}: {spelled(size)}, checked."
