"""The log: warnings and errors on standard error, in words that no terminal obeys, without those of visitors, and with an end.

What is the same is written a few times a minute and then counted, so a flood of it fills no disk.
"""

import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from time import monotonic

from .terminal import harmless

OF_ONE_KIND = 3  # that are written in a minute
IN_ALL = 60
_MINUTE = 60.0
# Their texts say what is wrong with the machine; those of all others may quote what somebody asked.
_OF_THE_MACHINE = (OSError, MemoryError, RuntimeError, ImportError)


def log_harmlessly() -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[Log()])


class Log(logging.StreamHandler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Harmless("%(name)s: %(message)s"))
        self._began, self._written = monotonic(), Counter[object]()

    def emit(self, record: logging.LogRecord) -> None:
        if monotonic() - self._began > _MINUTE:
            left = self._written.total() - sum(min(number, OF_ONE_KIND) for number in self._written.values())
            self._began, self._written = monotonic(), Counter()
            if left > 0:
                super().emit(_said(f"{left:,} more like those above in the minute after the first of them"))
        kind = _kind(record)
        if kind not in self._written and len(self._written) >= IN_ALL // OF_ONE_KIND:
            kind = "others"
        self._written[kind] += 1
        if self._written[kind] <= OF_ONE_KIND:
            super().emit(record)


def _kind(record: logging.LogRecord) -> object:
    """Records of one kind differ only in what they speak of."""
    error = record.exc_info[1] if record.exc_info else None
    where = traceback.extract_tb(error.__traceback__)[-1:] if error else []
    return record.name, record.msg, type(error), *((each.filename, each.lineno) for each in where)


def _said(text: str) -> logging.LogRecord:
    return logging.LogRecord(__package__ or __name__, logging.WARNING, __file__, 0, text, None, None)


class _Harmless(logging.Formatter):
    """What is logged may repeat the words of a stranger, its traceback too."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))

    def formatException(self, ei: object) -> str:
        assert isinstance(ei, tuple)
        return "\n".join(reversed([_traceback(error) for error in _chain(ei[1])]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, the last one first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _traceback(error: BaseException) -> str:
    name = type(error).__qualname__
    said = f"{name}: {error}" if isinstance(error, _OF_THE_MACHINE) else name
    frames = traceback.format_tb(error.__traceback__)  # none of one that was told and not raised
    return f"Traceback (most recent call last):\n{''.join(frames)}{said}" if frames else said
