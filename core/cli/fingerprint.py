"""`python app.py fingerprint`: one digest of all that decides the bits of a pair here, to be pinned where replicas answer for it."""

import argparse

from ..cluster.fingerprint import fingerprint
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..settings import Settings, add_model_flags
from .terminal import Saying, say


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    """One line, ID=FINGERPRINT. In fast arithmetic it is that of these slots, threads and context, on this machine."""
    with Pool(settings, HuggingFaceHub()) as pool:
        with Saying() as progress:
            lease = pool.wait(pool.default.id, progress)
        with lease:
            say(f"{lease.pair.id}={fingerprint(lease)}")
    return 0
