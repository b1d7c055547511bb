"""One lane: a number of slots and a cache of fixed length, and the only two forward shapes that touch them.

Decode is [slots, 1], whoever is there; empty slots run along. Prefill runs alone in pieces of
[1, chunk] from position 0 and is then copied into a slot. Because no shape depends on who else
is being served, neither do the bits. A lane knows tensors and slot numbers, not requests.

The last piece of a prompt is padded behind its end, where no token looks: on a GPU to a whole chunk, on a processor, which computes
padding as slowly as tokens, to the next `GRAIN`. Padding would run through a state, so where a model has states that piece is as long
as its tokens. No piece looks behind its own end, but on a GPU as far as that is rounded up. So its shape follows from the prompt alone.

In portable arithmetic no bit depends on how many positions are looked at, and with the kernels of a GPU or a processor none may (certification tries it): there
decode reaches no farther than the longest row in use, rounded up to one of `lengths`, and on a processor leaves out rows behind the last in use, as `row_counts` say.
"""

import inspect
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from .ahead import Ahead
from .device import figures_device, on_device, parameters_on
from .operations import not_portable
from .portable import Portable
from .slots import RECURRENT, CacheBytes, Masks, SlotCache
from .step import AttentionKernels, DecodeStep, Forward, Graph, Graphs, StepFunction, forward_pass
from .store import Chunk, PrefillStore, prefix_key

SHORTEST = 128  # positions; a step over fewer takes hardly less time
GRAIN = 64  # tokens


def grain_of(device: torch.device, chunk: int) -> int:
    """What is read has a multiple of so many tokens, and what is scored so many."""
    return min(GRAIN, chunk) if device.type == "cpu" else chunk


def lengths_in_use(length: int, grain: int) -> list[int]:
    """How far a lane of `length` positions may be looked at, in multiples of `grain`, each at most half as much again as the one before."""
    found, each = [], -(-SHORTEST // grain) * grain
    while each < length:
        found.append(each)
        each = max(each + grain, each * 3 // 2 // grain * grain)
    return [*found, length]


def rows_in_use(slots: int) -> list[int]:
    """How many of `slots` rows a step may have, each twice as many as the one before; never one alone, for which kernels were seen to add in another order."""
    return [*(2**power for power in range(1, (slots - 1).bit_length())), slots]


class Lane:
    """`slots` rows of `length` positions over one model.

    Args:
        store: what is kept of prompts; lanes of portable arithmetic may share one, for no bit depends on the lane.
        steps: decode steps by their length, of lanes with as many slots, which share them where they are for any lane.
        vocabulary: ids from here on are padding of the output matrix; their logits are cut off.
        together: decode all slots in one forward; otherwise one forward for each slot, the last resort
            of certification.
        experts: how decode passes compute experts, where not as the library chooses.
        near: decode looks no farther than the longest row in use, as portable arithmetic always does; on a processor no more rows are computed than are in use, either.
        pool: of memory for the graphs of a GPU, which an engine's lanes share.
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
        experts: str | None = None,
        near: bool = False,
        store: PrefillStore | None = None,
        steps: dict[int, DecodeStep] | None = None,
        pool: Any = None,
    ):
        self.model, self.slots, self.length, self.chunk, self.vocabulary = model, slots, length, chunk, vocabulary
        config = model.config.get_text_config()
        self.experts, self.near = experts, near
        self.device = next(model.get_input_embeddings().parameters()).device
        self.grain = grain_of(self.device, chunk)
        self._figures_device = figures_device(self.device)
        self.masks = Masks(config, model.dtype, attention)
        self.store = store or PrefillStore(0)
        self._last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._reading = SlotCache.empty(config, 1, length, self.grain, self.device)
        rows = slots if together else 1
        self._writing = [SlotCache.empty(config, rows, length, 1, self.device) for _ in range(slots // rows)]
        if isinstance(model, Portable) and set(self.masks.kinds) & set(RECURRENT):
            raise not_portable("layers that keep a state: reading would give them other bits than writing")
        try:
            self._allocate()
        except ValueError:  # a model that makes biases of its mask (Bloom) unpacks two dimensions
            self.masks.of_keys = True
            self._allocate()
        self.has_states = bool(self._reading.states())
        self._token_by_token = self.has_states and not self._hands_on_states()
        self._parts = lengths_in_use(length, min(GRAIN, chunk))
        self.lengths = self._parts if near or isinstance(model, Portable) else [length]
        self.row_counts = rows_in_use(slots) if near and together and self.device.type == "cpu" else [slots]
        self._steps, self._unrecorded = {} if steps is None else steps, False
        for each in self.lengths:
            if each not in self._steps:
                self._steps[each] = DecodeStep(model, self.masks, self._writing[0], each, vocabulary, experts)
        self._graphs = Graphs(pool)
        self.ahead: Ahead | None = None  # steps that draw on the device, too
        if isinstance(model, Portable):  # whose steps are recorded beside what they do, for that takes seconds
            return
        if self.device.type != "cuda":
            self._record(near)
        elif together and len(parameters_on(model)) == 1:  # no graph where it is spread over several
            cache = self._writing[0]
            self.ahead = Ahead(
                Forward(model, self.masks, cache, experts), cache, self.lengths, vocabulary, self._graphs
            )

    def _record(self, near: bool) -> None:
        """Record the step of a processor: of the whole lane, or one for all that it may look at, which lanes share.

        Raises:
            RuntimeError: there is none for all.
        """
        longest, recorded = self.step(self.length), (step for step in self._steps.values() if step.recorded)
        if not near:
            longest.record()
            return
        longest.record_for_any(next(recorded, None))
        if not longest.recorded:
            raise RuntimeError("no recording of this model is for any number of rows and positions")
        for length in self.lengths:
            self._steps[length].replay(longest)

    def _allocate(self) -> None:
        """Run both shapes once, so that every buffer exists before the first request."""
        kernels = AttentionKernels()
        for cache in (self._reading, *self._writing):
            with kernels:
                forward_pass(self.model, self.masks, cache, torch.zeros_like(cache.positions))
            cache.clear()
        self.attention_kernels = sorted(kernels.names)

    def _hands_on_states(self) -> bool:
        """Whether a pass over several tokens goes on from the states that are there: two that begin differently must end differently.

        The library's scan of Mamba 1 begins at zero each time, without a word.
        """
        cache = self._reading.blank()
        cache.at(torch.arange(2, device=self.device)[None])
        left = []
        for before in (0.0, 1.0):
            for state in cache.recurrent():
                state.fill_(before)
            forward_pass(self.model, self.masks, cache, torch.zeros_like(cache.positions))
            left.append([state.clone() for state in cache.recurrent()])
            cache.clear()
        return not any(map(torch.equal, *left))

    @property
    def cache_bytes(self) -> CacheBytes:
        """What each of its rows takes."""
        return self._reading.bytes()

    def cache_bytes_on(self, device: torch.device) -> CacheBytes:
        """What each of its rows takes there, of a model that is spread over several."""
        cache = self._reading
        return cache.bytes([layer for layer in cache.slot_layers if getattr(layer, "device", None) == device])

    def step(self, end: int) -> DecodeStep:
        """The decode step that looks at all positions before `end`, and at few others."""
        return self._steps[next(length for length in self.lengths if end <= length)]

    def _recorded_step(self, end: int) -> DecodeStep:
        """`step`, or until that is recorded one that is and looks farther: recorded is worth more than short."""
        steps = [self._steps[length] for length in self.lengths if end <= length]
        return next((step for step in steps if step.recorded), steps[0])

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Inside, steps call the model's modules, which a recording goes without; the bits are the same."""
        self._unrecorded = True
        try:
            yield
        finally:
            self._unrecorded = False

    def begin(self) -> None:
        """Forget the prompt that was read last. Nothing of one request is left for the next, not even behind a mask."""
        self._reading.clear()

    def reusable(self, token_ids: Sequence[int]) -> int:
        """Copy in stored chunks that begin this prompt; returns how many tokens they cover, always leaving some to read."""
        chunks = list[Chunk]()
        while (end := (len(chunks) + 1) * self.chunk) < len(token_ids):
            chunk = self.store.get(prefix_key(token_ids, end))
            if chunk is None:
                break
            chunks.append(chunk)
        while self.has_states and chunks and not chunks[-1].states:
            chunks.pop()
        for number, chunk in enumerate(chunks):
            for whole, part in zip(self._reading.spans(), chunk.spans, strict=True):
                whole[:, :, number * self.chunk : (number + 1) * self.chunk].copy_(part)
        if chunks:
            for state, kept in zip(self._reading.states(), chunks[-1].states, strict=True):
                state.copy_(kept)
        return len(chunks) * self.chunk

    def read(self, token_ids: Sequence[int], start: int) -> torch.Tensor:
        """One prefill pass over the chunk that begins at `start` (a multiple of the chunk).

        Returns the logits [1, vocabulary] at its last token, float.
        """
        part = token_ids[start : start + self.chunk]
        return self._prefill(self._reading, part, start, [len(part) - 1])

    def repeat(self, end: int) -> list[torch.Tensor]:
        """As if a prompt up to `end` had been read that repeats the first chunk, with the states before its first token.

        Returns keys and values up to there, layer by layer, as the model's own cache has them.
        """
        for tensor in self._reading.spans():
            for start in range(self.chunk, end, self.chunk):
                tensor[:, :, start : start + self.chunk].copy_(tensor[:, :, : self.chunk])
        for state in self._reading.states():
            state.zero_()
        kept = [tensor[:, :, :end] for tensor in self._reading.spans()]
        return self.model.plain(kept) if isinstance(self.model, Portable) else kept

    def scoring_cache(self) -> SlotCache:
        """An empty cache for `score`, freed with the last reference to it."""
        return self._reading.blank()

    def score(self, cache: SlotCache, token_ids: Sequence[int], start: int, first: int) -> torch.Tensor:
        """One prefill pass over the `grain` tokens from `start` on, in a cache of `scoring_cache`; logits of a whole chunk may be too many.

        Returns the logits [rows, vocabulary], float32 or float64, at those of its tokens that predict position
        `first` or later (row by row the positions that follow); the last token of all predicts nothing.
        """
        end = min(start + self.grain, len(token_ids) - 1)
        rows = range(max(start, first - 1) - start, end - start)
        logits = self._prefill(cache, token_ids[start:end], start, rows or [0])
        return logits[: len(rows)].to(torch.promote_types(logits.dtype, torch.float32))

    def _prefill(self, cache: SlotCache, part: Sequence[int], start: int, rows: Sequence[int]) -> torch.Tensor:
        """These tokens, which stand at `start` and behind it, in one pass; the logits [rows, vocabulary] at some of them."""
        if self._token_by_token:
            logits = torch.cat([self._pass(cache, [id], start + place, [0]) for place, id in enumerate(part)])
            logits = logits[on_device(rows, self.device)]
        else:
            padding = [] if self.has_states else [0] * (-len(part) % self.grain)
            logits = self._pass(cache, [*part, *padding], start, rows)
        return logits[:, : self.vocabulary].to(self._figures_device)

    def _pass(self, cache: SlotCache, token_ids: list[int], start: int, rows: Sequence[int]) -> torch.Tensor:
        """Logits [rows, vocabulary] at some of these tokens, which stand at `start` and behind it, in one pass.

        On a GPU, but for a model with states, it looks as far as `start` says, in one of a few shapes; that of whole chunks of a prompt is a graph.
        """
        end = start + len(token_ids)
        exact = self.device.type != "cuda" or self.has_states
        far = end if exact else next(length for length in self._parts if end <= length)
        held, positions = cache.upto(far), torch.arange(start, end, device=self.device)[None]
        given = [on_device([token_ids], self.device), positions, on_device(rows, self.device)]
        step: StepFunction = partial(self._read_step, cache)
        if (
            self.ahead
            and cache is self._reading
            and not exact
            and not self._unrecorded
            and len(token_ids) == self.chunk
        ):
            step = self._graphs.of(far, step, partial(self._by_chance, positions), held, cache.states())
        logits: torch.Tensor = step(*given, *held)
        return logits.clone() if isinstance(step, Graph) else logits  # the next replay writes over it

    def _read_step(
        self,
        pattern: SlotCache,
        ids: torch.Tensor,
        positions: torch.Tensor,
        rows: torch.Tensor,
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of one pass of `ids` at `positions`, int64 [1, tokens], over the tensors of a cache like `pattern`."""
        options = {"logits_to_keep": rows} if self._last_only else {}
        logits = forward_pass(self.model, self.masks, pattern.over(tensors, positions), ids, **options)[0]
        return logits if self._last_only else logits[rows]

    def _by_chance(self, positions: torch.Tensor, draw: random.Random) -> list[torch.Tensor]:
        """Another chunk that might be read there."""
        ids = [draw.randrange(self.vocabulary) for _ in range(self.chunk)]
        return [on_device([ids], self.device), positions, on_device([draw.randrange(self.chunk)], self.device)]

    def keep(self, token_ids: Sequence[int], start: int) -> None:
        """Store the complete chunk at `start` for later prompts that begin the same way.

        States take as much as the keys and values of hundreds of tokens, so that only the last complete chunk of a prompt
        keeps them: there the next turn goes on. So does the one before where nothing is behind that, for the prompt itself.
        """
        if self.store.max_bytes:
            spans = [tensor[:, :, start : start + self.chunk] for tensor in self._reading.spans()]
            is_last = start + 2 * self.chunk >= len(token_ids)
            self.store.put(
                prefix_key(token_ids, start + self.chunk), Chunk(spans, self._reading.states() if is_last else [])
            )

    def keep_written(self, slot: int, token_ids: Sequence[int]) -> None:
        """In portable arithmetic also the complete chunks of what a slot holds of these tokens: writing gives the bits that reading gives."""
        if isinstance(self.model, Portable) and self.store.max_bytes:
            cache, row = self._place(slot)
            for start in range(0, len(token_ids) - self.chunk + 1, self.chunk):
                whole = slice(start, start + self.chunk)
                spans = [tensor[row : row + 1, :, whole] for tensor in cache.spans()]
                self.store.put(prefix_key(token_ids, start + self.chunk), Chunk(spans))

    def adopt(self, slot: int) -> None:
        """Copy the prompt that was just read into a slot, over whatever was there."""
        cache, row = self._place(slot)
        for target, source in zip(cache.tensors(), self._reading.tensors(), strict=True):
            target[row].copy_(source[0])

    def write(self, tokens: Sequence[int], positions: Sequence[int], held: Sequence[int] = ()) -> torch.Tensor:
        """One decode pass: every slot's last token at its position. Returns logits [slots, vocabulary]; where no more rows are computed than are in use,
        which has a position, those alone.

        Slots that are held run along, and their states are put back: what they write at a position is overwritten there,
        but a state has none.
        """
        kept = [(state[row], state[row].clone()) for cache, row in map(self._place, held) for state in cache.states()]
        ids, where = on_device([tokens, positions], self.device)[:, :, None]
        taken = max((slot + 1 for slot, position in enumerate(positions) if position), default=1)
        used = next(count for count in self.row_counts if taken <= count)
        rows, step = self.slots // len(self._writing), self._recorded_step(max(positions) + 1)
        parts = []
        for i, cache in enumerate(self._writing):
            here = slice(i * rows, min((i + 1) * rows, used))
            parts.append(step(ids[here], where[here], cache, plain=self._unrecorded))
        for state, before in kept:
            state.copy_(before)
        logits = torch.cat(parts) if len(parts) > 1 else parts[0]
        return logits[:, -1, : self.vocabulary].to(self._figures_device)

    def _place(self, slot: int) -> tuple[SlotCache, int]:
        rows = self.slots // len(self._writing)
        return self._writing[slot // rows], slot % rows
