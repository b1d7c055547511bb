"""MCP, spoken by the official client: tools that describe themselves, the same replies, one line with all others, and no way around a login."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from core import receipts
from core.run import compare
from core.types import DEFAULT_SAMPLING, SIDES, Comparison, Sampling
from tests.browser import launched, served
from tests.pairs import OnePair, tiny_lease
from tests.scripted import ScriptedPool
from tests.test_logins import USERS

FOX = {"prompt": "The quick brown fox", "pair": "tiny", "seed": 7, "max_new_tokens": 12, "today": "2026-01-31"}
MODES = ("auto", "legacy")  # the protocol as it is now, and as it was before 2026


@pytest.fixture(scope="module")
def lease():
    with tiny_lease() as lease:
        yield lease


@pytest.fixture(scope="module")
def url(lease):
    with served(OnePair(lease), mcp=True) as url:
        yield url


@pytest.fixture(scope="module")
def scripted_page():
    pool = ScriptedPool()
    with launched(pool, mcp=True) as (demo, url):
        yield pool, demo, url


def talk(url: str, say: Callable[[Client], Awaitable[Any]], mode: str = "auto", **headers: str) -> Any:
    async def talking() -> Any:
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                return await say(client)

    return asyncio.run(talking())


def call(url: str, name: str, arguments: dict[str, Any] | None = None, **options: str) -> Any:
    """What a tool answers: data, or the sentence that says why there is none."""
    result = talk(url, lambda client: client.call_tool(name, arguments or {}), **options)
    [said] = result.content
    return said.text if result.is_error else json.loads(said.text)


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_finds_typed_tools_and_nothing_of_the_pages_insides(url, mode):
    tools = {tool.name: tool for tool in talk(url, lambda client: client.list_tools(), mode=mode).tools}
    assert list(tools) == ["compare", "lens", "replay", "diff", "pairs", "study"]
    for tool in tools.values():
        assert tool.description.endswith(".") and tool.input_schema["type"] == "object"
        for name, property in tool.input_schema["properties"].items():
            assert {"type", "anyOf", "$ref", "enum", "const"} & set(property), f"{tool.name}.{name}"
    asked = tools["compare"].input_schema
    assert asked["required"] == ["prompt"], "all else has the value that it has everywhere"
    for name in Sampling.model_fields:
        assert asked["properties"][name]["default"] == getattr(DEFAULT_SAMPLING, name)
        assert asked["properties"][name]["description"]
    assert asked["properties"]["temperature"]["maximum"] == 2
    assert tools["diff"].input_schema["required"] == ["first", "second"]


def test_compare_gives_the_replies_that_all_others_give(url, lease):
    told = call(url, "compare", FOX)
    expected = compare(lease, Comparison.of(**FOX))
    assert [told[side]["text"] for side in SIDES] == [expected.base.text, expected.post.text]
    receipt = receipts.from_data(told["receipt"])
    assert receipt.comparison == expected.comparison and receipt.post.token_ids == expected.post.token_ids


@pytest.mark.parametrize("mode", MODES)
def test_the_receipt_goes_into_the_other_tools(url, lease, mode):
    first = call(url, "compare", FOX, mode=mode)["receipt"]
    other = call(url, "compare", {**FOX, "seed": 8}, mode=mode)["receipt"]
    assert call(url, "replay", {"receipt": first}, mode=mode)["outcome"] == "identical"
    read = call(url, "lens", {"receipt": first, "side": "base"}, mode=mode)
    assert len(read["lens"]["shifts"]) == len(first["base"]["token_ids"])
    found = call(url, "diff", {"first": first, "second": other}, mode=mode)
    assert [each["name"] for each in found["inputs"]] == ["seed"]
    [pair] = call(url, "pairs", mode=mode)
    assert (pair["id"], pair["base"]) == ("tiny", "tiny-base")


def test_a_study_is_counted_and_has_a_receipt(scripted_page):
    pool, _, url = scripted_page
    pool.say("one", "two")
    sampling = {**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 4}
    plan = {"prompts": [{"prompt": "The"}], "pairs": ["scripted"], "seeds": 8, "sampling": sampling, "today": "2026-01-31", "crossed": False}  # fmt: skip
    report = call(url, "study", plan)
    assert report["results"]["done"] == report["results"]["total"] == 16
    assert len(report["receipt"]["plan"]["prompts"]) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("compare", {}, "prompt: field required"),
        ("compare", {**FOX, "temperature": 3}, "temperature: input should be less than or equal to 2"),
        ("compare", {**FOX, "temperature": 0.001}, "use 0 (greedy) or at least 0.01"),
        ("compare", {**FOX, "shell": "ls"}, "shell: extra inputs are not permitted"),
        ("replay", {"receipt": {}}, "receipt."),
        ("conversation", {}, "There is no tool 'conversation' here; there are compare, lens"),
    ],
)
def test_a_mistake_is_one_sentence_that_an_agent_can_read(url, name, arguments, sentence):
    said = call(url, name, arguments)
    assert sentence in said and "\n" not in said and len(said) < 400


def test_a_changed_receipt_is_found_out(url):
    receipt = call(url, "compare", FOX)["receipt"]
    receipt["comparison"]["prompt"] = "Another"
    for name, arguments in (("replay", {"receipt": receipt}), ("diff", {"first": receipt, "second": receipt})):
        assert "was changed after it was made" in call(url, name, arguments)


# --- in the line with all others ------------------------------------------------------------------------------


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def leave(url: str, mode: str, begun: Callable[[], bool]) -> None:
    """Call a tool, and go away once something has begun."""

    async def say(client: Client) -> None:
        asking = asyncio.create_task(client.call_tool("compare", {"prompt": "x", "pair": "scripted"}))
        while not begun():
            assert not asking.done(), asking.result()
            await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    talk(url, say, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_leaves_frees_its_slots(scripted_page, monkeypatch, mode):
    pool, _, url = scripted_page
    pool.say("one two three " * 2000, "one two three " * 2000, pause=0.1)
    tickets: list[Any] = []
    for engine in pool.engines.values():
        submit = engine.submit
        monkeypatch.setattr(
            engine, "submit", lambda *asked, submit=submit: tickets.append(submit(*asked)) or tickets[-1]
        )
    leave(url, mode, lambda: len(tickets) == 2)
    wait_for(lambda: all(ticket.stopped.is_set() for ticket in tickets))


@pytest.mark.parametrize("mode", MODES)
def test_who_leaves_while_waiting_leaves_the_line(scripted_page, mode):
    pool, demo, url = scripted_page
    pool.say("one", "one")
    models: Any = demo._queue.event_queue_per_concurrency_id["models"]
    limit, models.concurrency_limit = models.concurrency_limit, 0  # until all of them wait
    try:
        leave(url, mode, lambda: len(models.queue) == 1)
        wait_for(lambda: len(models.queue) == 0)
        [pair] = call(url, "pairs")
        assert pair["id"] == "scripted", "what needs no model waits for none"
    finally:
        models.concurrency_limit = limit
    assert call(url, "compare", {"prompt": "x", "pair": "scripted"})["base"]["text"].strip() == "one"


# --- who may ask ------------------------------------------------------------------------------------------------


def test_with_a_login_a_key_is_asked_for_whatever_is_asked():
    with launched(ScriptedPool("one", "one"), mcp=True, auth=USERS, api_key="the key") as (_, url):
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        with httpx2.Client(base_url=url) as plain:
            for path in ("/mcp", "/mcp/"):
                refused = plain.post(path, json=body, headers={"accept": "application/json, text/event-stream"})
                assert refused.status_code == 401 and "key" in refused.json()["error"]["message"]
                assert "tools" not in refused.text.replace("/mcp", "")
            assert plain.get("/gradio_api/mcp/schema").status_code == plain.get("/gradio_api/mcp/").status_code == 404
        for mode in MODES:
            told = call(url, "compare", {"prompt": "x", "pair": "scripted"}, mode=mode, authorization="Bearer the key")
            assert told["post"]["text"].strip() == "one"


def test_without_the_flag_there_are_no_tools(_scripted_page):
    _, url = _scripted_page
    assert httpx2.post(f"{url}/mcp", json={}).status_code in (404, 405)
