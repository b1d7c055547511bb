"""A comparison <-> text that is safe in the fragment of a URL: compact JSON, zlib, base64url.

The fragment never reaches a server's log. A link carries what was asked and both replies, which nobody has
checked until whoever opens it runs the comparison and is told whether the replies are the same. Mail and chat
programs break addresses and put things around them; the checksum in zlib says whether what is left is the link.
This file knows no page and no address.
"""

import base64
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import unquote

from pydantic import Field, ValidationError, model_validator

from . import canonical, prompts
from .detokenizer import UNREADABLE, Detokenizer
from .errors import UserError
from .pairs import came_with
from .prompts import Tokenizer, digest
from .types import (
    SIDES,
    Chat,
    Comparison,
    Digest,
    FinishReason,
    LensChoice,
    Receipt,
    Record,
    Side,
    SideReceipt,
    Text,
    TokenIds,
    Turn,
    Value,
    explain,
    in_common,
)

VERSION = 1
PREFIX = "#c="
MAX_CHARACTERS = 150_000  # of the fragment; browsers were seen to carry this much through their address bar
MAX_READ = 2 * MAX_CHARACTERS  # with what programs add to it: escapes, line breaks, quotes
MAX_JSON_BYTES = 4 * 2**20  # after decompression

_ADDED = re.compile(r"[^A-Za-z0-9_-]")  # what is no part of base64url
_EDGES = "-_"  # of base64url; mail and chat programs leave them out at the end of an address, or put them there


class Output(Value):
    """What one side wrote, by its digest, and with which weights; the reply itself where the link carries it."""

    sha256: Digest
    tokens: int = Field(ge=0)
    finish_reason: FinishReason
    weights_sha256: Digest
    token_ids: TokenIds = Field(default=(), exclude_if=lambda ids: not ids)
    text: Text | None = Field(default=None, exclude_if=lambda text: text is None)

    @model_validator(mode="after")
    def _of_one_reply(self) -> "Output":
        if self.token_ids and (len(self.token_ids), digest(self.token_ids)) != (self.tokens, self.sha256):
            raise ValueError("its token ids are not those of its sha256")
        return self


class Shared(Value):
    """What a link carries. A side that failed has no output; `lens` is there when it is the link of a lens."""

    version: Literal[1] = 1
    comparison: Comparison
    base: Output | None = None
    post: Output | None = None
    lens: LensChoice | None = None

    def output(self, side: Side) -> Output | None:
        return self.base if side == "base" else self.post

    @property
    def outputs(self) -> dict[Side, Output]:
        """Of the sides that have one."""
        return {side: output for side in SIDES if (output := self.output(side))}

    @property
    def carries_replies(self) -> bool:
        """Whether the replies are in the link, as far as there were any."""
        return bool(self.outputs) and all(len(each.token_ids) == each.tokens for each in self.outputs.values())


def of_receipt(receipt: Receipt) -> Shared:
    return Shared(comparison=receipt.comparison, base=output(receipt.base), post=output(receipt.post))


def of_turn(chat: Chat, index: int, lens: LensChoice | None = None) -> Shared:
    """What the link of one turn of a conversation carries, or of a lens on it."""
    record = chat[index]
    base, post = (output(kept, record.turn.reply(side)) if (kept := record.receipt(side)) else None for side in SIDES)
    return Shared(comparison=record.comparison(chat[:index]), base=base, post=post, lens=lens)


def output(side: SideReceipt, text: str | None = None) -> Output:
    """What one side wrote, from its half of a receipt."""
    return Output(sha256=side.output_sha256, tokens=len(side.token_ids), text=text, **in_common(side, Output))


# --- to text and back -----------------------------------------------------------------------------------


def encode(shared: Shared) -> str:
    """The fragment, "#c=" included. It ends in a letter or a digit.

    Raises:
        UserError: it is too long for a link; says how long.
    """
    return pack(shared, PREFIX, "conversation")


def pack(value: Value, prefix: str, what: str) -> str:
    """Any value as a fragment that begins with `prefix`; `what` it is. It ends in a letter or a digit.

    Raises:
        UserError: it is too long for a link; says how long.
    """
    json = canonical.text(canonical.dump(value)).encode()
    packed = _packed(json)
    while packed[-1] in _EDGES:  # white space means nothing to JSON, and all to its checksum
        json += b" "
        packed = _packed(json)
    length = len(prefix) + len(packed)
    if length > MAX_CHARACTERS or len(json) > MAX_JSON_BYTES:
        raise UserError(
            f"This {what} is too long for a link ({length:,} characters, and at most {MAX_CHARACTERS:,} fit); download the receipt and send that instead."
        )
    return prefix + packed


def _packed(json: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(json, 9)).decode().rstrip("=")


def fitting(shared: Shared) -> Shared:
    """The same, without the replies themselves where these make it too long for a link."""
    try:
        encode(shared)
    except UserError:
        without = {"token_ids": (), "text": None}
        return shared.model_copy(
            update={side: output.model_copy(update=without) for side, output in shared.outputs.items()}
        )
    return shared


def decode(fragment: str) -> Shared:
    """What a fragment carries, or an address with one, whatever a mail or chat program has added to it.

    Percent-encoding, line breaks, white space and punctuation are ignored, wherever they stand.

    Raises:
        UserError: it is damaged, too long, or not of this version's schema. Nothing of it may be used then.
    """
    json = unpack(fragment, PREFIX)
    try:
        return Shared.model_validate_json(json, strict=True)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["loc"][:1] in (("base",), ("post",)):  # what nobody chooses
            raise UserError("This link was altered or damaged; ask for a new one.") from None
        raise UserError(f"This link does not hold a comparison that this version can read; {explain(error)}") from None


def unpack(fragment: str, prefix: str) -> bytes:
    """The JSON in a fragment, or in an address with one, that was packed behind `prefix` and is of this version.

    Raises:
        UserError: it is damaged, too long, or of another version.
    """
    packed = _payload(fragment[: MAX_READ + 1], prefix)
    if len(fragment) > MAX_READ or len(prefix + packed) > MAX_CHARACTERS:
        raise UserError(
            f"This link is longer than {MAX_CHARACTERS:,} characters, so it is not one of ours; ask for the receipt instead."
        )
    json = _unpack(packed)
    data = canonical.parse(json, "link", MAX_JSON_BYTES)
    if isinstance(data, dict) and data.get("version") != VERSION:
        raise UserError(
            f"This link was made by another version of Same Seed (this one reads version {VERSION} of links); ask for a new one."
        )
    return json


def _payload(fragment: str, prefix: str) -> str:
    """The base64url in it: some programs encode an address twice, or write it twice, as [address](address)."""
    return _ADDED.sub("", re.split(prefix, unquote(unquote(fragment)), flags=re.IGNORECASE)[-1])


def _unpack(packed: str) -> bytes:
    """Base64url and zlib undone, never past the cap. Links of before may have lost the - or _ in which they ended."""
    for lost in ("", *_EDGES):
        try:
            return _inflate(packed + lost)
        except zlib.error:
            pass
    raise UserError("This link is damaged or was cut short; copy the whole of it and open it again.")


def _inflate(packed: str) -> bytes:
    inflate = zlib.decompressobj()
    raw = base64.urlsafe_b64decode(packed + "A" * (-len(packed) % 4))
    data = inflate.decompress(raw, MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise UserError(f"This link unpacks to more than {MAX_JSON_BYTES:,} bytes, so it is not one of ours.")
    used = len(raw) - len(inflate.unused_data)
    own = base64.urlsafe_b64encode(raw[:used]).decode().rstrip("=")  # its last letter has bits that say nothing
    if not inflate.eof or not packed.startswith(own) or packed[len(own) :].strip(_EDGES):
        raise zlib.error
    return data


# --- the replies as they were shared ---------------------------------------------------------------------


def record(shared: Shared, tokenizers: Callable[[], Mapping[Side, Tokenizer] | None] = lambda: None) -> Record | None:
    """The turn as it was shared, which nobody has checked: its texts, and no receipts.

    A side that failed has no text. None when the link carries no replies that can be shown here: one that was made of
    a receipt has token ids without texts, which only the pair's `tokenizers` can spell. They are asked for only then.
    """
    outputs = shared.outputs
    if not shared.carries_replies:
        return None
    texts = {side: output.text for side, output in outputs.items() if output.text is not None}
    try:
        if texts.keys() != outputs.keys():
            known = tokenizers()
            if known is None:
                return None
            texts = {side: _spelled(shared, side, known) for side in outputs}
        turn = Turn(prompt=shared.comparison.prompt, base=texts.get("base", ""), post=texts.get("post", ""))
    except (UserError, ValidationError):  # a stranger's ids: no prompt for them here, or a text beyond all measure
        return None
    return Record.of(shared.comparison, turn, None, None)


def _spelled(shared: Shared, side: Side, tokenizers: Mapping[Side, Tokenizer]) -> str:
    """The whole reply of a side, a prefilled beginning included. Raises UserError where this comparison has no prompt here."""
    prompt = prompts.build(shared.comparison, side, tokenizers[side], tokenizers["post"])
    detokenizer = Detokenizer(tokenizers[side], prompt.question)
    detokenizer.take(*prompt.prefill, *shared.outputs[side].token_ids)
    return detokenizer.text


def differences(
    shared: Shared, sides: Mapping[Side, SideReceipt | None], texts: Mapping[Side, str] | None = None
) -> dict[Side, str]:
    """For each side whose reply is not the one that was shared, how it differs. Empty: these are the replies that were shared.

    A reply that was stopped when it was shared is compared as far as it went. `texts` are the replies here, for
    a link whose text is not that of its own tokens.
    """
    found: dict[Side, str] = {}
    for side, output in shared.outputs.items():
        here = sides[side]
        if here is None:
            found[side] = "it failed here"
        elif not _same(output, here):
            found[side] = _why(output, here)
        elif texts is not None and not _spells(output, texts[side]):
            found[side] = "the tokens are the same, and the link showed another text for them"
    return found


def _same(output: Output, here: SideReceipt) -> bool:
    stopped = output.finish_reason == "stopped"
    ids = here.token_ids[: output.tokens] if stopped else here.token_ids
    return digest(ids) == output.sha256


def _spells(output: Output, text: str) -> bool:
    if output.text is None or output.text == text:
        return True
    return output.finish_reason == "stopped" and text.startswith(output.text.rstrip(UNREADABLE))


def _why(output: Output, here: SideReceipt) -> str:
    if output.weights_sha256 != here.weights_sha256:
        shared = output.weights_sha256
        return f"other weights ({shared[:8]}{came_with(shared)} when it was shared, {here.weights_sha256[:8]} here)"
    if here.finish_reason == "stopped":
        return "it was stopped here before its end"
    return "the same weights wrote something else, so the link was changed, or the machine or its libraries differ"
