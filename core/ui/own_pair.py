"""The form for a pair of one's own, on a page where that is allowed: both models are loaded, then the pair is one of the list.

Whoever brings a model makes this machine read its folders and download from the Hub, so a page that strangers can
reach has neither the form nor the event behind it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ..errors import UserError
from ..pairs import Pair, own_pair
from ..pool import Pool
from ..steps import watch
from . import markup
from .room import MODELS, QUIET, Update
from .security_headers import asked_here


class OwnPair:
    """Builds the form inside the current Blocks. `choose` says what the page becomes once a pair is there."""

    def __init__(self, pool: Pool, choose: Callable[[Pair], Update]):
        self.pool, self._choose = pool, choose
        with gr.Accordion("Your own pair", open=False, elem_id="own"):
            gr.HTML(
                "<p>Each is a folder or a GGUF file on this machine, a Hub id (owner/name, owner/name@revision or owner/name/file.gguf), or a PEFT adapter.</p>"
            )
            self.base = gr.Textbox(label="Base model", max_lines=1, elem_id="own_base")
            self.post = gr.Textbox(label="Post-trained model", max_lines=1, elem_id="own_post")
            self.button = gr.Button("Load this pair", elem_id="own_load", size="sm")
            self.notice = gr.HTML(markup.notice(""), elem_id="own_notice")

    def connect(self, outputs: list[Any]) -> None:
        given = [self.base, self.post]
        gr.on(
            [self.button.click, self.base.submit, self.post.submit],
            self._bring,
            given,
            [self.notice, *outputs],
            trigger_mode="once",
            **MODELS,
            **QUIET,
        )

    def _bring(self, base: str, post: str, request: gr.Request) -> Iterator[Update]:
        try:
            self._check(request)
            pair = own_pair(base, post)
            loading = watch(self.pool.bring(pair), lambda progress: self._said(str(progress)))
            with (yield from loading):
                self.pool.add(pair)
                yield self._said(f"{pair.title} are loaded and chosen.") | self._choose(pair)
        except UserError as error:
            yield self._said(str(error), "error")

    def _check(self, request: gr.Request) -> None:
        """Raises UserError for a stranger: they can get as far as this where a proxy speaks to a loopback address."""
        if self.pool.settings.own_pairs == "local" and not asked_here(request.headers):
            raise UserError(
                "Only who sits at this machine may bring models here; the operator can allow everyone with --own-pairs everyone."
            )

    def _said(self, text: str, tone: str = "info") -> Update:
        return {self.notice: markup.notice(text, tone)}
