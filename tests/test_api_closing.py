"""The named endpoints: a client that goes frees both slots, and what they tell of the machine is names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import httpx
import pytest
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError

from core.types import DEFAULT_SAMPLING
from tests.scripted import PAIR

ASKED = {"pair": PAIR.id, "prompt": "Count", "sampling": DEFAULT_SAMPLING.model_dump(), "today": "2026-01-31"}


@pytest.fixture
def slow(_scripted_page, monkeypatch):
    """A page whose models write for ten minutes; its address, and the tickets of what they were asked."""
    pool, url = _scripted_page
    pool.say("one two three " * 2000, "one two three " * 2000, pause=0.1)
    tickets = []
    for engine in pool.engines.values():
        submit = engine.submit
        monkeypatch.setattr(
            engine, "submit", lambda *given, submit=submit: tickets.append(submit(*given)) or tickets[-1]
        )
    return url, tickets


@contextmanager
def client(url: str) -> Iterator[Client]:
    client = Client(url, verbose=False)
    try:
        yield client
    finally:
        client.close()


def cancel(job: Job) -> None:
    """Cancel it as somebody would who has seen it begin: until then the client says nothing to the server."""
    deadline = time.monotonic() + 60
    while job.communicator.event_id is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.cancel()


def both(tickets: list, what) -> None:
    deadline = time.monotonic() + 60
    while not (len(tickets) == 2 and all(map(what, tickets))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def stopped(ticket) -> bool:
    return ticket.stopped.is_set()


@pytest.mark.slow
def test_a_client_that_cancels_frees_both_slots(slow):
    url, tickets = slow
    with client(url) as someone:
        job = someone.submit(ASKED, api_name="/compare")
        both(tickets, lambda ticket: True)
        cancel(job)
        both(tickets, stopped)


@pytest.mark.slow
def test_an_experiment_that_is_cancelled_frees_both_slots(slow):
    url, tickets = slow
    with client(url) as someone:
        job = someone.submit("inputs", api_name="/experiment")
        deadline = time.monotonic() + 60
        while not tickets:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        cancel(job)
        while not all(map(stopped, tickets)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("asked, endpoint", [(ASKED, "/compare"), ("inputs", "/experiment")])
def test_a_client_that_cancels_during_the_first_step_frees_both_slots(
    slow, _scripted_page, monkeypatch, asked, endpoint
):
    """Gradio can close only what has answered once; it forgets the rest, and the models went on."""
    url, tickets = slow
    pool, _ = _scripted_page
    opened, began = pool.open, Event()

    def open_slowly(*given, **named):
        began.set()
        time.sleep(2)
        return opened(*given, **named)

    monkeypatch.setattr(pool, "open", open_slowly)
    with client(url) as someone:
        job = someone.submit(asked, api_name=endpoint)
        assert began.wait(60)
        cancel(job)
        time.sleep(4)  # the models are asked meanwhile, or never
        deadline = time.monotonic() + 60
        while not all(map(stopped, tickets)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow
def test_a_client_that_hangs_up_frees_both_slots(slow):
    url, tickets = slow
    event = httpx.post(f"{url}/gradio_api/call/compare", json={"data": [ASKED]}, timeout=60).json()["event_id"]
    with httpx.stream("GET", f"{url}/gradio_api/call/compare/{event}", timeout=60) as answer:
        answered = answer.iter_raw()  # held: an iterator that nobody holds hangs up
        next(answered)
        both(tickets, lambda ticket: True)
        assert not any(map(stopped, tickets))
    both(tickets, stopped)


def test_the_answer_is_one_object(scripted):
    url = scripted("one two three", "four", pause=0.2)
    with client(url) as someone:
        answer = someone.predict(ASKED, api_name="/compare")
    assert (answer["base"]["text"].strip(), answer["post"]["text"].strip()) == ("one two three", "four")
    assert answer["receipt"]["comparison"]["prompt"] == "Count"


def test_pairs_from_folders_are_named_without_their_path(_scripted_page, monkeypatch):
    pool, url = _scripted_page
    folder = PAIR.model_copy(update={"base": "/home/me/models/mine", "post": "owner/theirs@main"})
    monkeypatch.setattr(pool, "pairs", (folder,))
    with client(url) as someone:
        (named,) = someone.predict(api_name="/pairs")
    assert (named["base"], named["post"]) == ("mine", "owner/theirs@main")


@pytest.mark.slow
def test_a_mistake_of_who_asks_is_told_to_them_and_not_to_the_log(scripted, capfd, caplog):
    url = scripted("one", "two")
    mistakes: tuple = (
        ({**ASKED, "sampling": "secret"}, "/compare"),
        ({**ASKED, "prompt": "secret" * 500_000}, "/compare"),
        ({"secret": 1}, "/replay"),
        ("secret", "/experiment"),
    )
    with client(url) as someone:
        for given, endpoint in mistakes:
            with pytest.raises(AppError):
                someone.predict(given, api_name=endpoint)
    logged = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in logged and "secret" not in logged
