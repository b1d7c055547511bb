"""Who goes next among those who wait: addresses take turns, and at one address sessions do. Knows nothing else about them.

A class behind one router is one address to those outside and forty sessions inside, so all of it gets through, and
one visitor who asks for much waits for nobody's sake but their own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import NamedTuple, TypeVar


class Who(NamedTuple):
    """For whom something is done."""

    address: str = ""
    session: str = ""


T = TypeVar("T")
NOBODY = Who()

asking: ContextVar[Who] = ContextVar("asking", default=NOBODY)  # whoever asks for what this thread does


def in_turn(waiting: Sequence[T], running: Iterable[Who], who: Callable[[T], Who]) -> list[T]:
    """What waits, in the order in which it goes: who has the least before it, running or waiting, goes first; among equals, who came first."""
    sessions = Counter(running)
    addresses = Counter[str]()
    for each, number in sessions.items():
        addresses[each.address] += number
    return _by_fewest(_by_fewest(waiting, sessions, who), addresses, lambda item: who(item).address)


def longest_ago(waiting: Sequence[T], served: Iterable[Who], who: Callable[[T], Who]) -> T:
    """Where one after the other is served: whose address, and at one address whose session, was served the longest ago; among equals, who came first."""
    last: dict[object, int] = {}
    for at, each in enumerate(served, 1):
        last[each.address] = last[each] = at
    return min(waiting, key=lambda item: (last.get(who(item).address, 0), last.get(who(item), 0)))


def _by_fewest(items: Sequence[T], before: Counter, name: Callable[[T], object]) -> list[T]:
    """Sorted by how many of the same name are before each; `before` is counted on."""
    ranks = []
    for item in items:
        ranks.append(before[name(item)])
        before[name(item)] += 1
    return [items[at] for at in sorted(range(len(items)), key=ranks.__getitem__)]
