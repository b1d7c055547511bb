"""Conversations as token ids, packed into rows of one length, and the batches of post-training.

Only what the assistant says is learned from. Conversations that share a row do not see each other, and
some rows of every batch are plain documents, so that the model does not forget how to continue a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from checkpoints.recipe.batches import Documents
from checkpoints.recipe.draw import Conversation
from checkpoints.recipe.train import IGNORED, Batch

Chat = tuple[np.ndarray, np.ndarray]  # token ids, and which of them are learned from (bool), both [tokens]


def encode(conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerFast, longest: int) -> list[Chat]:
    """Token ids as the chat template writes them; conversations of more than `longest` tokens are left out."""
    chats = []
    for conversation in conversations:
        messages = [{"role": role, "content": text} for role, text in conversation.messages]
        encoded: Any = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, learned = np.array(encoded["input_ids"]), np.array(encoded["assistant_masks"], dtype=bool)
        if len(ids) <= longest:
            chats.append((ids, _from_reply(learned, conversation.learn_from)))
    return chats


def save(chats: Sequence[Chat], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "ids.npy", np.concatenate([ids for ids, _ in chats]).astype(np.uint16))
    np.save(folder / "learned.npy", np.concatenate([learned for _, learned in chats]))
    np.save(folder / "ends.npy", np.cumsum([len(ids) for ids, _ in chats]))


def load(folder: Path) -> list[Chat]:
    ids, learned, ends = (np.load(folder / f"{name}.npy") for name in ("ids", "learned", "ends"))
    return list(zip(np.split(ids.astype(np.int64), ends[:-1]), np.split(learned, ends[:-1]), strict=True))


def _from_reply(learned: np.ndarray, first: int) -> np.ndarray:
    """The mask without its first `first` runs: replies that are there only to be read."""
    starts = np.flatnonzero(np.diff(learned.astype(np.int8), prepend=0) == 1)
    kept = learned.copy()
    kept[: starts[first]] = False
    return kept


def rows_of(chats: Sequence[Chat], length: int, order: np.random.Generator) -> list[list[int]]:
    """Which chats share a row of `length` tokens: in random order, each into the fullest open row that has room."""
    open_rows: list[tuple[int, list[int]]] = []
    rows = []
    for i in order.permutation(len(chats)):
        size = len(chats[i][0])
        fitting = [row for row in open_rows if row[0] >= size]
        room, members = min(fitting, key=lambda row: row[0]) if fitting else (length, [])
        if fitting:
            open_rows.remove((room, members))
        members.append(int(i))
        if room - size < 16:
            rows.append(members)
        else:
            open_rows.append((room - size, members))
        if len(open_rows) > 32:
            fullest = min(open_rows, key=lambda row: row[0])
            open_rows.remove(fullest)
            rows.append(fullest[1])
    return rows + [members for _, members in open_rows]


@dataclass
class Chats:
    """Batches of packed conversations and replayed documents, a pure function of (seed, step)."""

    chats: list[Chat]
    documents: Documents
    length: int
    rows: int
    replayed: int  # rows of every batch that are documents
    seed: int

    def __post_init__(self) -> None:
        self._open = (0, self._pack(0))
        self._steps = len(self._open[1]) // (self.rows - self.replayed)

    @property
    def steps_per_epoch(self) -> int:
        return self._steps

    def _pack(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self.seed, epoch])
        rows = rows_of(self.chats, self.length, order)
        return [rows[i] for i in order.permutation(len(rows))]

    def batch(self, step: int) -> Batch:
        """Inputs, labels and the number of the conversation that each position belongs to, each int64 [rows, length],
        and what each position counts, float32 [rows, length]."""
        per_step = self.rows - self.replayed
        epoch, at = divmod(step, self._steps)
        if epoch != self._open[0]:
            self._open = (epoch, self._pack(epoch))
        rows = self._open[1]  # an epoch may come out a few rows shorter than the first: it begins again then
        packed = [self._row(rows[i % len(rows)]) for i in range(at * per_step, (at + 1) * per_step)]
        inputs, labels = self.documents.batch(step, self.replayed, self.length)
        packed += [
            (row, following, np.zeros_like(row), _weights(following))
            for row, following in zip(inputs, labels, strict=True)
        ]
        return tuple(np.stack(part) for part in zip(*packed, strict=True))

    def _row(self, members: list[int]) -> Batch:
        inputs = np.zeros(self.length, dtype=np.int64)
        labels = np.full(self.length, IGNORED, dtype=np.int64)
        owner = np.full(self.length, -1, dtype=np.int64)
        weight = np.zeros(self.length, dtype=np.float32)
        at = 0
        for number, member in enumerate(members):
            ids, learned = self.chats[member]
            end = at + len(ids)
            inputs[at:end], owner[at:end] = ids, number
            labels[at : end - 1] = np.where(learned[1:], ids[1:], IGNORED)
            weight[at:end] = _weights(labels[at:end])
            at = end
        return inputs, labels, owner, weight


def _weights(labels: np.ndarray) -> np.ndarray:
    """What each label of one text counts: one over the root of how many it has, so that a text counts with the root of
    its length. Were all labels equal, stories would count and the one word that a sum is about would not."""
    learned = labels != IGNORED
    return learned.astype(np.float32) / np.sqrt(max(1, learned.sum()), dtype=np.float32)
