"""Every room of the page without a browser: what one visitor's browser and session hold, as the handlers are given it."""

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import gradio as gr

from core.ui.delivery import Delivery
from core.ui.page import furnish
from core.ui.room import Page
from core.ui.sidebar import Sidebar
from core.ui.visitor import Kept, Session, Visitor


class House:
    """The whole page over a pool, its rooms by name."""

    def __init__(self, pool):
        with gr.Blocks(analytics_enabled=False) as self.demo:
            self.visitor = Visitor(pool, Sidebar(pool), gr.Tabs())
            self.page = Page(pool, self.visitor, Delivery(self.demo))
            self.rooms = furnish(self.page, self.demo)
        self.compare = self.rooms["compare"]


def event(**data: Any) -> Any:
    """What a handler is told about an event; of gr.EventData they read this alone."""
    return SimpleNamespace(_data=data)


class Guest:
    """One visitor of a house. `kept` is what the browser keeps of the conversation."""

    def __init__(self, house: House):
        self.house = house
        self.kept: str | None = None
        self.values: dict[Any, Any] = {
            part: getattr(part, "value", None) for part in house.demo.blocks.values() if hasattr(part, "value")
        }
        self.leave()

    def leave(self) -> None:
        """The session is lost: it has expired, or the server was started again."""
        self.values[self.house.visitor.session] = Session()
        self.values[self.house.visitor.keeper] = {"kept": self.kept}

    def arrive(self, **brought: Any) -> dict:
        self.values[self.house.visitor.session] = session = Session()
        return self.see(self.house.visitor.arrive(session, {"kept": self.kept, "address": "", **brought}))

    def see(self, update: dict) -> dict:
        for part, value in update.items():
            if part is self.house.visitor.keeper:
                self._keep(value)
            elif isinstance(value, dict) and value.get("__type__") == "update":
                self.values[part] = value.get("value", self.values.get(part))
            else:
                self.values[part] = value
            if part is self.house.compare.answer:
                self._read(value)
        return update

    def watch(self, updates: Iterator[dict]) -> list[dict]:
        return [self.see(update) for update in updates]

    # --- the transcript, as its script does it ------------------------------------------------------------

    def start(self, prompt: str | None = None, at: int | None = None, **asked: Any) -> Generator[dict, None, None]:
        """A turn under way, as the lines that the script reads, each when it comes."""
        at = len(self.kept_prompts) if at is None else at
        with closing(self.house.compare._lines(self.values, event(prompt=prompt, at=at, **asked))) as lines:
            for line in lines:
                yield self._read(json.dumps(line))

    def ask(self, prompt: str, at: int | None = None, **asked: Any) -> dict:
        """How a turn ended."""
        *_, end = self.start(prompt, at, **asked)
        return end

    def retry(self, turn: int, **asked: Any) -> dict:
        *_, end = self.start(at=turn, again=True, **asked)
        return end

    def act(self, do: Any, **data: Any) -> dict:
        return self._read(self.house.compare._act(self.values, event(do=do, **data)))

    def told(self, update: dict) -> dict:
        """What an update tells the script."""
        return json.loads(update[self.house.compare.answer])

    def _read(self, line: str) -> dict:
        told = json.loads(line)
        if "keep" in told:
            self._keep(told["keep"])
        return told

    def _keep(self, order: dict) -> None:
        self.kept = order["kept"]
        self.values[self.house.visitor.keeper] = {"kept": self.kept}

    @property
    def session(self) -> Session:
        return self.values[self.house.visitor.session]

    @property
    def prompts(self) -> list[str]:
        return [record.turn.prompt for record in self.session.records]

    @property
    def kept_prompts(self) -> list[str]:
        return [record.turn.prompt for record in Kept.model_validate_json(self.kept or "{}").records]
