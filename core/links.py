"""A comparison <-> text that is safe in the fragment of a URL: compact JSON, zlib, base64url.

The fragment never reaches a server's log. A link carries what was asked and digests of both replies,
not the replies: whoever opens it runs the comparison and is told whether the replies are the same.
This file knows no page and no address.
"""

import base64
import binascii
import re
import zlib
from typing import Literal

from pydantic import Field, ValidationError

from . import canonical
from .errors import UserError
from .prompts import digest
from .types import (
    SIDES,
    Chat,
    Comparison,
    Digest,
    FinishReason,
    LensChoice,
    Receipt,
    Side,
    SideReceipt,
    Value,
    explain,
    in_common,
)

VERSION = 1
PREFIX = "#c="
MAX_CHARACTERS = 150_000  # of the fragment; browsers were seen to carry this much through their address bar
MAX_JSON_BYTES = 4 * 2**20  # after decompression

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class Output(Value):
    """What one side wrote, by its digest, and with which weights."""

    sha256: Digest
    tokens: int = Field(ge=0)
    finish_reason: FinishReason
    weights_sha256: Digest


class Shared(Value):
    """What a link carries. A side that failed has no output; `lens` is there when it is the link of a lens."""

    version: Literal[1] = 1
    comparison: Comparison
    base: Output | None = None
    post: Output | None = None
    lens: LensChoice | None = None

    def output(self, side: Side) -> Output | None:
        return self.base if side == "base" else self.post


def of_receipt(receipt: Receipt) -> Shared:
    return Shared(comparison=receipt.comparison, base=_output(receipt.base), post=_output(receipt.post))


def of_turn(chat: Chat, index: int, lens: LensChoice | None = None) -> Shared:
    """What the link of one turn of a conversation carries, or of a lens on it."""
    record = chat[index]
    base, post = (_output(side) if side else None for side in (record.base, record.post))
    return Shared(comparison=record.comparison(chat[:index]), base=base, post=post, lens=lens)


def _output(side: SideReceipt) -> Output:
    return Output(sha256=side.output_sha256, tokens=len(side.token_ids), **in_common(side, Output))


def encode(shared: Shared) -> str:
    """The fragment, "#c=" included.

    Raises:
        UserError: it is too long for a link; says how long.
    """
    json = canonical.text(canonical.dump(shared)).encode()
    packed = PREFIX + base64.urlsafe_b64encode(zlib.compress(json, 9)).decode().rstrip("=")
    if len(packed) > MAX_CHARACTERS or len(json) > MAX_JSON_BYTES:
        raise UserError(
            f"This conversation is too long for a link ({len(packed):,} characters, and at most {MAX_CHARACTERS:,} fit); download the receipt and send that instead."
        )
    return packed


def decode(fragment: str) -> Shared:
    """What a fragment carries.

    Raises:
        UserError: it is damaged, too long, or not of this version's schema. Nothing of it may be used then.
    """
    if len(fragment) > MAX_CHARACTERS:
        raise UserError(
            f"This link is longer than {MAX_CHARACTERS:,} characters, so it is not one of ours; ask for the receipt instead."
        )
    data = canonical.parse(_unpack(fragment.removeprefix(PREFIX)), "link", MAX_JSON_BYTES)
    if isinstance(data, dict) and data.get("version") != VERSION:
        raise UserError(
            f"This link was made by another version of Same Seed (this one reads version {VERSION} of links); ask for a new one."
        )
    try:
        return Shared.model_validate_json(canonical.text(data), strict=True)
    except ValidationError as error:
        raise UserError(f"This link does not hold a comparison that this version can read; {explain(error)}") from None


def _unpack(packed: str) -> bytes:
    """Base64url and zlib undone, never past the cap."""
    if not _BASE64URL.fullmatch(packed):
        raise _damaged()
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), MAX_JSON_BYTES + 1)
    except (binascii.Error, zlib.error):
        raise _damaged() from None
    if len(data) > MAX_JSON_BYTES:
        raise UserError(f"This link unpacks to more than {MAX_JSON_BYTES:,} bytes, so it is not one of ours.")
    if not inflate.eof or inflate.unused_data:
        raise _damaged()
    return data


def _damaged() -> UserError:
    return UserError("This link is damaged or was cut short; copy the whole of it and open it again.")


def differences(shared: Shared, sides: dict[Side, SideReceipt | None]) -> dict[Side, str]:
    """For each side whose reply is not the one that was shared, how it differs. Empty: these are the replies that were shared.

    A reply that was stopped when it was shared is compared as far as it went.
    """
    found: dict[Side, str] = {}
    for side in SIDES:
        output, here = shared.output(side), sides[side]
        if output is None:
            continue
        if here is None:
            found[side] = "it failed here"
        elif not _same(output, here):
            found[side] = _why(output, here)
    return found


def _same(output: Output, here: SideReceipt) -> bool:
    stopped = output.finish_reason == "stopped"
    ids = here.token_ids[: output.tokens] if stopped else here.token_ids
    return digest(ids) == output.sha256


def _why(output: Output, here: SideReceipt) -> str:
    if output.weights_sha256 != here.weights_sha256:
        return f"other weights ({output.weights_sha256[:8]} when it was shared, {here.weights_sha256[:8]} here)"
    if here.finish_reason == "stopped":
        return "it was stopped here before its end"
    return "the same weights wrote something else, so the machine or its libraries differ"
