"""Memory that nothing uses any more goes back to the system, once a minute.

Replies are written and prompts are built on dozens of threads, and glibc keeps what they free in as many places as there are
threads, in the hope that it is needed again.
"""

import asyncio
import ctypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PERIOD = 60.0  # seconds


def give_back() -> None:
    """What glibc has and nothing uses (malloc_trim(3)); other allocators have no such call, and need none."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@asynccontextmanager
async def returned() -> AsyncIterator[None]:
    """While the server runs, on a thread of its own: it takes some hundredths of a second."""

    async def for_ever() -> None:
        while True:
            await asyncio.sleep(PERIOD)
            await asyncio.to_thread(give_back)

    giving_back = asyncio.create_task(for_ever())
    yield
    giving_back.cancel()
    with suppress(asyncio.CancelledError):
        await giving_back
