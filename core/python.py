"""From Python, in a notebook too: a comparison with the models of this process, and the page over the same models.

`core/__init__.py` hands these out. Models stay in memory until the process ends.
"""

import atexit
import html
from functools import cache
from typing import TYPE_CHECKING

from . import export, receipts
from . import settings as configuration

configuration.quieten()  # before the libraries that read the environment

from . import run  # noqa: E402
from .cli.terminal import Saying  # noqa: E402
from .hub import HuggingFaceHub  # noqa: E402
from .pairs import check_paths  # noqa: E402
from .pool import Pool  # noqa: E402
from .settings import Settings  # noqa: E402
from .types import SIDE_NAMES, SIDES, Answer, Comparison, Side  # noqa: E402

if TYPE_CHECKING:
    from gradio import Blocks

_DEFAULT = Settings()


class Shown(Answer):
    """An Answer that shows itself as HTML in a notebook."""

    def _repr_html_(self) -> str:
        columns = "".join(map(self._column, SIDES))
        return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{columns}</div><small>{html.escape(export.settings(self.comparison))}</small>"

    def _column(self, side: Side) -> str:
        found = self.side(side)
        thought = f"<details><summary>Reasoning</summary>{_text(found.reasoning)}</details>" if found.reasoning else ""
        name = html.escape(f"{SIDE_NAMES[side].capitalize()}: {found.checkpoint.name}")
        return f"<div style='flex:1 1 20em;text-align:left'><b>{name}</b>{thought}{_text(found.text)}</div>"


def compare(comparison: Comparison, settings: Settings = _DEFAULT) -> Shown:
    """Run a comparison with the models of this machine. They are loaded by the first one, and downloaded if need be.

    Args:
        settings: how they run; comparisons under equal settings share them.

    Raises:
        UserError: it cannot be run, or a side failed.
    """
    with Saying() as progress:
        lease = _models(settings).wait(comparison.pair, progress)
    with lease:
        return Shown.model_construct(**dict(receipts.answer(run.compare(lease, comparison))))


def serve(settings: Settings = _DEFAULT) -> "Blocks":
    """Serve the page until this process ends, over the models that `compare` asks under the same settings.

    Returns:
        Gradio's own object, of which `local_url` and `share_url` are the addresses and `close()` ends it.

    Raises:
        UserError: a model that the settings name is not there.
    """
    from .ui import page

    pool = _models(settings)
    pool.start_loading(pool.default.id)
    demo = page.build(pool)
    page.launch(demo, settings, prevent_thread_lock=True, inline=False)
    return demo


@cache
def _models(settings: Settings) -> Pool:
    check_paths(settings)
    pool = Pool(settings, HuggingFaceHub())
    atexit.register(pool.close, wait=False)
    return pool


def _text(text: str) -> str:
    return f"<div style='white-space:pre-wrap'>{html.escape(text)}</div>"
