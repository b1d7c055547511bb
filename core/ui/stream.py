"""Lines on their way into the page while something is done for it: in the event stream that it reads anyway, past all that Gradio does with a value.

Gradio makes every view of a handler an output: it is looked up, compared with the one before, and set again in the browser.
Here a line stands between Gradio's own messages, and connection.js takes it out of the stream and hands it to the script that draws it.
Whose stream it is, and whether they are logged in, is known as for every other message of it.
"""

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from gradio.queueing import Event, Queue
from pydantic import BaseModel

_MOST = 2  # lines of a reply that lie here, before its page is told less often


class Told(BaseModel):
    """As Gradio's own messages are; their names are an enumeration, in which this one is not."""

    msg: str = "told"
    line: dict[str, Any]


class Stream:
    """The way to the page for which an event is done; from any thread."""

    def __init__(self, queue: Queue, event: Event):
        self._queue, self._event = queue, event
        self._loop = asyncio.get_running_loop()

    @property
    def is_behind(self) -> bool:
        """Whether the page reads so slowly that the next line should wait, and hold all that is new until then."""
        messages = self._messages
        return self._event.alive and messages is not None and messages.qsize() > _MOST

    def tell(self, line: dict[str, Any]) -> bool:
        """False where nobody reads any more: what is done for them should end."""
        with suppress(RuntimeError):  # the loop is closed, and the server with it
            self._loop.call_soon_threadsafe(self._put, Told.model_construct(line=line))
            return self._event.alive
        return False

    def _put(self, told: Any) -> None:
        if self._event.alive and (messages := self._messages) is not None:
            messages.put_nowait(told)

    @property
    def _messages(self) -> Any:
        return self._queue.pending_messages_per_session.get(self._event.session_hash)


stream: ContextVar[Stream | None] = ContextVar("stream", default=None)  # of whoever asks for what this thread does
