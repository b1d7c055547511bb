"""Certification on lanes that are made for it: whatever lets a neighbour into a row is found, and nothing else is."""

from collections.abc import Callable, Sequence

import pytest
import torch

from core.engine.certify import MIXTURE_FILLINGS, Level, levels, neighbours_do_not_matter

Leak = Callable[
    [int, list[int], list[int]], bool
]  # slot, every slot's token and position -> is this row's output another?


class Lane:
    """As much of a lane as certification uses; its logits are 0, or 1 where the leak says so."""

    slots, length, chunk, grain, vocabulary = 3, 64, 16, 16, 11
    near, lengths, row_counts = False, (16, 32, 64), (2, 3)

    def __init__(self, leak: Leak = lambda slot, tokens, positions: False, forgetful: bool = True):
        self.leak, self.forgetful = leak, forgetful
        self.prompts = 0

    def begin(self) -> None:
        self.prompts += 1

    def read(self, token_ids: list[int], start: int) -> torch.Tensor:
        assert start % self.chunk == 0 and len(token_ids) <= self.length
        return torch.full((1, self.vocabulary), 0.0 if self.forgetful else float(self.prompts))

    def adopt(self, slot: int) -> None:
        assert 0 <= slot < self.slots

    def repeat(self, end: int) -> None:
        assert end == self.length

    def write(self, tokens: list[int], positions: list[int], held: Sequence[int] = ()) -> torch.Tensor:
        assert len(tokens) == len(positions) == self.slots
        assert all(0 <= token < self.vocabulary for token in tokens)
        assert all(0 <= position < self.length for position in positions)
        rows = [float(self.leak(slot, tokens, positions)) for slot in range(self.slots)]
        return torch.tensor(rows)[:, None].expand(-1, self.vocabulary)


def others(slot: int, values: list[int]) -> list[int]:
    return [value for number, value in enumerate(values) if number != slot]


def test_rows_that_do_not_depend_on_each_other_are_certified():
    assert neighbours_do_not_matter(Lane())


LEAKS: dict[str, Leak] = {
    "a neighbour far behind": lambda slot, tokens, positions: max(others(slot, positions)) > 48,
    "a neighbour at its beginning": lambda slot, tokens, positions: 0 < min(others(slot, positions)) < 8,
    "a neighbour that writes something": lambda slot, tokens, positions: any(others(slot, tokens)),
    "nobody beside it": lambda slot, tokens, positions: not any(others(slot, positions)),
    "the slot": lambda slot, tokens, positions: slot == 2,
    "the token of the slot before": lambda slot, tokens, positions: tokens[slot - 1] == 7,
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_row_that_depends_on_anything_beside_it_is_found(name):
    assert not neighbours_do_not_matter(Lane(LEAKS[name]))


@pytest.mark.parametrize("together", [2, 3])
def test_in_a_mixture_rows_that_go_to_the_same_experts_are_tried_in_every_number(together):
    """A filling of strangers would find them by chance alone."""

    def grouped(slot: int, tokens: list[int], positions: list[int]) -> bool:
        rows = list(zip(tokens, positions, strict=True))
        return rows.count(rows[slot]) == together and positions[slot] > 0

    assert neighbours_do_not_matter(Lane(grouped), fillings=["short", "long"])
    assert not neighbours_do_not_matter(Lane(grouped), fillings=MIXTURE_FILLINGS)


def test_where_steps_look_no_farther_than_the_longest_row_the_length_must_not_matter():
    """Each length is tried against each longer one, with rows at its end."""

    def beyond_32(slot: int, tokens: list[int], positions: list[int]) -> bool:
        return 28 < positions[slot] < 32 <= max(positions)

    lane, other = Lane(beyond_32), Lane()
    assert neighbours_do_not_matter(lane), "nobody looks there"
    lane.near = other.near = True
    assert not neighbours_do_not_matter(lane) and neighbours_do_not_matter(other)


@pytest.mark.parametrize("number", [2, 3])
def test_every_number_of_rows_is_tried_at_every_length(number):
    """What differs with as many rows in use and the last of them at one place alone is found."""

    def with_so_many(slot: int, tokens: list[int], positions: list[int]) -> bool:
        in_use = [row + 1 for row, position in enumerate(positions) if position]
        return in_use[-1:] == [number] and max(positions) == 31 and slot == 0

    lane = Lane(with_so_many)
    assert neighbours_do_not_matter(lane), "nobody looks there"
    lane.near = True
    assert not neighbours_do_not_matter(lane)


def test_looking_no_farther_than_the_longest_row_is_tried_first_where_it_is_asked_for():
    near, *others = levels("sdpa", 2, near=True)
    assert near == Level("sdpa", 2, True, near=True) and others == levels("sdpa", 2)
    assert near.description == "sdpa attention, 2 threads, all slots in one pass over what is used"


def test_packed_weights_are_tried_before_plain_ones_with_what_is_used_first():
    both, packed, *others = levels("sdpa", 1, near=True, packed=True)
    assert (both.near, packed.near, both.packed, packed.packed) == (True, False, True, True)
    assert others == levels("sdpa", 1)
    assert packed.description == "sdpa attention, 1 thread, all slots in one pass, packed weights"
    mixture = levels("eager", 1, "row_by_row", packed=True)
    assert [(level.packed, level.experts) for level in mixture[:4]] == [
        (True, None),
        (True, "row_by_row"),
        (False, None),
        (False, "row_by_row"),
    ]


def test_a_mixture_is_computed_row_by_row_before_its_slots_take_turns():
    """Where the first level fails and nowhere else: a model without experts has no such level."""
    assert levels("sdpa", 2, "batched_mm") == [
        Level("sdpa", 2, True),
        Level("sdpa", 2, True, "batched_mm"),
        Level("eager", 2, True, "batched_mm"),
        Level("eager", 1, True, "batched_mm"),
        Level("eager", 1, False),
    ]
    assert [level.experts for level in levels("sdpa", 2)] == [None] * 4
    assert levels("eager", 1, "batched_mm")[1].description.endswith("all slots in one pass, experts by batched_mm")


def test_a_prompt_that_reads_differently_the_second_time_is_found():
    assert not neighbours_do_not_matter(Lane(forgetful=False))
