"""Token ids on disk, and batches drawn from them as a pure function of (seed, step).

Because a batch depends on nothing but the seed and the step number, a run that was killed goes on
from its last checkpoint with the batches it would have seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

VALIDATION_EVERY = 200  # one document in so many is held out


def pack(documents: Iterable[str], tokenizer: Tokenizer, folder: Path, kind: str) -> tuple[int, int, int]:
    """Write `kind`.train.npy and `kind`.validation.npy (uint16). Returns (train tokens, validation tokens, validation bytes)."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    validation_bytes = 0
    rows = iter(documents)
    number = 0
    while chunk := list(islice(rows, 2000)):
        for text, encoding in zip(chunk, tokenizer.encode_batch(chunk), strict=True):
            held_out = number % VALIDATION_EVERY == 0
            parts["validation" if held_out else "train"].append(np.array(encoding.ids, dtype=np.uint16))
            validation_bytes += len(text.encode()) if held_out else 0
            number += 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in parts.items():
        np.save(folder / f"{kind}.{name}.npy", np.concatenate(arrays))
    return sum(map(len, parts["train"])), sum(map(len, parts["validation"])), validation_bytes


@dataclass(frozen=True)
class Documents:
    """Random windows from packed documents, kinds drawn by weight."""

    streams: tuple[np.ndarray, ...]
    weights: np.ndarray
    seed: int

    @classmethod
    def open(cls, folder: Path, mixture: dict[str, float], seed: int) -> "Documents":
        streams = tuple(np.load(folder / f"{kind}.train.npy", mmap_mode="r") for kind in mixture)
        weights = np.array(list(mixture.values()), dtype=np.float64)
        return cls(streams, weights / weights.sum(), seed)

    def batch(self, step: int, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels, each int64 [rows, length]."""
        draw = np.random.default_rng([self.seed, step])
        windows = []
        for kind in draw.choice(len(self.streams), size=rows, p=self.weights):
            stream = self.streams[kind]
            start = int(draw.integers(0, len(stream) - length - 1))
            windows.append(stream[start : start + length + 1].astype(np.int64))
        block = np.stack(windows)
        return block[:, :-1], block[:, 1:]
