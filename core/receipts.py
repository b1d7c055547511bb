"""What a finished comparison leaves behind to be checked by: its receipt, and the receipt as a file.

A receipt carries a short seal for every field and one digest over everything, so that a change is
found and named without a model. The seals are no signature: whoever rewrites all of them makes a
receipt that reads well and fails its replay (core/replay.py).
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from . import __version__, canonical
from .errors import UserError
from .prompts import digest
from .types import (
    SIDES,
    Answer,
    AnyReceipt,
    Chat,
    Comparison,
    EngineInfo,
    OneSidedReceipt,
    Receipt,
    Result,
    Side,
    SideReceipt,
    SideResult,
    explain,
    in_common,
)

SCHEMA_VERSION = 1  # of a comparison
ONE_SIDED_VERSION = 2  # of a reply that one side gave alone
MAX_BYTES = 4 * 2**20  # of one receipt as a file; also the page's limit for an upload

_SEAL_DIGITS = 16


# --- make -------------------------------------------------------------------------------------------


def side_receipt(result: SideResult) -> SideReceipt:
    """One side of a result, without the texts that can be rebuilt."""
    return SideReceipt(
        prompt_tokens=len(result.prompt_token_ids),
        output_sha256=digest(result.token_ids),
        smallest_margin=smallest_margin(result.margins),
        **in_common(result, SideReceipt),
    )


def smallest_margin(margins: tuple[float | None, ...]) -> float | None:
    """Of the tokens that had a rival; None where none had."""
    return min((margin for margin in margins if margin is not None), default=None)


def make(comparison: Comparison, base: SideReceipt, post: SideReceipt) -> Receipt:
    """The sealed receipt of a comparison and what came back."""
    body = {
        "schema_version": SCHEMA_VERSION,
        "app_version": __version__,
        "comparison": canonical.dump(comparison),
        "base": canonical.dump(base),
        "post": canonical.dump(post),
    }
    return Receipt.model_validate_json(canonical.text(_sealed(body)))


def make_one_sided(
    comparison: Comparison, writer: Side, reply: SideReceipt, prompt_ids: tuple[int, ...], stops: tuple[str, ...]
) -> OneSidedReceipt:
    """The sealed receipt of a reply that one side gave alone."""
    body = {
        "schema_version": ONE_SIDED_VERSION,
        "app_version": __version__,
        "writer": writer,
        "comparison": canonical.dump(comparison),
        **({"prompt_ids": list(prompt_ids)} if prompt_ids else {}),
        **({"stops": list(stops)} if stops else {}),
        "reply": canonical.dump(reply),
    }
    return OneSidedReceipt.model_validate_json(canonical.text(_sealed(body)))


def answer(result: Result) -> Answer:
    """The result together with its receipt."""
    receipt = make(result.comparison, side_receipt(result.base), side_receipt(result.post))
    return Answer(comparison=result.comparison, base=result.base, post=result.post, receipt=receipt)


def of_turn(chat: Chat, index: int) -> Receipt:
    """The receipt of one turn of a kept conversation.

    Raises:
        UserError: the turn has none, because a side failed or the turn came with a link.
    """
    record = chat[index]
    if record.base is None or record.post is None:
        raise UserError(f"Turn {index + 1} has no receipt: not both sides of it were run to their end here.")
    return make(record.comparison(chat[:index]), record.base, record.post)


def engine_changes(
    first: Mapping[Side, EngineInfo], second: Mapping[Side, EngineInfo]
) -> dict[tuple[str, str | None, str | None], list[Side]]:
    """What differs between two runs' engine fingerprints, as (name, first, second), and on which of the sides that both have."""
    found: dict[tuple[str, str | None, str | None], list[Side]] = {}
    for side in (side for side in SIDES if side in first and side in second):
        a, b = first[side].texts(), second[side].texts()
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                found.setdefault((name, a.get(name), b.get(name)), []).append(side)
    return found


# --- seals -------------------------------------------------------------------------------------------


def _sealed(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a receipt with their seals and the digest over all of it."""
    whole = {**body, "seals": {path: _seal(value) for path, value in canonical.leaves(body).items()}}
    return {**whole, "sha256": canonical.sha256(whole)}


def _seal(value: Any) -> str:
    return canonical.sha256(value)[:_SEAL_DIGITS]


def _check_seals(receipt: AnyReceipt) -> None:
    """Raises UserError that names the first field that is not as it was sealed."""
    data = canonical.dump(receipt)
    fields = canonical.leaves({name: data[name] for name in data if name not in ("seals", "sha256")})
    for path, value in fields.items():
        if path not in receipt.seals:
            raise _tampered(path, "it has no seal, so it was added")
        if receipt.seals[path] != _seal(value):
            raise _tampered(path, "it does not match its seal")
    for path in receipt.seals:
        if path not in fields:
            raise _tampered(path, "it has a seal and is not there, so it was removed")
    if receipt.sha256 != canonical.sha256({name: data[name] for name in data if name != "sha256"}):
        raise _tampered("sha256", "it does not match the rest")


def _tampered(path: str, how: str) -> UserError:
    return UserError(f"This receipt was changed after it was made: {path[:100]} is not the original ({how}).")


def _check_consistent(receipt: AnyReceipt) -> None:
    """What must agree inside a receipt whoever sealed it. Raises UserError that names the field."""
    for name in receipt.sides:
        side, ids = receipt.side(name), receipt.prompt_ids
        checks = {
            "output_sha256": side.output_sha256 == digest(side.token_ids),
            "margins": len(side.margins) in (0, len(side.token_ids)),
            "smallest_margin": not side.margins or side.smallest_margin == smallest_margin(side.margins),
            "sampling": _sent_as_asked(receipt, name),
            "prompt_sha256": not ids or side.prompt_sha256 == digest(ids),
        }
        for field, agrees in checks.items():
            if not agrees:
                where = name if isinstance(receipt, Receipt) else "reply"
                raise _tampered(f"{where}.{field}", "it contradicts the other fields")


def _sent_as_asked(receipt: AnyReceipt, side: Side) -> bool:
    asked, sent = receipt.comparison.sampling, receipt.side(side).sampling
    return sent == asked.model_copy(update={"max_new_tokens": min(asked.max_new_tokens, sent.max_new_tokens)})


# --- the file ----------------------------------------------------------------------------------------


def write(receipt: AnyReceipt) -> str:
    """The receipt as the text of a file. `read` gives back an equal one."""
    return canonical.readable(canonical.dump(receipt)) + "\n"


def file_name(receipt: AnyReceipt) -> str:
    return f"same-seed-{receipt.sha256[:12]}.json"


def read(data: bytes) -> AnyReceipt:
    """A receipt from the bytes of a file, of a comparison or of one side.

    Raises:
        UserError: not a receipt, of another schema, or changed after it was made; names what.
    """
    return from_data(canonical.parse(data, "receipt", MAX_BYTES))


def from_data(data: Any) -> AnyReceipt:
    """A receipt from JSON data. Raises UserError as `read` does."""
    if not isinstance(data, dict) or "schema_version" not in data:
        raise UserError("This is not a receipt of Same Seed: it has no schema_version.")
    version = data["schema_version"]
    kind = _kind(version)
    try:
        receipt = kind.model_validate_json(canonical.checked_text(data, "receipt"), strict=True)
    except ValidationError as error:
        raise UserError(f"This is not a sound receipt of schema version {version}; {explain(error)}") from None
    _check_seals(receipt)
    _check_consistent(receipt)
    return receipt


def within(data: Any) -> Receipt:
    """The receipt of a comparison, from JSON data that is one, or that holds one, as an answer of /compare does. Raises UserError as `read` does."""
    found = from_data(data["receipt"] if isinstance(data, dict) and "receipt" in data else data)
    if not isinstance(found, Receipt):
        raise UserError("This receipt is of one side alone, and a lens needs both; make one of a comparison.")
    return found


def _kind(version: Any) -> type[Receipt | OneSidedReceipt]:
    if isinstance(version, bool) or not isinstance(version, int):
        raise UserError(f"This receipt has the schema version {str(version)[:40]!r}, which is not a number.")
    if version > ONE_SIDED_VERSION:
        raise UserError(
            f"This receipt has schema version {version}, made by a newer Same Seed; this one reads versions up to {ONE_SIDED_VERSION}, so update the app."
        )
    if version < SCHEMA_VERSION:
        raise UserError(
            f"This receipt has schema version {version}, which this app does not read (it reads versions {SCHEMA_VERSION} and {ONE_SIDED_VERSION}); replay it with the version of the app that made it."
        )
    return Receipt if version == SCHEMA_VERSION else OneSidedReceipt
