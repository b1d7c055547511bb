"""What a stranger may ask of a page that is served: no address is fetched, and only the page's own routes answer."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import gradio as gr
import httpx
import pytest
from gradio import processing_utils
from gradio.routes import App

from core.ui import security_headers

EMPTY = "/gradio_api/run/predict"


@pytest.fixture
def listener(monkeypatch) -> Iterator[tuple[str, list[str]]]:
    """A host that Gradio would ask, on this machine, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(processing_utils, "PUBLIC_HOSTNAME_WHITELIST", ["127.0.0.1"])
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def a_file(url: str, path: str) -> dict:
    return {"path": path, "url": url, "orig_name": "x.json", "meta": {"_type": "gradio.FileData"}}


def call(client: httpx.Client, fn_index: int, data: list, session: str) -> None:
    """An event by its number, whichever way Gradio takes it."""
    body = {"fn_index": fn_index, "data": data, "session_hash": session}
    if client.post("/gradio_api/run/predict", json=body).status_code == 404:
        client.post("/gradio_api/queue/join", json=body)


def test_no_event_of_the_page_fetches_an_address(scripted, listener):
    address, asked = listener
    with httpx.Client(base_url=scripted("x"), timeout=60) as client:
        events = client.get("/config").json()["dependencies"]
        assert len(events) > 40
        for event in events:
            for n, given in enumerate(
                (
                    a_file("", f"{address}/path-of-{event['id']}"),
                    [{"deep": a_file(f"{address}/url-of-{event['id']}", f"{address}/both-{event['id']}")}],
                )
            ):
                call(client, event["id"], [given] * len(event["inputs"]), f"stranger-{n}")
        for name in ("compare", "replay", "lens", "experiment"):
            client.post(f"/gradio_api/call/{name}", json={"data": [a_file("", f"{address}/{name}")]})
        for session in ("stranger-0", "stranger-1"):
            client.get("/gradio_api/queue/data", params={"session_hash": session})  # until all of them have ended
    assert asked == []


def test_an_address_in_place_of_a_file_is_refused_in_a_sentence(scripted, listener):
    address, _ = listener
    with httpx.Client(base_url=scripted("x"), timeout=60) as client:
        events = client.get("/config").json()
        file = next(part["id"] for part in events["components"] if part["type"] == "file")
        event = next(each for each in events["dependencies"] if each["inputs"][:1] == [file] or file in each["inputs"])
        data = [a_file("", f"{address}/x") if part == file else None for part in event["inputs"]]
        answer = client.post(EMPTY, json={"fn_index": event["id"], "data": data, "session_hash": "s"})
    assert "drop it here" in answer.json()["error"]


def test_routes_that_the_page_does_not_use_are_closed(scripted):
    """Those that fetch an address, tell a token, read a file or change the page, and any that the next Gradio brings."""
    with httpx.Client(base_url=scripted("x")) as client:
        app = App.create_app(gr.Blocks())
        parts = [getattr(getattr(part, "original_router", None), "routes", [part]) for part in app.routes]
        routes = [route.path for part in parts for route in part]
        assert "/gradio_api/token" in routes and "/gradio_api/proxy={url_path:path}" in routes
        closed = [path for path in routes if not security_headers.ROUTES.fullmatch(path)]
        for path in (
            *closed,
            "/gradio_api/file=http://127.0.0.1:9/x",
            "//gradio_api//file=http://127.0.0.1:9/x",
            "/gradio_api/FILE=http://127.0.0.1:9/x",
            "/gradio_api/proxy=http://127.0.0.1:9/x",
            "/gradio_api/token/",
            "/gradio_api/call/v2/compare",
            "/openapi.json",
        ):
            for method in ("GET", "POST"):
                assert client.request(method, path).status_code == 404, (method, path)
        assert client.get("/").status_code == client.get("/gradio_api/info").status_code == 200


def test_too_few_values_are_one_sentence_and_none_of_our_mistakes(scripted, capfd):
    with httpx.Client(base_url=scripted("x"), timeout=60) as client:
        events = client.get("/config").json()["dependencies"]
        said = []
        for name, data in (("compare", []), ("lens", [{}]), ("experiment", ["inputs"])):
            event_id = client.post(f"/gradio_api/call/{name}", json={"data": data}).json()["event_id"]
            said.append(client.get(f"/gradio_api/call/{name}/{event_id}").text)
        page = next(each for each in events if len(each["inputs"]) > 3 and not each["queue"])
        said.append(client.post(EMPTY, json={"fn_index": page["id"], "data": [], "session_hash": "s"}).text)
    for needed, got, text in ((1, 0, said[0]), (3, 1, said[1]), (2, 1, said[2]), (len(page["inputs"]), 0, said[3])):
        assert f"This takes {needed} values and got {got}; send all of them." in text and "object at" not in text
    assert "Traceback" not in capfd.readouterr().err
