"""The files that commands read and write; each is named as it was typed."""

from pathlib import Path

from .. import receipts
from ..errors import UserError


def read_file(file: str, most: int = receipts.MAX_BYTES) -> bytes:
    """Raises UserError when there is no such file; no more is read than a byte over what is too large."""
    try:
        with Path(file).open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise UserError(f"{file!r} cannot be read: {error.strerror}.") from None


def write_file(file: str, text: str) -> None:
    """Raises UserError when the file cannot be written."""
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{file!r} cannot be written: {error.strerror}.") from None
