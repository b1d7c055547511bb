"""Clients that are slow, silent or many: they are cut off, and whoever comes meanwhile is served."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gradio as gr
import httpx
import pytest

from core.ui import connections
from tests import browser as chromium
from tests.scripted import ScriptedPool


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[gr.Blocks, str]]:
    with chromium.launched(ScriptedPool()) as page:
        yield page


@pytest.fixture
def connect(page) -> Iterator[Callable[[bytes], socket.socket]]:
    """A function that opens a connection and sends something."""
    _, url = page
    host, port = url.removeprefix("http://").split(":")
    with ExitStack() as opened:

        def connected(begin: bytes) -> socket.socket:
            client = opened.enter_context(socket.create_connection((host, int(port)), timeout=60))
            client.sendall(begin)
            return client

        yield connected


HEAD = b"POST /gradio_api/queue/join HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"


def cut_off(client: socket.socket, more: bytes) -> bool:
    """Whether the server ends it though the client sends a byte every now and then."""
    deadline = time.monotonic() + 30
    client.settimeout(0.1)
    while time.monotonic() < deadline:
        try:
            if more:
                client.sendall(more)
            if client.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    "begin, more", [(b"", b""), (b"GET / HTTP/1.1\r\nx: ", b"y"), (HEAD, b" ")], ids=["silent", "head", "body"]
)
def test_a_client_that_says_nothing_or_a_byte_at_a_time_is_cut_off(connect, monkeypatch, caplog, begin, more):
    monkeypatch.setattr(connections, "SECONDS_FOR_HEAD", 0.5)
    monkeypatch.setattr(connections, "SECONDS_FOR_BODY", 0.5)
    assert cut_off(connect(begin), more)
    assert caplog.text == ""


@pytest.mark.slow
def test_a_body_that_comes_slowly_and_steadily_is_read(connect, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_BODY", 0.5)
    monkeypatch.setattr(connections, "BYTES_A_SECOND", 1000)
    client = connect(HEAD.replace(b"1000000", b"10000"))
    for _ in range(10):
        client.sendall(b" " * 1000)
        time.sleep(0.2)
    assert client.recv(12) == b"HTTP/1.1 422"


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_cut_off(page, connect, monkeypatch, caplog):
    demo, _ = page
    monkeypatch.setattr(connections, "SECONDS_UNREAD", 0.5)
    connect(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 60)
    deadline = time.monotonic() + 60
    while not any(each.flow.write_paused for each in list(demo.server.server_state.connections)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while demo.server.server_state.connections:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "Traceback" not in caplog.text


def test_where_no_place_is_left_who_has_the_most_gives_up_one_and_a_page_is_served(page, connect, monkeypatch, caplog):
    demo, url = page
    monkeypatch.setattr(demo.server.config, "most_connections", 20)
    heartbeat = connect(b"GET /gradio_api/heartbeat/x HTTP/1.1\r\nhost: a\r\n\r\n")
    assert heartbeat.recv(12) == b"HTTP/1.1 200"
    flood = [connect(b"GET / HTTP/1.1\r\n") for _ in range(60)]
    assert httpx.get(url, timeout=10).status_code == 200
    assert len(demo.server.server_state.connections) <= 21
    assert sum(cut_off(each, b"") for each in flood[:39]) == 39
    assert b"ALIVE" in heartbeat.recv(1000), "who is being answered stays, where others only wait"
    assert caplog.text == ""
