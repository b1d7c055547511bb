"""Every room of the page without a browser: what one visitor's browser and session hold, as the handlers are given it."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.experiments import NewProcesses
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
            self.page = Page(pool, NewProcesses(pool.settings), self.visitor, Delivery(self.demo))
            self.rooms = furnish(self.page, self.demo)
        self.compare = self.rooms["compare"]


class Guest:
    """One visitor of a house. `kept` is what the browser keeps of the conversation."""

    def __init__(self, house: House):
        self.house = house
        self.kept: str | None = None
        self.values: dict[Any, Any] = {
            part: getattr(part, "value", None) for part in house.demo.blocks.values() if hasattr(part, "value")
        }
        self.buttons: dict[gr.Button, bool] = {}
        self.leave()
        self.values[house.compare.prompt] = "Hello"

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
                self.kept = value["kept"]
                self.values[part] = {"kept": self.kept}
            elif part is self.house.compare.prompt:
                continue  # the visitor's own words: `ask` sets them
            elif isinstance(value, dict) and value.get("__type__") == "update":
                self.values[part] = value.get("value", self.values.get(part))
                if isinstance(part, gr.Button) and "interactive" in value:
                    self.buttons[part] = value["interactive"]
            else:
                self.values[part] = value
        return update

    def watch(self, updates: Iterator[dict]) -> list[dict]:
        return [self.see(update) for update in updates]

    def ask(self, prompt: str) -> list[dict]:
        self.values[self.house.compare.prompt] = prompt
        return self.watch(self.house.compare._compare(self.values))

    @property
    def session(self) -> Session:
        return self.values[self.house.visitor.session]

    @property
    def prompts(self) -> list[str]:
        return [record.turn.prompt for record in self.session.records]

    @property
    def kept_prompts(self) -> list[str]:
        return [record.turn.prompt for record in Kept.model_validate_json(self.kept).records]
