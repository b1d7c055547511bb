"""Same Seed: what runs. `python app.py` serves the page; `python app.py --help` lists the other commands (core/cli)."""

import sys
from collections.abc import Sequence
from typing import Any

from core import settings as configuration

configuration.quieten()  # before the libraries that read the environment

from core import cli  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    return cli.run(sys.argv[1:] if arguments is None else arguments)


def __getattr__(name: str) -> Any:
    """The page as the module's `demo`, for those who import it to serve it; built when it is asked for."""
    if name != "demo":
        raise AttributeError(name)
    from core.hub import HuggingFaceHub
    from core.pool import Pool
    from core.ui import page

    return page.build(Pool(configuration.Settings(), HuggingFaceHub()))


if __name__ == "__main__":
    sys.exit(main())
