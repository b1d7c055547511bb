"""Does a row's output depend on its neighbours here? Measured on the real weights before anything is served.

Whether a matrix product gives one row the same bits whatever is in the other rows is a property of the
kernels that this machine picks for these shapes, so it is tried: the same prompt in every slot, alone
and among different neighbours, bits compared. Where one draw is made for all slots, its token, log-probability and
margin are compared too. When it fails, the engine steps down a level, and says so.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..types import Sampling
from . import portable, sampling
from .lane import Lane


@dataclass(frozen=True)
class Level:
    """One way to run the forward passes. Later levels are slower and depend on fewer choices of the kernels."""

    attention: str
    threads: int
    together: bool
    experts: str | None = None  # how decode passes compute them, where not as the library chooses
    near: bool = False  # decode passes look no farther than what is in use
    packed: bool = False  # weights lie as a kernel reads them

    @property
    def description(self) -> str:
        rows = "all slots in one pass" if self.together else "one pass for each slot"
        rows += " over what is used" if self.near else ""
        rows += f", experts by {self.experts}" if self.experts else ""
        rows += ", packed weights" if self.packed else ""
        if self.attention == portable.NAME:
            return f"portable arithmetic, {self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{self.attention} attention, {self.threads} thread{'s' if self.threads != 1 else ''}, {rows}"


def levels(
    preferred: str, threads: int, experts: str | None = None, near: bool = False, packed: bool = False
) -> list[Level]:
    """The levels in the order in which they are tried: eager attention, then one thread, then one row at a time; before all of them, where it is asked for, those with weights that are `packed`, and the first that looks no farther than the longest row (`near`).

    A mixture of experts has another one behind the first, and keeps to it: the library groups the rows of all slots by the expert that they go to, and
    there decode passes compute `experts` by an implementation that does not.

    Portable arithmetic is one level of its own: nothing steps down from a promise.
    """
    if preferred == portable.NAME:
        return [Level(preferred, threads, True)]
    faster = [(near, packed), (False, packed), (False, False)]
    steps = [Level(preferred, threads, True, by, *more) for more in faster for by in (None, experts)]
    steps += [
        Level("eager", threads, True, experts),
        Level("eager", 1, True, experts),
        Level("eager", 1, False),
    ]
    return list(dict.fromkeys(steps))


FILLINGS = ("empty", "short", "long")
MIXTURE_FILLINGS = (*FILLINGS, "alike")  # tokens that go to the same experts are grouped: two, three, up to all of them


def neighbours_do_not_matter(
    lane: Lane, steps: int = 2, fillings: Sequence[str] = FILLINGS, draw_together: bool = False
) -> bool:
    """True when one prompt gives the same logits, bit for bit, in every slot among several fillings of the others.

    And the same draws, where one is made for all slots (`draw_together`), and the same wherever the farthest row is, where that says how far the others are looked at. The prompt is read anew for each filling, which must give the same bits too. Leaves the lane dirty on
    purpose: what an earlier occupant left in a slot is one of the fillings.
    """
    draw = random.Random(lane.length)
    prompt_length = min(lane.grain + 7, lane.length - steps)
    prompt = [draw.randrange(lane.vocabulary) for _ in range(prompt_length)]
    forced = [draw.randrange(lane.vocabulary) for _ in range(steps)]
    references: tuple[torch.Tensor, torch.Tensor, list[sampling.Draw]] | None = None
    for filling in fillings:
        others = _others(lane, filling, draw, steps)
        read = _read(lane, prompt)[0].clone()
        for slot in range(lane.slots):
            like = range(slot) if filling == "alike" else range(0)  # they hold the same since their own turn
            written = _continue(lane, slot, prompt_length, forced, others, filling == "long", like)
            draws = _draws(lane, slot, written, forced) if draw_together else []
            references = references or (read, written[:, slot], draws)
            same = torch.equal(references[0], read) and torch.equal(references[1], written[:, slot])
            if not same or references[2] != draws:
                return False
    return not lane.near or lane.slots == 1 or _length_does_not_matter(lane, draw)


def _length_does_not_matter(lane: Lane, draw: random.Random) -> bool:
    """Whether a row gives the same logits whatever a pass looks at: rows at the end of each length are tried under each longer one, in every number of rows."""
    _read(lane, [draw.randrange(lane.vocabulary) for _ in range(lane.chunk)])
    lane.repeat(lane.length)
    for slot in range(lane.slots):
        lane.adopt(slot)
    last, everybody = lane.slots - 1, range(lane.slots)  # the last slot says how far the others are looked at
    tokens = {end: draw.randrange(lane.vocabulary) for end in lane.lengths}

    def write(ends: list[int]) -> torch.Tensor:
        positions = [end - 1 for end in ends] + [0] * (lane.slots - len(ends))
        return lane.write([tokens.get(position + 1, 0) for position in positions], positions, everybody)[:last].clone()

    expected = {end: write([end] * last + [lane.length]) for end in lane.lengths}
    for number, farthest in enumerate(lane.lengths):
        nearer = lane.lengths[: number + 1]
        for rows in lane.row_counts:
            for start in range(0, len(nearer) if rows == lane.slots else 1, max(1, rows - 1)):
                ends = [nearer[(start + row) % len(nearer)] for row in range(rows - 1)] + [farthest]
                found = write(ends)
                if not all(torch.equal(found[row], expected[end][0]) for row, end in enumerate(ends[:last])):
                    return False
    return all(torch.equal(row, rows[0]) for rows in expected.values() for row in rows)


Filling = Callable[[int], tuple[list[int], list[int]]]  # step -> the other slots' tokens and positions


def _others(lane: Lane, filling: str, draw: random.Random, steps: int) -> Filling:
    if filling == "empty":
        return lambda step: ([0] * lane.slots, [0] * lane.slots)
    _read(lane, [draw.randrange(lane.vocabulary) for _ in range(lane.grain)])
    for slot in range(lane.slots):
        lane.adopt(slot)
    start = 1 if filling == "short" else lane.length - steps - 1
    tokens = [[draw.randrange(lane.vocabulary) for _ in range(lane.slots)] for _ in range(steps)]
    return lambda step: (list(tokens[step]), [start + step] * lane.slots)


def _continue(
    lane: Lane, slot: int, start: int, forced: list[int], others: Filling, held: bool, like: range
) -> torch.Tensor:
    """Logits [steps, slots, vocabulary] after the prompt that was just read, in `slot`, with forced tokens from position `start` on.

    With `held` it waits for one pass before each token, as a reply in lock-step does. The slots in `like` do what it does.
    """
    lane.adopt(slot)
    seen = []
    for step, token in enumerate(forced):
        tokens, positions = others(step)
        if held:
            tokens[slot], positions[slot] = 0, start + step
            lane.write(tokens, positions, [slot])
        for each in (*like, slot):
            tokens[each], positions[each] = token, start + step
        seen.append(lane.write(tokens, positions).clone())
    return torch.stack(seen)


_WARPED = Sampling(seed=1, temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.2, max_new_tokens=1)
_PLAIN = Sampling(seed=2, temperature=1, top_k=0, top_p=1, min_p=0, repetition_penalty=1, max_new_tokens=1)


def _draws(lane: Lane, slot: int, written: torch.Tensor, forced: list[int]) -> list[sampling.Draw]:
    """What is drawn in `slot` at each step, once with every warper and once with none, while the others draw in the other way."""
    found = []
    for own, theirs in ((_WARPED, _PLAIN), (_PLAIN, _WARPED)):
        rows = [own if row == slot else theirs for row in range(lane.slots)]
        for step, logits in enumerate(written):
            seen = sampling.marked(logits, [forced[: step + 1]] * lane.slots)
            found.append(sampling.draw(logits, seen, rows, [step] * lane.slots)[slot])
    return found


def _read(lane: Lane, token_ids: list[int]) -> torch.Tensor:
    """Logits [1, vocabulary] after a prompt."""
    lane.begin()
    for start in range(0, len(token_ids), lane.chunk):
        logits = lane.read(token_ids, start)
    return logits
