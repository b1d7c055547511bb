"""A file of prompts, CSV or JSON Lines -> the rows of a study. What is wrong with a row is told with its number."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .. import canonical
from ..errors import UserError
from ..types import Conversation, Turn, explain
from .checks import expectation
from .plan import MOST_PROMPTS, StudyPrompt

COLUMNS = ("prompt", "system", "category", "expect", "history", "messages")
MOST_BYTES = 16 * 2**20  # of a file
_MOST_OF_A_ROW = 4 * 2**20
_OWN = Path(__file__).with_name("suites")
NAMES = tuple(sorted(file.stem for file in _OWN.glob("*.csv")))  # of the suites that come with the app


def own_suite(name: str) -> tuple[StudyPrompt, ...]:
    """The rows of one of `NAMES`."""
    return read_suite(f"{name}.csv", (_OWN / f"{name}.csv").read_bytes())


def read_suite(name: str, data: bytes) -> tuple[StudyPrompt, ...]:
    """The rows of a file whose name ends with .csv, or of JSON Lines.

    Raises:
        UserError: it cannot be read, or a row cannot be asked; names the row, the first below the header being 1.
    """
    if len(data) > MOST_BYTES:
        raise UserError(f"{name} has {len(data):,} bytes, and at most {MOST_BYTES:,} are read; split it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text; save it in this encoding.") from None
    found: list[StudyPrompt] = []
    try:
        for row in islice(_csv(text) if name.lower().endswith(".csv") else _json_lines(text), MOST_PROMPTS + 1):
            found.append(_prompt(row))
    except (csv.Error, ValidationError, UserError) as error:
        why = explain(error) if isinstance(error, ValidationError) else error
        raise UserError(f"Row {len(found) + 1} of {name}: {why}") from None
    if not 0 < len(found) <= MOST_PROMPTS:
        raise UserError(f"{name} has {'more' if found else 'no row'}; write 1 to {MOST_PROMPTS:,} rows.")
    return tuple(found)


def _csv(text: str) -> Iterator[Mapping[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    _check_fields(reader.fieldnames or ())
    for row in reader:
        if None in row:
            raise UserError("it has more fields than the first line; put text with commas between quotes.")
        given = {column: value for column, value in row.items() if value}
        for column in {"history", "messages"} & given.keys():
            given[column] = canonical.parse(given[column].encode(), column, _MOST_OF_A_ROW)
        yield given


def _json_lines(text: str) -> Iterator[Mapping[str, Any]]:
    for line in filter(str.strip, text.split("\n")):
        row = canonical.parse(line.encode("utf-8", "surrogatepass"), "row", _MOST_OF_A_ROW)
        if not isinstance(row, dict):
            raise UserError("it is no JSON object.")
        _check_fields(row)
        yield {field: value for field, value in row.items() if value is not None}


def _check_fields(fields: Iterable[str]) -> None:
    for unknown in set(fields) - set(COLUMNS):
        raise UserError(f"there is a field {unknown[:60]!r}; those of a suite are {', '.join(COLUMNS)}.")


def _prompt(row: Mapping[str, Any]) -> StudyPrompt:
    """Raises UserError or pydantic's error when the row cannot be asked."""
    asked = _of_messages(row["messages"]) if "messages" in row else {"turns": row.get("history", [])}
    if "messages" in row and (again := {"prompt", "system", "history"} & row.keys()):
        raise UserError(f"messages hold everything that is said; leave out {min(again)}.")
    prompt, expect = asked.get("prompt", row.get("prompt", "")), row.get("expect", "")
    if not str(prompt).strip():
        raise UserError("it has no prompt; write what both models shall be sent.")
    return StudyPrompt(
        prompt=prompt,
        conversation=Conversation(system=asked.get("system", row.get("system", "")), turns=asked["turns"]),
        category=row.get("category", ""),
        expect=expectation(str(expect)) if expect != "" else None,
    )


def _of_messages(messages: Any) -> dict[str, Any]:
    """OpenAI's messages: a system prompt, then user and assistant in turn, a user at the end. Both sides get the same history."""
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise UserError('messages are a list of {"role": ..., "content": ...}.')
    said = [(each.get("role"), _text(each.get("content"))) for each in messages]
    system = said.pop(0)[1] if said and said[0][0] in ("system", "developer") else ""
    if [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2) + ["user"]:
        raise UserError(
            "messages must be user and assistant in turn, behind at most one system, with a user at the end."
        )
    texts = [text for _, text in said]
    turns = [
        Turn(prompt=prompt, base=reply, post=reply) for prompt, reply in zip(texts[:-1:2], texts[1::2], strict=True)
    ]
    return {"system": system, "turns": turns, "prompt": texts[-1]}


def _text(content: Any) -> Any:
    """A content that is a list of parts is the text of them."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise UserError("a message has a content that is no text; only text is asked here.")
    return content
