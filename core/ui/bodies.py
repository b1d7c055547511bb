"""How much may be sent: bytes of requests that are held at once, of all and of one address, and what of uploads lies on the disk.

A request that is small is never refused, so those who only press something notice nothing of one who sends much.
"""

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from typing import Any

from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .requests import MAX_BODY_BYTES, address, declared

SMALL = 65_536  # bytes of a request that is not counted
MAX_BYTES = 256_000_000  # of requests that are being read or answered
MAX_OF_ADDRESS = 64_000_000  # of them; and of its uploads that are still here
MAX_ON_DISK = 256_000_000
SECONDS_ON_DISK = 600.0  # a receipt that is dropped on the page is read at once
PERIOD = 60.0  # seconds between two sweeps
_BLOCK = 4096  # bytes that a file or a folder takes at least
_PREFIX = "same-seed-"
LARGE = (
    f"That is more than {MAX_BODY_BYTES:,} bytes, and nobody has to send so much; start a new chat, or take turns away."
)
MUCH = "Too much is being sent here at the moment; ask again in a minute."
NO_ROOM = "There is no room for files here at the moment; drop it again in ten minutes, or use the command line."


class Bodies:
    """ASGI middleware. `header` is as in `requests.address`."""

    def __init__(self, app: ASGIApp, header: str):
        self.app, self.header = app, header
        self.held = Counter[str]()  # address -> bytes
        self.uploads: deque[tuple[float, str, int]] = deque()  # those that may still be here: since when, whose, bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        size, who = declared(Headers(scope=scope)), address(HTTPConnection(scope), self.header)
        refused = self._refused(size, who)
        if not refused and scope["path"].rstrip("/").endswith("/gradio_api/upload"):
            refused = await self._no_room(Path(scope["app"].uploaded_file_dir), size, who)
        if refused:
            status, sentence = refused
            await JSONResponse({"detail": sentence}, status, {"connection": "close"})(scope, receive, send)
            return
        self.held[who] += size
        try:
            await self.app(scope, receive, send)
        finally:
            self.held[who] -= size
            if not self.held[who]:
                del self.held[who]

    def _refused(self, size: int, who: str) -> tuple[int, str] | None:
        if size > MAX_BODY_BYTES:
            return 413, LARGE
        full = self.held[who] + size > MAX_OF_ADDRESS or self.held.total() + size > MAX_BYTES
        return (429, MUCH) if full and size > SMALL else None

    async def _no_room(self, folder: Path, size: int, who: str) -> tuple[int, str] | None:
        now = monotonic()
        while self.uploads and now - self.uploads[0][0] > SECONDS_ON_DISK + PERIOD:
            self.uploads.popleft()
        own = sum(each for _, whose, each in self.uploads if whose == who)
        coming = self.held.total() + size
        if own + size > MAX_OF_ADDRESS or await asyncio.to_thread(on_disk, folder) + coming > MAX_ON_DISK:
            return 429, NO_ROOM
        self.uploads.append((now, who, max(size, _BLOCK)))
        return None


def on_disk(folder: Path) -> int:
    """Bytes that lie in a folder, as a disk counts them."""
    total = 0
    for parent, _, files in os.walk(folder):
        total += _BLOCK
        for file in files:
            with suppress(OSError):
                total += max(_BLOCK, (Path(parent) / file).lstat().st_size)
    return total


def sweep(folder: Path) -> None:
    """Remove what was uploaded a while ago, whole or broken off, and in folders beside this one what a process left that is gone."""
    latest = time() - SECONDS_ON_DISK
    for place in folder.parent.glob(f"{_PREFIX}*"):
        for parent, _, files in os.walk(place, topdown=False):
            for file in (Path(parent) / name for name in files):
                with suppress(OSError):
                    if file.lstat().st_mtime < latest:
                        file.unlink()
            with suppress(OSError):  # it is not empty, or somebody else's
                if Path(parent) != folder and Path(parent).stat().st_mtime < latest:
                    Path(parent).rmdir()


@asynccontextmanager
async def uploads(app: Any) -> AsyncIterator[None]:
    """While the server runs: uploads have a folder of its own, in which nothing gets old."""
    above = Path(get_upload_folder())
    above.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=_PREFIX, dir=above, ignore_cleanup_errors=True) as name:
        app.uploaded_file_dir = name
        sweeping = asyncio.create_task(_sweep_for_ever(app, Path(name)))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping


async def _sweep_for_ever(app: Any, folder: Path) -> None:
    while True:
        await asyncio.to_thread(sweep, folder)
        named = app.get_blocks().upload_file_set
        named -= {file for file in named if not Path(file).exists()}
        await asyncio.sleep(PERIOD)
