"""Where this runs from: a checkout (`python app.py`) or an installed package (`same-seed`). Knows folders and names alone.

In a checkout the data lies beside this package; the wheel has it within, in a folder of its own (`pyproject.toml`).
"""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
INSTALLED = (_PACKAGE / "data").is_dir()

DATA = _PACKAGE / "data" if INSTALLED else _PACKAGE.parent  # the folder that holds checkpoints/ and docs/schemas/
COMMAND = "same-seed" if INSTALLED else "python app.py"  # what a person types


def new_process() -> list[str]:
    """The words that start this program in another process, in whatever folder and whatever lies there."""
    if INSTALLED:
        return [
            sys.executable,
            "-P",
            "-m",
            str(__package__),
        ]  # -P: nothing of the current folder is imported
    return [sys.executable, str(DATA / "app.py")]
