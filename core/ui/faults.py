"""What goes wrong while a request is answered: told to whoever asked, and logged without their words.

Gradio prints a traceback for whatever is sent to it that it cannot read, with what was sent. Here only a fault of the
app has one; of the others the log has a line that says where.
"""

import logging
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import gradio
from gradio import queueing, routes
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
_APP, _GRADIO = Path(__file__).parent.parent, Path(gradio.__file__).parent
CANNOT_BE_READ = "This request is none that the page makes, or of another version of it; load the page again."
FAULT = "Something went wrong in the app; nothing that you had was lost, so try once more."


class Faults:
    """ASGI middleware around all else. An answer that has begun when something goes wrong ends there."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def send_and_know(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_know)
        except ClientDisconnect:  # whoever asked broke off, and nobody waits for an answer
            return
        except Exception as error:
            status, sentence = (500, FAULT) if report(error) else (400, CANNOT_BE_READ)
            if begun:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await JSONResponse({"detail": sentence}, status)(scope, receive, send)


def report(error: BaseException | None) -> bool:
    """Log an error. Returns whether it is the app's own: raised by it, or by what it called."""
    assert error is not None
    while error.__cause__ is not None:  # what others made of it says less
        error = error.__cause__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(_GRADIO):
            log.warning(
                "not answered: %s at gradio/%s:%s", type(error).__name__, file.relative_to(_GRADIO), frame.lineno
            )
            return False
        if file.is_relative_to(_APP):
            break
    log.error("a request failed", exc_info=error)
    return True


def speak_of_faults() -> None:
    """From now on Gradio logs what it would have printed."""
    told = SimpleNamespace(print_exc=lambda: report(sys.exc_info()[1]))
    for module in (queueing, routes):
        assert hasattr(module, "traceback"), f"Gradio prints its errors in another way now: {module.__name__}"
        vars(module)["traceback"] = told
