"""`python app.py`: the page."""

import argparse

from .. import experiments
from ..hub import HuggingFaceHub
from ..pool import Pool
from ..settings import Settings, add_model_flags, add_server_flags
from ..ui import page


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lesson", metavar="NAME", help=f"open the page on one experiment: {', '.join(experiments.NAMES)}"
    )
    add_model_flags(parser)
    add_server_flags(parser)


def run(flags: argparse.Namespace, settings: Settings) -> int:
    pool = Pool(settings, HuggingFaceHub())
    pool.start_loading(pool.default.id)  # so that the first visitor does not wait; the page is there meanwhile
    page.launch(page.build(pool, experiments.find(flags.lesson) if flags.lesson else None), settings)
    return 0
