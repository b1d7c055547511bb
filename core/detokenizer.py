"""Token ids -> text: as a reply streams, when it has ended, token by token in the lens, and for a prefill.

The text of some ids behind others is what the tokenizer's own decoder makes of all of them, less what it
makes of those before. Only the last few ids are ever decoded anew: what a token says does not depend on
what stands before the place where a character begins.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from .types import Candidate

UNREADABLE = "\ufffd"  # how a decoder writes bytes that are no character, or not one yet
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # how SentencePiece names a single byte in a vocabulary
_ANCHOR = 8  # ids before the text with which it is decoded: some decoders strip a space at the very beginning
_LONGEST = 1024  # ids of a run of single bytes that are decoded anew; of a longer one the earlier ones are settled
_AT_ONCE = 64  # ids that are decoded anew with every token, before the earlier ones of them are settled


class HasBackend(Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""

    @property
    def backend_tokenizer(self) -> Any: ...


class HasAddedTokens(HasBackend, Protocol):
    """The same, and which tokens were added to its vocabulary."""

    @property
    def added_tokens_decoder(self) -> dict[int, Any]: ...


class Detokenizer:
    """The text of the ids taken so far, behind the ids `before` them. Special tokens have none.

    It never raises, whatever the ids, and holds nothing of the text before. Where bytes from before and
    bytes taken make one character together, it belongs to what was taken.
    """

    def __init__(self, tokenizer: HasBackend, before: Sequence[int] = ()):
        self._backend = tokenizer.backend_tokenizer
        self._before = self._anchor(before)
        self._taken: list[int] = []
        self._full = _AT_ONCE
        self._settled = ""

    def take(self, *ids: int) -> None:
        self._taken += ids
        if len(self._taken) >= self._full:
            self._settle()
            self._full = max(_AT_ONCE, 2 * len(self._taken))

    @property
    def text(self) -> str:
        """All of it; bytes that are no character, or not one yet, as U+FFFD."""
        return self._settled + self._added(self._before, self._taken)

    @property
    def readable(self) -> str:
        """The text without the bytes at its end that the next token may turn into a character."""
        text = self._added(self._before, self._taken)
        if text.endswith(UNREADABLE):
            # A decoder may give up all bytes around those that are missing, so it is asked without the last ones, too.
            parts = [text, *(self._added(self._before, ids) for ids in self._without_last(self._taken))]
            text = max((part.rstrip(UNREADABLE) for part in parts), key=len)
        return self._settled + text

    def _settle(self) -> None:
        """Keep the text up to the last place where a character begins."""
        ids = self._taken
        last = next((i for i in range(len(ids) - 1, 0, -1) if self._begins(ids[i])), 0)
        for place in range(len(ids) - 1, len(ids) - 5, -1) if not last else ():
            # Tokens of some scripts all begin inside a character, and a run of single bytes may be lost whole.
            ends_whole = not self._added(self._before, ids[:place]).endswith(UNREADABLE)
            if ends_whole and (len(ids) >= _LONGEST or not self._is_byte(ids[place])):
                last = place
                break
        settled, self._taken = ids[:last], ids[last:]
        if settled:
            self._settled += self._added(self._before, settled)
            self._before = self._anchor(settled)

    def _anchor(self, ids: Sequence[int]) -> list[int]:
        """The last ids, from one with which a character begins."""
        first = next((i for i in range(len(ids) - _ANCHOR, 0, -1) if self._begins(ids[i])), 0)
        return list(ids[first:])

    def _added(self, before: Sequence[int], ids: Sequence[int]) -> str:
        earlier, whole = self._decode(before), self._decode([*before, *ids])
        if whole.startswith(earlier):
            return whole[len(earlier) :]
        if earlier.endswith(UNREADABLE):  # bytes that became a character are not of the text before
            parts = [earlier.rstrip(UNREADABLE), *(self._decode(ids) for ids in self._without_last(before))]
            kept = max((len(part) for part in parts if whole.startswith(part)), default=0)
            if not whole.startswith(UNREADABLE, kept):
                return whole[kept:]
        # A byte that fits nowhere made the bytes from before unreadable, too. They are not asked again.
        ends = next((i for i in range(len(before), 0, -1) if self._begins(before[i - 1])), 0)
        return self._added(before[:ends], ids) if ends < len(before) else self._decode(ids)

    def _without_last(self, ids: Sequence[int]) -> list[Sequence[int]]:
        """Without one, two and three of them: as many as can be bytes of a character that lacks one."""
        return [ids[: len(ids) - dropped] for dropped in range(1, min(3, len(ids)) + 1)]

    def _begins(self, id: int) -> bool:
        """Whether a character begins with this token, whatever stands before it."""
        text = self._decode([id])
        return bool(text) and not text.startswith(UNREADABLE) and not self._is_byte(id)

    def _is_byte(self, id: int) -> bool:
        return _BYTE.fullmatch(self._backend.id_to_token(id) or "") is not None

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._backend.decode([id for id in ids if 0 <= id < 2**32], skip_special_tokens=True)
        return text


class Spelling:
    """How token ids read: those of the reply as parts of its text, candidates each by itself."""

    def __init__(self, tokenizer: HasAddedTokens, before: Sequence[int], reply: Sequence[int]):
        self._tokenizer, self._before = tokenizer, before
        self._control = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
        self._known: dict[int, str] = {}
        self.reply = self._parts(reply)

    def _parts(self, reply: Sequence[int]) -> list[str]:
        """One text for each token. Bytes that are not yet a character wait for the token that completes it."""
        detokenizer = Detokenizer(self._tokenizer, self._before)
        readable = []
        for id in reply:
            if id not in self._control:
                detokenizer.take(id)
            readable.append(detokenizer.readable)
        text, read, parts = detokenizer.text, 0, []
        for id, so_far in zip(reply, [*readable[:-1], text], strict=True):
            upto = len(so_far) if text.startswith(so_far) else read  # bytes that were given up later
            parts.append(self._control.get(id, "") + text[read:upto])
            read = max(read, upto)
        return parts

    def candidate(self, id: int, logprob: float) -> Candidate:
        if id not in self._known:
            detokenizer = Detokenizer(self._tokenizer, self._before)
            detokenizer.take(id)
            self._known[id] = self._control.get(id) or detokenizer.text
        return Candidate(id=id, text=self._known[id], logprob=logprob)
