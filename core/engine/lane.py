"""One lane: a number of slots and a cache of fixed length, and the only two forward shapes that touch them.

Decode is always [slots, 1], whoever is there; empty slots run along. Prefill runs alone in pieces of
[1, chunk] from position 0 and is then copied into a slot. Because no shape ever depends on who else
is being served, neither do the bits. A lane knows tensors and slot numbers, not requests.
"""

import inspect
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from . import portable
from .device import figures_device
from .portable import Portable
from .slots import Masks, SlotCache
from .step import DecodeStep, Forward, record
from .store import PrefillStore, prefix_key


class Lane:
    """`slots` rows of `length` positions over one model.

    Args:
        store: what is kept of prompts; lanes of portable arithmetic may share one, for no bit depends on the lane.
        vocabulary: ids from here on are padding of the output matrix; their logits are cut off.
        together: decode all slots in one forward; otherwise one forward for each slot, the last resort
            of certification.
    """

    def __init__(
        self,
        model: PreTrainedModel | Portable,
        *,
        slots: int,
        length: int,
        chunk: int,
        vocabulary: int,
        attention: str,
        together: bool = True,
        store: PrefillStore | None = None,
    ):
        self.model, self.slots, self.length, self.chunk, self.vocabulary = model, slots, length, chunk, vocabulary
        config = model.config.get_text_config()
        self.device = next(model.get_input_embeddings().parameters()).device
        self._figures_device = figures_device(self.device)
        self.masks = Masks(config, model.dtype, attention)
        self.store = store or PrefillStore(0)
        self._last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._reading = SlotCache.empty(config, 1, length, chunk, self.device)
        rows = slots if together else 1
        self._writing = [SlotCache.empty(config, rows, length, 1, self.device) for _ in range(slots // rows)]
        self._forward: DecodeStep = Forward(model, self.masks, length)
        self._allocate()
        self.recorded = not isinstance(model, Portable)  # or asked for: that takes seconds, see `record_beside`
        if self.recorded:
            self._forward = record(self._forward, self._writing[0], vocabulary)

    def _allocate(self) -> None:
        """Run both shapes once, so that every buffer exists before the first request."""
        self.begin()
        self.read([0], 0)
        for cache in self._writing:
            ids = torch.zeros_like(cache.positions)
            self.model(
                input_ids=ids,
                position_ids=ids,
                attention_mask=self.masks.at(ids, self.length),
                past_key_values=cache,
                use_cache=True,
            )

    def record_beside(self, given_up: Callable[[], bool]) -> None:
        """Record the step of portable arithmetic on a thread of one's own; others are served meanwhile, with the same bits.

        Nothing that they use is touched: caches are copied, and the mode is another one.
        """
        assert isinstance(self.model, Portable)
        cache = SlotCache.over(
            [tensor.clone() for tensor in self._writing[0].tensors()], self._writing[0].positions.clone()
        )
        forward = Forward(self.model.beside(given_up), self.masks, self.length)
        try:
            recorded = record(forward, cache, self.vocabulary)
        except portable.GivenUp:
            return
        if recorded is not forward:
            self._forward = recorded

    def begin(self) -> None:
        """Forget the prompt that was read last. Nothing of one request is left for the next, not even behind a mask."""
        self._reading.clear()

    def reusable(self, token_ids: Sequence[int]) -> int:
        """Copy in stored chunks that begin this prompt; returns how many tokens they cover, always leaving some to read."""
        done = 0
        while done + self.chunk < len(token_ids):
            chunk = self.store.get(prefix_key(token_ids, done + self.chunk))
            if chunk is None:
                break
            for whole, part in zip(self._reading.tensors(), chunk, strict=True):
                whole[:, :, done : done + self.chunk].copy_(part)
            done += self.chunk
        return done

    def read(self, token_ids: Sequence[int], start: int) -> torch.Tensor:
        """One prefill pass over the chunk that begins at `start` (a multiple of the chunk).

        Returns the logits [1, vocabulary] at its last token, float.
        """
        last = min(len(token_ids) - start, self.chunk) - 1
        return self._prefill(self._reading, token_ids, start, [last])

    def repeat(self, end: int) -> list[torch.Tensor]:
        """As if a prompt up to `end` had been read that repeats the first chunk; returns the keys and values up to there, as the model's own cache has them."""
        for tensor in self._reading.tensors():
            for start in range(self.chunk, end, self.chunk):
                tensor[:, :, start : start + self.chunk].copy_(tensor[:, :, : self.chunk])
        kept = [tensor[:, :, :end] for tensor in self._reading.tensors()]
        return portable.plain(kept) if isinstance(self.model, Portable) else kept

    def scoring_cache(self) -> SlotCache:
        """An empty cache for `score`, allocated at its first chunk and freed with the last reference to it."""
        return SlotCache.empty(self.model.config.get_text_config(), 1, self.length, self.chunk, self.device)

    def score(self, cache: SlotCache, token_ids: Sequence[int], start: int, first: int) -> torch.Tensor:
        """One prefill pass over the chunk that begins at `start`, in a cache of `scoring_cache`.

        Returns the logits [rows, vocabulary], float32 or float64, at those of its tokens that predict position
        `first` or later (row by row the positions that follow); the last token of all predicts nothing.
        """
        end = min(start + self.chunk, len(token_ids) - 1)
        rows = range(max(start, first - 1) - start, end - start)
        logits = self._prefill(cache, token_ids[:-1], start, rows or [0])
        return logits[: len(rows)].to(torch.promote_types(logits.dtype, torch.float32))

    def _prefill(self, cache: SlotCache, token_ids: Sequence[int], start: int, rows: Sequence[int]) -> torch.Tensor:
        """One [1, chunk] pass over the chunk at `start`; the logits [rows, vocabulary] at these of its tokens."""
        part = list(token_ids[start : start + self.chunk])
        padded = torch.tensor([part + [0] * (self.chunk - len(part))], device=self.device)
        positions = torch.arange(start, start + self.chunk, device=self.device)[None]
        kept = torch.tensor(rows, device=self.device)
        cache.positions.copy_(positions)
        logits = self.model(
            input_ids=padded,
            position_ids=positions,
            attention_mask=self.masks.at(positions, self.length),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": kept} if self._last_only else {}),
        ).logits[0]
        return (logits if self._last_only else logits[kept])[:, : self.vocabulary].to(self._figures_device)

    def keep(self, token_ids: Sequence[int], start: int) -> None:
        """Store the complete chunk at `start` for later prompts that begin the same way."""
        if self.store.max_bytes:
            chunk = [tensor[:, :, start : start + self.chunk] for tensor in self._reading.tensors()]
            self.store.put(prefix_key(token_ids, start + self.chunk), chunk)

    def keep_written(self, slot: int, token_ids: Sequence[int]) -> None:
        """In portable arithmetic also the complete chunks of what a slot holds of these tokens: writing gives the bits that reading gives."""
        if isinstance(self.model, Portable) and self.store.max_bytes:
            cache, row = self._place(slot)
            for start in range(0, len(token_ids) - self.chunk + 1, self.chunk):
                whole = slice(start, start + self.chunk)
                chunk = [tensor[row : row + 1, :, whole] for tensor in cache.tensors()]
                self.store.put(prefix_key(token_ids, start + self.chunk), chunk)

    def adopt(self, slot: int) -> None:
        """Copy the prompt that was just read into a slot, over whatever was there."""
        cache, row = self._place(slot)
        for target, source in zip(cache.tensors(), self._reading.tensors(), strict=True):
            target[row].copy_(source[0])

    def write(self, tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """One decode pass: every slot's last token at its position. Returns logits [slots, vocabulary]."""
        ids = torch.tensor(tokens, device=self.device)[:, None]
        where = torch.tensor(positions, device=self.device)[:, None]
        rows = self.slots // len(self._writing)
        parts = [
            self._forward(ids[i * rows : (i + 1) * rows], where[i * rows : (i + 1) * rows], *cache.tensors())
            for i, cache in enumerate(self._writing)
        ]
        logits = torch.cat(parts) if len(parts) > 1 else parts[0]
        return logits[:, -1, : self.vocabulary].to(self._figures_device)

    def _place(self, slot: int) -> tuple[SlotCache, int]:
        rows = self.slots // len(self._writing)
        return self._writing[slot // rows], slot % rows
