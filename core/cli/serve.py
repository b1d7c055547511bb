"""`python app.py`: the page."""

import argparse
import signal
from time import sleep

from .. import experiments
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..settings import Settings, add_model_flags, add_server_flags
from ..steps import Stop
from ..ui import page
from .terminal import SIGNALLED, stopped_by

GRACE = 25.0  # seconds that replies have to finish in after the first signal


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lesson", metavar="NAME", help=f"open the page on one experiment: {', '.join(experiments.NAMES)}"
    )
    add_model_flags(parser)
    add_server_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 130 after Ctrl+C and 143 after SIGTERM; a second signal waits for nothing."""
    stop = Stop()
    with stopped_by(stop, signal.SIGINT, signal.SIGTERM) as came:
        pool = Pool(settings, HuggingFaceHub())
        pool.start_loading(pool.default.id)  # so that the first visitor does not wait; the page is there meanwhile
        demo = page.build(pool, experiments.find(flags.lesson) if flags.lesson else None)
        page.launch(demo, settings, prevent_thread_lock=True)
        while not stop.pressed:
            sleep(0.1)
        page.end(demo, pool, GRACE)
    return SIGNALLED + came[0]
