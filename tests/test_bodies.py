"""How much may be sent: large bodies, many at once, and files that are dropped and never read."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from starlette.exceptions import HTTPException

from core.turns import Who
from core.ui import bodies, line, requests
from tests import browser as chromium
from tests.scripted import ScriptedPool
from tests.test_turns import event

UPLOAD = "/gradio_api/upload"


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[gr.Blocks, str]]:
    with chromium.launched(ScriptedPool("a base reply", "a post-trained reply")) as page:
        yield page


@pytest.fixture
def folder(page) -> Path:
    demo, _ = page
    return Path(demo.app.uploaded_file_dir)


def asked_with(app: bodies.Bodies, size: int, address: str = "10.0.0.1", chunked: bool = False):
    said = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", str(size).encode())
    scope = {"type": "http", "path": "/gradio_api/queue/join", "client": (address, 1), "headers": [said]}
    answered: list[int] = []

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    return app(scope, None, send), answered


def test_who_sends_much_at_once_is_refused_and_small_requests_and_other_addresses_are_not():
    async def run() -> None:
        going = asyncio.Event()

        async def slow(scope, receive, send) -> None:
            await going.wait()

        app = bodies.Bodies(slow, "")
        flood = [
            asked_with(app, 0, chunked=number % 2 == 0) if number % 2 == 0 else asked_with(app, 8_000_000)
            for number in range(12)
        ]
        others = [asked_with(app, 500), asked_with(app, 8_000_000, "10.0.0.2")]
        tasks = [asyncio.create_task(one) for one, _ in (*flood, *others)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [answered for _, answered in flood] == [[]] * 8 + [[429]] * 4
        assert [answered for _, answered in others] == [[], []] and app.held.total() == 72_000_500
        going.set()
        await asyncio.gather(*tasks)
        assert not app.held
        coroutine, answered = asked_with(app, requests.MAX_BODY_BYTES + 1)
        await coroutine
        assert answered == [413]

    asyncio.run(run())


def test_those_who_wait_hold_so_many_bytes(monkeypatch):
    gradio = SimpleNamespace(active_jobs=[], event_ids_to_events={}, pending_event_ids_session={}, send_message=print)
    waiting = line.Line(gradio, "")
    demo = SimpleNamespace(fns={0: SimpleNamespace(api_name="compare", concurrency_id="models", connection="")})
    monkeypatch.setattr(line, "MAX_BYTES", 10_000)
    flood = [event(demo, Who("flood", f"session {each}"), **{"content-length": "4000"}) for each in range(3)]
    for each in flood[:2]:
        waiting.append(each)
    with pytest.raises(HTTPException) as refused:
        waiting.append(flood[2])
    assert refused.value.status_code == 429 and refused.value.detail == line.FULL
    newcomer = event(demo, Who("elsewhere", "one"), **{"content-length": "4000"})
    waiting.append(newcomer)
    assert set(map(id, waiting)) == {id(flood[0]), id(newcomer)}


def upload(url: str, size: int, files: int = 1) -> httpx.Response:
    given = [("files", (f"{number}.json", os.urandom(size // files))) for number in range(files)]
    return httpx.post(f"{url}{UPLOAD}", files=given, timeout=60)


def test_files_that_are_dropped_have_a_quota_of_each_address_and_in_all(page, folder, monkeypatch):
    _, url = page
    monkeypatch.setattr(bodies, "MAX_OF_ADDRESS", 1_000_000)
    answers = [upload(url, 200_000) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 4
    assert answers[-1].json()["detail"] == bodies.NO_ROOM
    assert 800_000 < bodies.on_disk(folder) < 900_000
    monkeypatch.undo()
    monkeypatch.setattr(bodies, "MAX_ON_DISK", 2_000_000)
    assert upload(url, 20_000, files=100).status_code == 200, "small files take a block each, and a folder"
    assert upload(url, 1_000_000).status_code == 429
    assert bodies.on_disk(folder) < 2_000_000


def test_what_was_broken_off_goes_and_so_does_what_a_process_left_that_is_gone(page, folder, capfd, caplog):
    _, url = page
    before = set(folder.iterdir())
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST {UPLOAD} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: 500000\r\n\r\n"
        client.sendall(head.encode() + b'--x\r\ncontent-disposition: form-data; name="files"; filename="a"\r\n\r\n')
        client.sendall(b"y" * 100_000)
        deadline = time.monotonic() + 60
        while not (broken := set(folder.iterdir()) - before):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    left = Path(mkdtemp(prefix="same-seed-", dir=folder.parent))
    old, young = left / "old.json", folder / "young.json"
    for file in (old, young):
        file.write_text("{}")
    for file in (*broken, old, left):
        os.utime(file, (1, 1))
    bodies.sweep(folder)
    assert not old.exists()
    os.utime(left, (1, 1))
    bodies.sweep(folder)
    assert not left.exists() and folder.exists()
    assert young.exists() and not any(file.exists() for file in broken)
    young.unlink()
    time.sleep(0.3)
    assert "Traceback" not in capfd.readouterr().err + caplog.text
