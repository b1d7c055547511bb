"""Same Seed: what runs. `python app.py` serves the page; `python app.py --help` lists the other commands (core/cli)."""

import sys
from typing import Any

from core import settings as configuration

configuration.quieten()  # before the libraries that read the environment

if configuration.zero_gpu(configuration.environment()):
    import spaces  # noqa: F401  # it stands in for CUDA, so it comes before whatever could ask for it

from core.cli import main as main  # noqa: E402


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
