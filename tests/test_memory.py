"""What the process has and does not use goes back to the system while the page is served."""

import asyncio
import sys

import psutil
import pytest

from core.ui import memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone keeps what is free")
def test_what_is_free_between_things_that_are_used_goes_back_to_the_system():
    process = psutil.Process()
    blocks = [bytearray(5_000) for _ in range(20_000)]
    used, last = process.memory_info().rss, blocks[-1]
    blocks.clear()  # the end of the heap is still used, so that all before it stays
    memory.give_back()
    assert used - process.memory_info().rss > 50_000_000 and len(last) == 5_000


def test_it_is_given_back_again_and_again_while_the_page_is_served(monkeypatch):
    given = []
    monkeypatch.setattr(memory, "PERIOD", 0.001)
    monkeypatch.setattr(memory, "give_back", lambda: given.append(1))

    async def served() -> int:
        async with memory.returned():
            while len(given) < 3:
                await asyncio.sleep(0.001)
        ended = len(given)
        await asyncio.sleep(0.05)
        return ended

    assert asyncio.run(served()) == len(given)
