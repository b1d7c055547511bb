"""Keys, values and states that are kept for prompts which begin the same way."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Chunk(NamedTuple):
    """One chunk of positions: keys and values of every layer that has some, and the states behind its last token where they are kept."""

    spans: list[torch.Tensor]
    states: list[torch.Tensor] = []  # noqa: RUF012  # nobody writes into it

    def clone(self) -> "Chunk":
        return Chunk(*([tensor.clone() for tensor in tensors] for tensors in self))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensors in self for tensor in tensors)


class PrefillStore:
    """What complete, aligned prefill chunks left, by the tokens up to their end; the oldest go first.

    Only chunks made by prefill are kept, never what decoding wrote but where its bits are the same, so a
    reused chunk is bit for bit what a cold start computes.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.bytes = 0
        self._chunks: OrderedDict[bytes, Chunk] = OrderedDict()

    def get(self, key: bytes) -> Chunk | None:
        if key in self._chunks:
            self._chunks.move_to_end(key)
        return self._chunks.get(key)

    def clear(self) -> None:
        self._chunks.clear()
        self.bytes = 0

    def put(self, key: bytes, chunk: Chunk) -> None:
        """Keep a copy, unless it is there, with states if this one has some."""
        kept = self._chunks.get(key)
        if kept is not None:
            if kept.states or not chunk.states:
                return
            self.bytes -= kept.nbytes
        self._chunks[key] = chunk = chunk.clone()
        self.bytes += chunk.nbytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._chunks.popitem(last=False)[1].nbytes


def prefix_key(token_ids: Sequence[int], end: int) -> bytes:
    """Digest of the first `end` token ids."""
    return hashlib.sha256(",".join(map(str, token_ids[:end])).encode()).digest()
