"""Files and links on their way into the browser: packed by a handler, handed out by delivery.js in the same click."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from .. import links, receipts
from ..errors import UserError
from ..links import Shared
from ..types import Receipt
from . import markup
from .room import QUIET, Update, Values

Parcel = dict[str, str]  # what delivery.js is told
Pack = Callable[
    [Values, Any], tuple[Parcel, str]
]  # values, event data -> a parcel, and a sentence about it; raises UserError


def file(name: str, type: str, text: str) -> tuple[Parcel, str]:
    return {"kind": "file", "name": name, "type": type, "text": text}, f"Saved as {name}."


def receipt(written: Receipt) -> tuple[Parcel, str]:
    return file(receipts.file_name(written), "application/json", receipts.write(written))


class Delivery:
    """Stores nothing: a parcel exists while it is on its way."""

    def __init__(self, demo: gr.Blocks):
        self.demo = demo
        self.outbox = gr.Textbox(visible=False)

    def link(self, shared: Shared, what: str) -> tuple[Parcel, str]:
        """The link to `what`.

        Raises:
            UserError: it is too long for a link.
        """
        fitting = links.fitting(shared)
        fragment = links.encode(fitting)
        parcel = self.fragment(fragment)
        said = f"The link of {what} is copied ({len(fragment):,} characters behind the address)"
        if fitting == shared:
            return (
                parcel,
                f"{said}; whoever opens it sees these replies, can run them and is told whether they are the same.",
            )
        return (
            parcel,
            f"{said}. The replies are too long for a link and are not in it; whoever opens it can run the comparison and is told whether they are the same.",
        )

    def fragment(self, text: str) -> Parcel:
        """What is copied as an address of this page that ends in `text`."""
        return {"kind": "link", "fragment": text, "public": getattr(self.demo, "share_url", None) or ""}

    def on(self, listener: Any, pack: Pack, inputs: set[Any], notice: gr.HTML) -> None:
        """Hand out what `pack` makes of the inputs; a mistake is a sentence in `notice` and nothing else."""

        def packed(values: Values, event: gr.EventData) -> Update:
            try:
                parcel, said = pack(values, event._data)
            except UserError as error:
                return {self.outbox: "", notice: markup.notice(str(error), "error")}
            return {self.outbox: json.dumps(parcel), notice: markup.notice(said)}

        sent = listener(packed, inputs, [self.outbox, notice], queue=False, **QUIET)
        sent.then(None, self.outbox, None, js="(parcel) => window.sameSeed.deliver(parcel)")
