"""What a room of the page is given, and the settings that the events of all rooms share.

A room is a folder beside this file: `tab` has its widgets, `session` what happens there as plain generators of
views, `render` makes HTML of values. page.py lists the rooms; none of them knows that there are others.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from ..experiments import Experiment, NewProcesses
from ..pool import Pool

if TYPE_CHECKING:
    from .delivery import Delivery
    from .visitor import Visitor

W = TypeVar("W", gr.Dropdown, gr.Slider)
Values = dict[Any, Any]  # a part of the page -> what it holds
Update = dict[Any, Any]  # a part of the page -> what it becomes

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# One limit for everything that asks the models.
MODELS: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 64}


@dataclass(frozen=True)
class Page:
    """What all rooms share. `lesson` is the experiment that the page opens on, if any."""

    pool: Pool
    processes: NewProcesses
    visitor: "Visitor"
    delivery: "Delivery"
    lesson: Experiment | None = None


def unchecked(widget: W) -> W:
    """A dropdown or slider that takes what the browser says; whoever reads it checks that.

    Gradio refuses what is not among the choices (or bounds) that the server remembers of a widget, and a session that
    was lost remembers none of those that came later. (Not a subclass: Gradio writes a .pyi file beside each of them.)
    """
    widget.preprocess = _as_it_is  # type: ignore[method-assign]
    return widget


def _as_it_is(payload: Any) -> Any:
    return payload
