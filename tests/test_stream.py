"""A running reply in the event stream of the page that asked for it: whole, in order, bounded, and over when nobody reads any more."""

import asyncio
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from benchmarks.page import asking
from core.ui.stream import Stream
from tests import browser as chromium
from tests.scripted import ScriptedPool, Ticket


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ScriptedPool, str]]:
    pool: Any = ScriptedPool()
    with chromium.served(pool) as url:
        yield pool, url


def join(url: str, session: str, prompt: str) -> None:
    asked = asking(url, "transcript", "ask", {"prompt": prompt, "at": 0})
    answer = httpx.post(f"{url}/gradio_api/queue/join", json={**asked, "session_hash": session}, timeout=60)
    assert answer.status_code == 200, answer.text


def messages(url: str, session: str) -> Generator[dict, None, None]:
    """What comes in the stream of a session, until a reply is over."""
    path = f"{url}/gradio_api/queue/data?session_hash={session}"
    with httpx.Client(timeout=60) as client, client.stream("GET", path) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield (message := json.loads(line.removeprefix("data: ")))
                if message["msg"] == "process_completed":
                    return


def test_a_reply_is_told_line_by_line_and_gradio_carries_nothing_of_it(served):
    pool, url = served
    pool.say("word " * 40, "**word** " * 40, pause=0.01)
    join(url, "whole", "Hello & so on")
    *before, over = messages(url, "whole")
    assert (over["msg"], over["success"], over["output"]["data"]) == ("process_completed", True, [])
    lines = [message["line"] for message in before if message["msg"] == "told"]
    assert "Hello &amp; so on" in lines[0]["row"] and "end" in lines[-1] and len(lines) > 4
    assert ("word " * 40).startswith("".join(line.get("base", "") for line in lines))
    assert not any(message["msg"] == "process_generating" for message in before)


def test_each_page_is_told_of_its_own_reply_alone(served):
    pool, url = served
    pool.say("word " * 40, "word " * 40, pause=0.01)
    for name in ("one", "two"):
        join(url, name, f"The prompt of {name}")
    for name, other in (("one", "two"), ("two", "one")):
        said = json.dumps(list(messages(url, name)))
        assert f"The prompt of {name}" in said and f"The prompt of {other}" not in said


def test_a_page_that_is_closed_in_mid_reply_ends_both_replies(served, monkeypatch):
    pool, url = served
    stopped = threading.Semaphore(0)
    cancel = Ticket.cancel
    monkeypatch.setattr(Ticket, "cancel", lambda ticket: (cancel(ticket), stopped.release()))
    pool.say("word " * 5000, "word " * 5000, pause=0.01)
    join(url, "closed", "Hello")
    with closing(messages(url, "closed")) as stream:
        next(message for message in stream if message["msg"] == "told" and "base" in message["line"])
    assert stopped.acquire(timeout=30) and stopped.acquire(timeout=30)


def test_what_lies_here_for_a_page_that_does_not_read_is_bounded_and_told_when_it_does():
    async def read() -> None:
        event: Any = SimpleNamespace(alive=True, session_hash="s")
        mine, others = asyncio.Queue[Any](), asyncio.Queue[Any]()
        queue: Any = SimpleNamespace(pending_messages_per_session={"s": mine, "t": others})
        stream, told = Stream(queue, event), 0
        while not stream.is_behind and told < 100:
            assert stream.tell({"turn": told})
            told += 1
            await asyncio.sleep(0)
        assert 1 < told < 10 and others.empty()
        assert [(await mine.get()).line["turn"] for _ in range(told)] == list(range(told)) and not stream.is_behind
        event.alive = False
        assert not stream.tell({"turn": told}) and not stream.is_behind
        await asyncio.sleep(0)
        assert mine.empty()

    asyncio.run(read())


def test_a_server_that_is_gone_is_told_nothing():
    async def make() -> Stream:
        queue: Any = SimpleNamespace(pending_messages_per_session={})
        event: Any = SimpleNamespace(alive=True, session_hash="s")
        return Stream(queue, event)

    assert not asyncio.run(make()).tell({"turn": 0})
