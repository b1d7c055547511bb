"""What the server holds of its visitors: a stranger with a fresh session for every request, and a visitor who is forgotten."""

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import gradio as gr
import httpx
import pytest
from gradio import routes
from gradio.state_holder import SessionState

from core.links import Shared
from core.ui import sessions
from core.ui.visitor import Kept, Opened
from tests import browser as chromium
from tests.scripted import PAIR, ScriptedPool
from tests.test_api_closing import ASKED
from tests.test_leaks import megabytes
from tests.values import COMPARISON


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[gr.Blocks, str]]:
    with chromium.launched(ScriptedPool("a base reply", "a post-trained reply")) as page:
        yield page


@pytest.fixture
def holder(page) -> Iterator[sessions.Sessions]:
    demo, _ = page
    holder = demo.state_holder
    assert isinstance(holder, sessions.Sessions)
    holder.session_data.clear()
    yield holder
    holder.session_data.clear()


def until(what) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def arrive(demo, url: str, session: str, kept: str) -> None:
    """A page is opened in a browser that kept this."""
    event = next(fn for fn in demo.fns.values() if fn.name == "arrive")
    body = {"fn_index": event._id, "data": [None, {"kept": kept}], "session_hash": session}
    assert httpx.post(f"{url}/gradio_api/run/predict", json=body, timeout=60).status_code == 200


def ask_something(demo, url: str, session: str, kept: str) -> None:
    """An event that takes what the browser keeps, and tells the browser to keep nothing else."""
    event = next(fn for fn in demo.fns.values() if fn.name == "packed")
    data = [{"kept": kept} if part.elem_id == "keeper" else None for part in event.inputs]
    body = {"fn_index": event._id, "data": data, "event_data": {}, "session_hash": session}
    assert httpx.post(f"{url}/gradio_api/run/predict", json=body, timeout=60).status_code == 200


def a_conversation(characters: int) -> str:
    """One that was shared, as a browser keeps it."""
    comparison = COMPARISON.model_copy(update={"pair": PAIR.id, "prompt": "x" * characters})
    return Kept(opened=Opened(shared=Shared(comparison=comparison), source="link")).model_dump_json()


def test_a_session_has_all_that_gradio_needs_of_one_and_no_copy_of_the_page(page):
    demo, _ = page
    own, gradios = sessions.Held(demo), SessionState(demo)
    assert set(vars(own)) - {"_bytes"} == set(vars(gradios))
    assert own.blocks_config.blocks.keys() == gradios.blocks_config.blocks.keys()
    assert list(own.components) == []


def test_what_is_sent_under_fresh_sessions_is_not_kept(page, holder):
    """7.5 MB stayed for each of them, and 0.2 MB of the page itself."""
    demo, url = page
    ask_something(demo, url, "first", "{")
    before = megabytes()
    for number in range(10):
        ask_something(demo, url, f"stranger {number}", "{" + "x" * 3_000_000)
    assert len(holder.session_data) == 11
    assert megabytes() - before < 15 and holder.bytes_held < 10_000


@pytest.mark.slow
def test_sessions_have_an_end_in_number_and_in_bytes_and_those_for_whom_something_is_done_stay(
    page, holder, monkeypatch
):
    demo, url = page
    for number in range(6):
        arrive(demo, url, f"visitor {number}", a_conversation(100_000))
    assert 600_000 < holder.bytes_held < 700_000
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 4)
    until(lambda: list(holder.session_data) == [f"visitor {number}" for number in range(2, 6)])
    monkeypatch.setattr(holder.blocks._queue, "event_ids_to_events", {"event": gr.State})
    monkeypatch.setattr(gr.State, "session_hash", "visitor 2", raising=False)
    monkeypatch.setattr(sessions, "MAX_BYTES", 250_000)
    until(lambda: list(holder.session_data) == ["visitor 2", "visitor 5"])
    monkeypatch.undo()
    holder.time_last_used["visitor 2"] = datetime.now() - timedelta(seconds=sessions.SECONDS_IDLE + 1)
    until(lambda: list(holder.session_data) == ["visitor 5"])
    assert holder.time_last_used.keys() >= {"visitor 5"} and "visitor 2" not in holder.time_last_used


def test_results_for_which_nobody_comes_go_and_those_that_are_read_stay(page, monkeypatch):
    demo, url = page
    queue = demo._queue
    monkeypatch.setattr(sessions, "MAX_UNREAD", 3)
    monkeypatch.setattr(sessions, "SECONDS_UNREAD", 0.5)
    number = next(fn for fn in demo.fns.values() if fn.api_name == "compare")._id
    for each in range(6):
        body = {"fn_index": number, "data": [ASKED], "session_hash": f"nobody {each}"}
        assert httpx.post(f"{url}/gradio_api/queue/join", json=body).status_code == 200
    until(lambda: len(queue.pending_messages_per_session) == 3 and not queue.event_ids_to_events)
    until(lambda: set(queue.pending_event_ids_session) == set(queue.pending_messages_per_session))
    last = "nobody 5"
    answer = httpx.get(f"{url}/gradio_api/queue/data", params={"session_hash": last}, timeout=60).text
    assert "a post-trained reply" in answer and json.loads(answer.split("data: ")[-1])["msg"] == "close_stream"


def test_uploads_that_nobody_watches_are_not_remembered(page, holder):
    demo, _ = page
    statuses = routes.file_upload_statuses
    for each in range(sessions._MAX_UPLOADS + 6):
        statuses.track(f"upload {each}")
    holder._forget_what_has_ended(demo._queue)
    assert len(statuses._statuses) == len(statuses._signals) == sessions._MAX_UPLOADS
    assert f"upload {sessions._MAX_UPLOADS + 5}" in statuses._statuses
