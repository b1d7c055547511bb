"""`python app.py`: the page."""

import argparse
import os
import signal
import sys
from threading import Timer
from time import sleep

from .. import experiments
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..settings import Settings, add_model_flags, add_server_flags
from ..steps import Stop
from ..ui import page
from .terminal import SIGNALLED, say, stopped_by

GRACE = 25.0  # seconds that replies have to finish in after the first signal
STUCK = 75  # exit status: EX_TEMPFAIL of sysexits.h, which asks to be tried again


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lesson", metavar="NAME", help=f"open the page on one experiment: {', '.join(experiments.NAMES)}"
    )
    add_model_flags(parser)
    add_server_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """Exit status 130 after Ctrl+C and 143 after SIGTERM; a second signal waits for nothing. STUCK where steps of the models hang."""
    stop = Stop()
    with stopped_by(stop, signal.SIGINT, signal.SIGTERM) as came:
        pool = _pool(settings)
        pool.start_loading(pool.default.id)  # so that the first visitor does not wait; the page is there meanwhile
        demo = page.build(pool, experiments.find(flags.lesson) if flags.lesson else None)
        page.launch(demo, settings, prevent_thread_lock=True)
        while not (stop.pressed or pool.stuck):
            sleep(0.1)
        if pool.stuck:
            _leave_at_latest(GRACE + 10)
        page.end(demo, pool, GRACE)
        if pool.stuck:
            _leave()
    return SIGNALLED + came[0]


def _pool(settings: Settings) -> Pool:
    hub = HuggingFaceHub()
    if settings.cluster:
        from ..cluster.connection import connect  # Ray may not be there (Settings.read), and takes seconds to import
        from ..cluster.pool import ClusterPool

        return ClusterPool(settings, hub, connect(settings))
    if not settings.zero_gpu:
        return Pool(settings, hub)
    import spaces  # only there, and only there is there such a package

    from ..zerogpu import LentPool

    return LentPool(settings, hub, spaces.GPU)


def _leave_at_latest(seconds: float) -> None:
    timer = Timer(seconds, _leave)
    timer.daemon = True
    timer.start()


def _leave() -> None:
    """End the process as it stands: threads that hang are in it, and an interpreter that is taken down would wait for them, or fall."""
    say("Two steps of the models did not end, so the server ends and asks to be started again.", sys.stderr)
    sys.stderr.flush()
    os._exit(STUCK)
