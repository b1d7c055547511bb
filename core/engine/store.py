"""Keys and values that are kept for prompts which begin the same way."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch

Chunk = list[torch.Tensor]  # keys and values of every layer for one chunk of positions


class PrefillStore:
    """Keys and values of complete, aligned prefill chunks, by the tokens up to their end; the oldest go first.

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
        """Keep a copy, unless it is there."""
        if key in self._chunks:
            return
        self._chunks[key] = chunk = [tensor.clone() for tensor in chunk]
        self.bytes += _size(chunk)
        while self.bytes > self.max_bytes:
            self.bytes -= _size(self._chunks.popitem(last=False)[1])


def _size(chunk: Chunk) -> int:
    return sum(tensor.nbytes for tensor in chunk)


def prefix_key(token_ids: Sequence[int], end: int) -> bytes:
    """Digest of the first `end` token ids."""
    return hashlib.sha256(",".join(map(str, token_ids[:end])).encode()).digest()
