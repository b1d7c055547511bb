"""One JSON text for one value, and a reader that takes nothing but plain, unambiguous JSON.

What comes from strangers (links, receipts) is read here before any schema sees it. This file knows
JSON, not what is in it.
"""

import hashlib
import json
from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn

from pydantic import BaseModel

from .errors import UserError

_MOST_OBJECTS = 5_000  # of one text; a conversation of 1,000 turns has little more than 1,000


def text(value: Any) -> str:
    """The canonical JSON of a value: sorted keys, no white space, every character as itself, floats at their shortest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(value: Any) -> str:
    """Of the canonical JSON of a value, in hexadecimal."""
    return hashlib.sha256(text(value).encode()).hexdigest()


def readable(value: Any, indent: str = "") -> str:
    """JSON for people, in the order of the fields: an object or a list of objects on many lines, a list of numbers on one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{text(key)}: {readable(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + readable(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def dump(value: BaseModel) -> Any:
    """A value as plain JSON data; sets are sorted, so that equal values give equal data."""
    return value.model_dump(mode="json")


class _Refused(ValueError):
    """JSON that two readers could read differently, or that is too much."""


def parse(data: bytes, what: str, limit: int) -> Any:
    """JSON data from bytes, at most `limit` of them.

    Raises:
        UserError: it is too large, has too many objects (the reading ends there), is not UTF-8, not JSON, names a key twice, or holds NaN or an infinity.
    """
    if len(data) > limit:
        raise UserError(f"This {what} is {len(data):,} bytes long, and at most {limit:,} are read; use a smaller one.")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_reader(), parse_constant=_refuse)
    except _Refused as error:
        raise UserError(f"This {what} cannot be read: {error}.") from None
    except (ValueError, RecursionError):
        raise UserError(f"This {what} is damaged: it does not hold JSON; ask for it again.") from None
    checked_text(found, what)
    return found


def checked_text(data: Any, what: str) -> str:
    """The canonical JSON of data that came from a stranger.

    Raises:
        UserError: it holds what is neither a number nor text.
    """
    try:
        written = text(data)
        written.encode()
    except UnicodeEncodeError:
        raise UserError(f"This {what} holds half of a surrogate pair, which is not text; ask for it again.") from None
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"This {what} holds NaN, an infinity or a number too large for one; ask for it again."
        ) from None
    return written


def _reader() -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """What makes the objects of one text, and ends its reading where there are too many."""
    number = count(1)

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if next(number) > _MOST_OBJECTS:
            raise _Refused(f"it holds more than {_MOST_OBJECTS:,} objects, so it is not one of ours")
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _Refused(f"it names {key[:60]!r} twice")
            found[key] = value
        return found

    return read


def _refuse(constant: str) -> NoReturn:
    raise _Refused(f"it holds {constant}, which is not a number")


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every field of JSON data by its path: "base.token_ids", "comparison.conversation.turns.0.prompt".

    A list of plain values is one field; so is an empty object or list.
    """
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        children = enumerate(value)
    found: dict[str, Any] = {}
    for key, child in children:
        found |= leaves(child, f"{path}.{key}" if path else str(key))
    return found or {path: value}
