"""What commands share: progress in print, and files."""

import sys
from pathlib import Path

from .. import receipts
from ..errors import UserError
from ..pool import Progress


class Saying:
    """Prints progress: what is new, and of one thing every further tenth."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix, self._last = prefix, ""

    def __call__(self, progress: Progress) -> None:
        if progress.fraction is None:
            new, share = progress.text, ""
        else:  # what stands behind a colon is a count
            new = f"{progress.text.partition(':')[0]} {int(progress.fraction * 10)}"
            share = f" ({progress.fraction:.0%})"
        if new != self._last:
            print(f"{self._prefix}{progress.text}{share}", file=sys.stderr)
        self._last = new


def read_file(file: Path) -> bytes:
    """Raises UserError when there is no such file; no more is read than would be too large to be a receipt."""
    try:
        with file.open("rb") as stream:
            return stream.read(receipts.MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror}.") from None


def write_file(file: Path, text: str) -> None:
    """Raises UserError when the file cannot be written."""
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be written: {error.strerror}.") from None
