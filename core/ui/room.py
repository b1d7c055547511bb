"""What a room of the page is given, and the settings that the events of all rooms share.

A room is a folder beside this file: `tab` has its widgets, `session` what happens there as plain generators of
views, `render` makes HTML of values. page.py lists the rooms; none of them knows that there are others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..experiments import Experiment
from ..pool import Pool

if TYPE_CHECKING:
    from .delivery import Delivery
    from .visitor import Visitor

Values = dict[Any, Any]  # a part of the page -> what it holds
Update = dict[Any, Any]  # a part of the page -> what it becomes

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# One limit for everything that asks the models.
MODELS: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 128}


@dataclass(frozen=True)
class Page:
    """What all rooms share. `lesson` is the experiment that the page opens on, if any."""

    pool: Pool
    visitor: "Visitor"
    delivery: "Delivery"
    lesson: Experiment | None = None


# A dropdown's choices and a slider's bounds come and go with the session, and Gradio refuses what is not among those
# that the server remembers of it; a session that was lost remembers none. So both take what the browser says, and whoever
# reads them checks that. (They are not subclasses: Gradio writes a .pyi file beside each of those.)


def dropdown(label: str, id: str, choices: Sequence[Any] = (), **properties: Any) -> gr.Dropdown:
    widget = gr.Dropdown(list(choices), label=label, elem_id=id, filterable=False, **properties)
    widget.preprocess = _as_it_is  # type: ignore[method-assign]
    return widget


def slider(label: str, id: str, low: float, high: float, value: float, step: float) -> gr.Slider:
    widget = gr.Slider(low, high, value, step=step, label=label, elem_id=id, buttons=["reset"])
    widget.preprocess = _as_it_is  # type: ignore[method-assign]
    return widget


def number(label: str, id: str, value: int, **properties: Any) -> gr.Number:
    """Gradio would run 1.7 as 2; it is refused in a sentence instead, as everything is that is out of bounds."""
    widget = gr.Number(value, label=label, elem_id=id, **properties)
    widget.preprocess = _as_it_is  # type: ignore[method-assign]
    return widget


def usable(buttons: Sequence[gr.Button], can: bool) -> Update:
    """Whether these can be pressed. Beside one that cannot stands a sentence that says why."""
    return dict.fromkeys(buttons, gr.update(interactive=can))


def _as_it_is(payload: Any) -> Any:
    return payload
