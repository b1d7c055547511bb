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
from .terminal import Saying, say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pair",
        metavar="PAIR",
        nargs="?",
        help=f"a pair that `{COMMAND} pairs` lists (default: your own, else {EMBEDDED})",
    )
    parser.add_argument(
        "--stages", action="store_true", help="the stages between both models too, where a pair has some"
    )
    add_own_pair_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 0 when all files are here. What has arrived of a download that broke off is kept, and is not fetched again."""
    pair, hub = default_pair(settings), HuggingFaceHub()
    between = [stage.source for stage in pair.between] if flags.stages else []
    for spec in (pair.base, pair.post, *between):
        with Saying() as progress:
            progress(Progress(f"Looking for {spec}"))
            source = sources.find(spec, hub, None if spec == pair.base else pair.base)
            loading.check_kind(source, hub, place(settings, int(spec != pair.base), pair.arithmetic))
            told = [_fetch(each, hub, progress) for each in (source, source.adapter_of) if each is not None]
        for line in told:
            say(line)
    return 0


def _fetch(source: Source, hub: HuggingFaceHub, progress: Saying) -> str:
    """Bring and check the files of one source; what became of it."""
    place = sources.bring(source, hub, lambda text, share: progress(Progress(text, share)))
    if source.repository is None:
        return f"{source.name} is a {'file' if source.is_gguf else 'folder'} on this machine."
    here = f"{source.name} is on this machine, at {source.repository.revision}"
    if not source.repository.listed:
        return f"{here}. The Hub cannot be reached, so its files were not checked."
    file = source.repository.file
    folder = place if file is None else place.parents[file.count("/")]
    check(source.repository, folder, lambda share: progress(Progress(f"Checking {source.name}", share)))
    size = sum(source.repository.wanted().values()) // 1_000_000
    return f"{here}: {spelled(size)}, checked."
