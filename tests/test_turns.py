"""Whose turn it is: a class behind one router, somebody who asks for everything, and whoever comes last."""

from types import SimpleNamespace

import httpx
import pytest
from gradio.queueing import Event
from starlette.exceptions import HTTPException

from core.settings import Settings
from core.turns import Who, asking, in_turn
from core.ui import line, page, requests
from tests import browser as chromium
from tests.scripted import ScriptedPool
from tests.test_api_closing import ASKED, client

CLASS = [Who("router", f"pupil {number}") for number in range(40)]
FLOOD = [Who("flood", f"session {number}") for number in range(300)]


def served(waiting: list[Who], slots: int = 4) -> list[Who]:
    """In which order they are served, each as long as the others."""
    order: list[Who] = []
    while waiting:
        turn: list[Who] = []
        while waiting and len(turn) < slots:
            turn.append(in_turn(waiting, turn, lambda who: who)[0])
            waiting.remove(turn[-1])
        order += turn
    return order


def test_a_class_behind_one_router_gets_through_though_somebody_asks_for_everything():
    order = served([*FLOOD, *CLASS])
    done = order.index(CLASS[-1])
    assert set(CLASS) <= set(order[: done + 1]) and done < 2 * len(CLASS) + 4
    assert [who for who in order if who in CLASS] == CLASS, "in the order in which they came"


def test_whoever_comes_last_from_elsewhere_goes_next():
    newcomer = Who("elsewhere", "one")
    assert in_turn([*FLOOD, *CLASS, newcomer], FLOOD[:4] + CLASS[:4], lambda who: who)[0] is newcomer


def test_one_of_a_class_who_asks_for_everything_does_not_stop_the_others():
    greedy = [Who("router", "greedy")] * 50
    order = served([*greedy, *CLASS])
    assert max(order.index(pupil) for pupil in CLASS) < 2 * len(CLASS)


@pytest.fixture(scope="module")
def demo():
    return page.build(ScriptedPool())


@pytest.fixture
def queue(demo):
    """A line of the page as it is built, with nobody in it."""
    line_of_models = demo._queue.event_queue_per_concurrency_id["models"].queue
    assert isinstance(line_of_models, line.Line)
    list.clear(line_of_models)
    return demo._queue, line_of_models


def event(demo, who: Who, **headers: str) -> Event:
    fn = next(fn for fn in demo.fns.values() if fn.api_name == "compare")
    request = SimpleNamespace(headers=headers, client=SimpleNamespace(host=who.address))
    return Event(who.session, fn, request, None)


def test_the_page_takes_the_first_in_turn_and_a_session_has_so_many_places(demo, queue):
    gradio, waiting = queue
    for _ in range(line.MAX_OF_SESSION):
        waiting.append(event(demo, FLOOD[0]))
    last = event(demo, CLASS[0])
    waiting.append(last)
    assert waiting[1] is last and gradio.get_events()[0] != [last]
    assert gradio.get_events()[0] == [last]
    waiting.append(event(demo, FLOOD[0]))
    over = event(demo, FLOOD[0])
    with pytest.raises(HTTPException, match="wait until one has ended"):
        waiting.append(over)
    assert over not in list(waiting) and over._id not in gradio.event_ids_to_events


def test_where_all_places_are_taken_who_has_the_most_gives_up_one(demo, queue):
    gradio, waiting = queue
    flood = [event(demo, who) for who in FLOOD[: line.MAX_WAITING]]
    for each in flood:
        waiting.append(each)
    heard: list = []
    gradio.pending_messages_per_session[flood[-1].session_hash] = SimpleNamespace(put_nowait=heard.append)
    newcomer = event(demo, CLASS[0])
    waiting.append(newcomer)
    assert newcomer in list(waiting) and flood[-1] not in list(waiting) and len(waiting) == line.MAX_WAITING
    assert heard[0].output == {"error": line.FULL}
    with pytest.raises(HTTPException, match="Too many people"):
        waiting.append(event(demo, FLOOD[-1]))


def test_an_address_is_the_connections_unless_the_operator_names_the_header_of_a_proxy(demo):
    request = event(demo, Who("10.0.0.1", "x"), **{"x-forwarded-for": "6.6.6.6, 7.7.7.7"}).request
    assert requests.address(request, "") == "10.0.0.1"
    assert requests.address(request, "x-forwarded-for") == "7.7.7.7", "what comes before it anybody can write"
    assert requests.address(request, "x-real-ip") == "10.0.0.1"


@pytest.mark.slow
def test_what_asks_the_models_knows_for_whom(_scripted_page, monkeypatch):
    pool, url = _scripted_page
    pool.say("one", "two")
    asked = []
    for engine in pool.engines.values():
        submit = engine.submit
        monkeypatch.setattr(
            engine, "submit", lambda *given, submit=submit: asked.append(asking.get()) or submit(*given)
        )
    with client(url) as someone:
        someone.predict(ASKED, api_name="/compare")
    headers = {"X-Forwarded-For": "6.6.6.6"}
    event_id = httpx.post(f"{url}/gradio_api/call/compare", json={"data": [ASKED]}, headers=headers).json()["event_id"]
    assert "complete" in httpx.get(f"{url}/gradio_api/call/compare/{event_id}", timeout=60).text
    assert {who.address for who in asked} == {"127.0.0.1"} and len({who.session for who in asked}) == 2


@pytest.mark.slow
def test_forty_pupils_behind_one_router_are_served_while_somebody_floods_the_page(monkeypatch):
    pool = ScriptedPool("one", "two")
    pool.settings = Settings(address_header="X-Forwarded-For")
    order: list[str] = []
    submit = pool.engines["base"].submit
    monkeypatch.setattr(
        pool.engines["base"], "submit", lambda *given: order.append(asking.get().address) or submit(*given)
    )
    demo, url = chromium.launch(pool)
    models = demo._queue.event_queue_per_concurrency_id["models"]
    models.concurrency_limit = 0  # until all of them wait
    try:
        with httpx.Client(base_url=url, timeout=60) as someone:

            def ask(address: str) -> str:
                answer = someone.post(
                    "/gradio_api/call/compare", json={"data": [ASKED]}, headers={"X-Forwarded-For": address}
                )
                return answer.json()["event_id"]

            for _ in range(60):
                ask("flood")
            pupils = [ask("router") for _ in range(40)]
            models.concurrency_limit = 8
            for each in pupils:
                assert '"comparison"' in someone.get(f"/gradio_api/call/compare/{each}").text
    finally:
        demo.close(verbose=False)
    last = max(at for at, address in enumerate(order) if address == "router")
    assert order[: last + 1].count("router") == 40
    assert last < 2 * 40 + 8, "turn and turn about, though all of the others were first"
