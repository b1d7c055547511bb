"""A page with passwords: what one login began is no other's, guesses become slow, and no other page can ask or log out."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import httpx
import pytest
from gradio_client import Client
from playwright.sync_api import expect

from core.types import DEFAULT_SAMPLING
from core.ui import logins
from core.ui.security_headers import is_own_origin
from tests.browser import ask as ask_in_page
from tests.browser import served as page_over
from tests.scripted import PAIR, ScriptedPool

USERS = (("ann", "secret of ann"), ("bob", "secret of bob"))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ScriptedPool, str]]:
    pool = ScriptedPool()
    with page_over(pool, auth=USERS) as url:
        yield pool, url


def login(url: str, user: str, password: str | None = None) -> httpx.Client:
    client = httpx.Client(base_url=url, timeout=60)
    data = {"username": user, "password": password or f"secret of {user}"}
    client.post("/login", data=data)
    return client


@pytest.fixture
def ann_and_bob(served):
    _, url = served
    with closing(login(url, "ann")) as ann, closing(login(url, "bob")) as bob:
        yield ann, bob


ASKED = {"pair": PAIR.id, "prompt": "Hi", "sampling": DEFAULT_SAMPLING.model_dump(), "today": "2026-01-31"}


def ask(client: httpx.Client, session: str) -> dict:
    """A comparison that is begun, as /cancel names it."""
    events = client.get("/config").json()["dependencies"]
    number = next(each["id"] for each in events if each["api_name"] == "compare")
    body = {"fn_index": number, "data": [ASKED], "session_hash": session}
    event = client.post("/gradio_api/queue/join", json=body).json()["event_id"]
    return {"fn_index": number, "session_hash": session, "event_id": event}


def stream(client: httpx.Client, session: str) -> str:
    """What the stream of a session says, as far as it goes: Gradio breaks off that of one that is not there."""
    said = b""
    with (
        suppress(httpx.RemoteProtocolError),
        client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer,
    ):
        for part in answer.iter_bytes():
            said += part
    return said.decode()


def test_a_stream_is_read_by_the_login_that_began_it_alone(served, ann_and_bob):
    pool, _ = served
    pool.say("the reply of ann", "the reply of ann")
    ann, bob = ann_and_bob
    ask(ann, "shared")
    stolen = stream(bob, "shared")
    assert "the reply of ann" not in stolen and '"session_not_found":true' in stolen
    assert "the reply of ann" in stream(ann, "shared")


def test_an_answer_of_the_api_is_fetched_by_the_login_that_asked_alone(served, ann_and_bob):
    pool, _ = served
    pool.say("the reply of ann", "the reply of ann")
    ann, bob = ann_and_bob
    event = ann.post("/gradio_api/call/compare", json={"data": [ASKED]}).json()["event_id"]
    assert bob.get(f"/gradio_api/call/compare/{event}").status_code == 404
    assert "the reply of ann" in ann.get(f"/gradio_api/call/compare/{event}").text


def test_what_one_login_began_no_other_cancels(served, ann_and_bob):
    pool, url = served
    pool.say("one two three " * 2000, "one two three " * 2000, pause=0.05)
    ann, bob = ann_and_bob
    begun = ask(ann, "mine")
    with httpx.Client(base_url=url) as nobody, ThreadPoolExecutor(1) as reading:
        text = reading.submit(stream, ann, "mine")
        assert nobody.post("/gradio_api/cancel", json=begun).status_code == 401
        assert bob.post("/gradio_api/cancel", json=begun).status_code == 404
        assert nobody.get("/gradio_api/heartbeat/mine").status_code == 401
        assert not text.done()
        assert ann.post("/gradio_api/cancel", json=begun).status_code == 200
        assert "process_completed" in text.result(30)


def test_a_client_with_a_password_works_as_before(served):
    pool, url = served
    pool.say("Base", "Post")
    client = Client(url, auth=USERS[0], verbose=False)
    assert client.predict(ASKED, api_name="/compare")["base"]["text"].startswith("Base")
    client.close()


def test_a_body_that_is_too_large_or_no_json_is_refused_as_it_is_without_passwords(ann_and_bob):
    ann, _ = ann_and_bob
    assert ann.post("/gradio_api/queue/join", content=b"x" * 9_000_000).status_code == 413
    for body in (b"{", b"[]", b"[" * 50_000, b"\xff"):
        refused = ann.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
        assert refused.status_code in (400, 422)


# --- passwords --------------------------------------------------------------------------------------------


def guesses(statuses: list[int], at_once: int = 1) -> tuple[list[float], list[int]]:
    """Tries of one address that end so: how long each waited, and what was answered."""
    waited: list[float] = []
    answered: list[int] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0)

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    async def run() -> None:
        slow, ends = logins.Guesses(sleep), iter(statuses)

        async def app(scope, receive, send) -> None:
            await send({"type": "http.response.start", "status": next(ends)})

        def guess():
            return slow.guess(app, {"type": "http", "client": ("192.0.2.1", 1), "headers": []}, None, send)

        for _ in range(len(statuses) // at_once):
            await asyncio.gather(*(guess() for _ in range(at_once)))

    asyncio.run(run())
    return waited, answered


def test_each_wrong_password_makes_the_next_guess_wait_longer():
    waited, answered = guesses([400] * 12)
    assert waited[:5] == [0, 0.5, 1, 2, 4] and waited[-1] == 30 and answered == [400] * 12


def test_guesses_behind_a_proxy_are_those_of_the_address_that_it_names():
    async def run() -> list[float]:
        waited: list[float] = []

        async def sleep(seconds: float) -> None:
            waited.append(seconds)

        async def app(scope, receive, send) -> None:
            await send({"type": "http.response.start", "status": 400})

        async def send(message: dict) -> None: ...

        slow = logins.Guesses(sleep, header="X-Forwarded-For")
        for said in (b"192.0.2.1", b"192.0.2.1", b"192.0.2.1, 192.0.2.2", b"192.0.2.2"):
            scope = {"type": "http", "client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", said)]}
            await slow.guess(app, scope, None, send)
        return waited

    assert asyncio.run(run()) == [0, 0.5, 0, 0.5]


def test_a_right_password_makes_up_for_wrong_ones():
    assert guesses([400, 400, 200, 200])[0] == [0, 0.5, 1, 0]


def test_guesses_that_come_at_once_take_turns_and_there_is_no_crowd_of_them():
    waited, answered = guesses([400] * 10, at_once=10)
    assert waited == [0, 0.5, 1, 2]
    assert sorted(answered) == [400] * 4 + [429] * 6


def test_a_wrong_password_is_refused_and_the_right_one_enters(served):
    _, url = served
    with closing(login(url, "ann", "wrong")) as wrong, closing(login(url, "ann")) as ann:
        assert wrong.get("/config").status_code == 401
        assert ann.get("/config").status_code == 200


# --- other pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "site", "destination"),
    [("no-cors", "same-site", "image"), ("cors", "same-origin", "empty"), ("navigate", "cross-site", "document"), ("navigate", "same-origin", "iframe")],
)  # fmt: skip
def test_only_whoever_opens_its_address_logs_out(ann_and_bob, mode, site, destination):
    ann, bob = ann_and_bob
    headers = {"sec-fetch-mode": mode, "sec-fetch-site": site, "sec-fetch-dest": destination}
    assert ann.get("/logout", headers=headers).status_code == 403
    assert bob.get("/logout").status_code == 403, "as an image of a browser that says nothing"
    assert ann.get("/config").status_code == bob.get("/config").status_code == 200
    headers = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none", "sec-fetch-dest": "document"}
    assert ann.get("/logout", headers=headers).status_code == 302
    assert bob.get("/logout", headers={"accept": "text/html,*/*"}).status_code == 302
    assert ann.get("/config").status_code == bob.get("/config").status_code == 401


def test_another_origin_of_the_same_site_gets_nothing(served, ann_and_bob):
    _, url = served
    ann, _ = ann_and_bob
    for origin in ("http://127.0.0.1:1", "https://evil.example", "null"):
        for path in ("/config", "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/token"):
            assert ann.get(path, headers={"origin": origin}).status_code in (403, 404)
        assert ann.post("/gradio_api/queue/join", json={}, headers={"origin": origin}).status_code == 403
    assert ann.get("/config", headers={"origin": url}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"host": "a.example"}, True),
        ({"host": "a.example", "origin": "https://a.example"}, True),
        ({"host": "A.example:443", "origin": "https://a.example"}, True),
        ({"host": "a.example:8443", "origin": "https://a.example:8443"}, True),
        ({"host": "a.example:8443", "origin": "https://a.example:8444"}, False),
        ({"host": "a.example", "origin": "https://b.a.example"}, False),
        ({"host": "a.example", "origin": "null"}, False),
        ({"host": "", "origin": "null"}, False),
        ({"host": "127.0.0.1:7860", "x-forwarded-host": "a.example, b", "origin": "https://a.example"}, True),
        ({"host": "127.0.0.1:7860", "origin": "https://seed.example"}, True),
    ],
    ids=str,
)
def test_which_origin_is_the_pages_own(headers, own):
    assert is_own_origin(headers, "https://seed.example/path") is own


def test_the_page_works_behind_its_password(served, come):
    pool, url = served
    pool.say("Base reply", "Post reply")
    page = come()
    page.goto(url)
    name, password = USERS[0]
    page.get_by_label("username").fill(name)
    page.get_by_label("password").fill(password)
    page.get_by_role("button", name="Login").click()
    page.locator("#prompt textarea").wait_for()
    ask_in_page(page, "Hello")
    expect(page.locator(".turn .reply.base .text")).to_contain_text("Base reply")
