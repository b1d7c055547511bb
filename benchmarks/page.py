"""What the page adds to the time of a reply, as a ratio to the bare engine in the same process.

    python -m benchmarks.page              through the API, and as the page's own stream of views
    python -m benchmarks.page --browser    also in headless Chromium, which draws on the same cores

Every repetition runs the same comparison, both replies of full length, once each way: by the two
engines alone; with gradio_client through /compare; as the page's Compare button, every view read from
its event stream; in a real browser from the key press until both panes say that they have ended.
Processor time is this process's own (the engines, the server and the client, not the browser), which
other work on the machine does not change.

What one streamed view costs is measured against the least that Gradio can do, a generator with one
Textbox that grows as much and as often, and at the end of a long chat against its first turn. There a script
writes both replies, so that no context is too short for the chat; its own time and the reader's are taken off. What
a server spends while nothing happens is in all of them: waking up from rest costs more than being awake, so
that a figure taken at rest cannot be taken off.
"""

import argparse
import gc
import json
import statistics
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio_client import Client

from benchmarks import clients, report
from benchmarks.visitors import UPDATES
from core import prompts
from core import settings as configuration
from core.checkpoints.loading import Checkpoint
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.local import LocalLease
from core.pool import Pool
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, SIDES, Comparison, Request
from core.ui import page as whole_page
from core.ui.compare.session import PERIOD
from core.ui.line import Blocks
from core.ui.visitor import Kept
from tests import browser
from tests.ports import free_port
from tests.scripted import PAIR, ScriptedPool
from tests.values import record

PROMPT = "Tell me about the sea."
Way = Callable[[], None]


class EndlessPool(Pool):
    """A pool whose models have no end-of-text token, so that every reply has its full length."""

    def _load(self, entry: Any) -> Checkpoint:
        return replace(super()._load(entry), stop_ids=frozenset())


def bare(lease: Lease, comparison: Comparison) -> Way:
    """The two engines and nothing else; the prompts are built beforehand."""
    assert isinstance(lease, LocalLease)
    requests = [
        (
            lease.loaded[side].engine,
            Request(
                token_ids=prompts.build(comparison, side, lease.side(side).tokenizer, lease.post.tokenizer).token_ids,
                sampling=comparison.sampling,
                stop_ids=frozenset(),
            ),
        )
        for side in SIDES
    ]

    def run() -> None:
        began = time.perf_counter()
        for reply in [clients.ask(engine, asked, began)[0] for engine, asked in requests]:
            clients.wait(reply)

    return run


def through_api(url: str, comparison: Comparison) -> Way:
    client = Client(url, verbose=False)
    asked = comparison.model_dump(mode="json")
    return lambda: client.predict(asked, api_name="/compare")


def asking(
    url: str,
    part: str,
    event: str,
    told: Any = None,
    value: Callable[[dict[str, Any]], Any] = lambda it: it.get("value"),
) -> dict[str, Any]:
    """What a browser sends for an event of a part of the page; `value` says what a widget with these properties holds."""
    with urllib.request.urlopen(f"{url}/config") as answer:
        config = json.load(answer)
    properties = {each["id"]: each["props"] for each in config["components"]}
    source = next(id for id, of in properties.items() if of.get("elem_id") == part)
    wired = next(each for each in config["dependencies"] if [source, event] in each["targets"])
    data = [value(properties[id]) for id in wired["inputs"]]
    return {"data": data, "event_data": told, "fn_index": wired["id"], "trigger_id": source}


def views(url: str, asked: dict[str, Any]) -> Iterator[bytes]:
    """Ask as a new visitor, and yield every view that comes, as it is on the wire."""
    session = uuid.uuid4().hex
    body = json.dumps({**asked, "session_hash": session}).encode()
    join = urllib.request.Request(f"{url}/gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(join).close()
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream:
            if line.startswith(UPDATES):
                yield line
            if b'"process_completed"' in line[:60]:
                message = json.loads(line[5:])
                if not message["success"]:
                    raise RuntimeError(message["output"])
                return


def with_tokens(tokens: int) -> Callable[[dict[str, Any]], Any]:
    return lambda of: tokens if of.get("label") == "Max new tokens" else of.get("value")


def through_stream(url: str, tokens: int) -> Way:
    """What a browser asks when Compare is pressed, and every view that it is sent, without drawing them."""
    asked = asking(url, "transcript", "ask", {"prompt": PROMPT, "at": 0}, with_tokens(tokens))

    def run() -> None:
        last = list(views(url, asked))[-1]
        if b'"end":' not in last:
            raise RuntimeError(last.decode())

    return run


@contextmanager
def in_chromium(url: str, tokens: int) -> Iterator[Way]:
    """From the key press until both panes say that the reply has ended, in a new chat each time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.executable(), args=browser.ARGUMENTS)
        page = chromium.new_page()
        browser.open_page(page, url)
        browser.at_most(page, tokens)

        def run() -> None:
            if page.locator("#transcript .turn").count():
                page.locator("#new").click()
            page.wait_for_function("() => !document.querySelector('#transcript .turn')")
            browser.ask(page, PROMPT)
            page.wait_for_function(
                "() => document.querySelectorAll('#transcript .turn:not(.running) .wrote').length === 2"
            )

        try:
            yield run
        finally:
            chromium.close()


# --- what one view costs ------------------------------------------------------------------------------------

RATE = 30  # tokens a second of each reply
LONG = 100  # turns
WORDS = (
    "The sea is **wide**, and `deep` as well.\n\n- salt\n- a <b>wave</b> of it\n\nNobody has counted what lives there. "
)
Cost = dict[str, float]


class Scripted(ScriptedPool):
    """Both models write so many tokens at a steady rate, however long the chat is."""

    def __init__(self, tokens: int):
        super().__init__(WORDS * tokens, WORDS * tokens, pause=1 / RATE)
        self.spent = 0.0  # processor seconds of the script itself
        for engine in self.engines.values():
            del engine.ids[tokens:]
            engine.context = 1_000_000
            engine._write = self._timed(engine._write)  # type: ignore[method-assign]

    def _timed(self, write: Callable[..., None]) -> Callable[..., None]:
        def timed(*asked: Any) -> None:
            write(*asked)
            self.spent += time.thread_time()  # each reply has a thread of its own

        return timed


def bare_generator(text: str, count: int) -> Blocks:
    """A page of one Textbox that `text` is written into in `count` views, as often as the page has one."""

    def write() -> Iterator[str]:
        for view in range(1, count + 1):
            time.sleep(PERIOD)
            yield text[: len(text) * view // count]

    with Blocks(analytics_enabled=False) as demo:
        button = gr.Button(elem_id="write")
        button.click(write, None, gr.Textbox())
    return demo


@contextmanager
def served(demo: Blocks) -> Iterator[str]:
    """Its address. Its queue looks for work once a second, not 1000 times: that would cost more than the views."""
    settings = Settings(port=free_port())
    _, url, _ = whole_page.launch(demo, settings, prevent_thread_lock=True, quiet=True)
    demo._queue.sleep_when_free = 1.0
    try:
        yield url.rstrip("/")
    finally:
        demo.close(verbose=False)


def long_chat(turns: int) -> str:
    """A conversation as a browser keeps it."""
    told = (record(f"{PROMPT} ({turn})", WORDS * 4, WORDS * 4, pair=PAIR.id) for turn in range(turns))
    return Kept(records=tuple(told)).model_dump_json()


def cost(url: str, asked: dict[str, Any], pool: Scripted) -> Cost:
    """Of the server, for each view but the first, which brings the row, and the last, which brings the turn that is kept."""
    gc.collect()
    seen, script = [], pool.spent
    for view in views(url, asked):
        seen.append((time.process_time() - time.thread_time(), len(view)))
    (processor, _), *between = seen[:-1]
    spent = between[-1][0] - processor - (pool.spent - script)
    count = len(between)
    return {"processor ms": 1000 * spent / count, "bytes": sum(size for *_, size in between) / count}


def view_costs(pool: Scripted, url: str, tokens: int, repetitions: int) -> list[dict[str, Any]]:
    """One row for each page; ratios are taken within each repetition."""

    def asks(earlier: int) -> dict[str, Any]:
        kept = {"kept": long_chat(earlier)}
        held = with_tokens(tokens)
        told = {"prompt": PROMPT, "at": earlier}
        return asking(url, "transcript", "ask", told, lambda of: kept if of.get("elem_id") == "keeper" else held(of))

    ids = pool.engines["base"].ids
    text = 2 * pool.engines["base"].tokenizer.decode(ids)
    count = max(3, round(len(ids) / RATE / PERIOD))
    with served(bare_generator(text, count)) as bare_url:
        asked = {
            "a generator with one Textbox": (bare_url, asking(bare_url, "write", "click")),
            "the page, turn 1": (url, asks(0)),
            f"the page, turn {LONG}": (url, asks(LONG - 1)),
        }
        found: dict[str, list[Cost]] = {name: [] for name in asked}
        for repetition in range(repetitions + 1):
            for name, what in asked.items():
                spent = cost(*what, pool)
                if repetition:  # the first one warms up
                    found[name].append(spent)
    bare_costs, first, _ = found.values()
    return [
        {
            "a view of": name,
            "processor ms": statistics.median(each["processor ms"] for each in costs),
            "more than the bare generator": statistics.median(
                one["processor ms"] - bare["processor ms"] for one, bare in zip(costs, bare_costs, strict=True)
            ),
            "times the bare generator": _ratio(*([one["processor ms"] for one in of] for of in (costs, bare_costs))),
            "times turn 1": _ratio(*([one["processor ms"] for one in of] for of in (costs, first))),
            "bytes": statistics.median(each["bytes"] for each in costs),
        }
        for name, costs in found.items()
    ]


def browser_costs(url: str, tokens: int, repetitions: int) -> list[dict[str, Any]]:
    """How busy Chromium's main thread is while replies are written, at the first turn and at the end of a long chat."""
    from playwright.sync_api import sync_playwright

    seconds = tokens / RATE
    busy: dict[int, list[float]] = {1: [], LONG: []}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.executable(), args=browser.ARGUMENTS)
        for turn in [*busy] * repetitions:
            page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
            if turn > 1:
                page.add_init_script(f"({_KEEP})({json.dumps(long_chat(turn - 1))})")
            browser.open_page(page, url)
            page.wait_for_function(f"() => document.querySelectorAll('#transcript .turn').length === {turn - 1}")
            browser.quiet(page)
            metrics = page.context.new_cdp_session(page)
            metrics.send("Performance.enable")

            def worked(metrics: Any = metrics) -> float:
                told = metrics.send("Performance.getMetrics")["metrics"]
                return next(each["value"] for each in told if each["name"] == "TaskDuration")

            browser.ask(page, PROMPT)
            browser.writing(page)
            before, began = worked(), time.perf_counter()
            page.wait_for_timeout(1000 * 0.7 * seconds)
            busy[turn].append((worked() - before) / (time.perf_counter() - began))
            browser.ended(page)
            page.context.close()
        chromium.close()
    return [
        {
            "main thread": f"the page, turn {turn}",
            "busy share": statistics.median(shares),
            "times turn 1": _ratio(shares, busy[1]),
        }
        for turn, shares in busy.items()
    ]


# A tab that has come back to this conversation (see visitor.js).
_KEEP = """(kept) => {
  if (sessionStorage.getItem("same-seed/tab")) return;
  sessionStorage.setItem("same-seed/tab", JSON.stringify({ id: "a", conversation: "b", resting: true }));
  localStorage.setItem("same-seed/b", JSON.stringify({ owner: "a", used: 1, from: null, kept }));
}"""


# --- all of it ------------------------------------------------------------------------------------------------


def measure(ways: dict[str, Way], repetitions: int) -> list[dict[str, Any]]:
    """One row for each way; ratios are to the first one, within each repetition."""
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, run in ways.items():
            began, processor_began = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - processor_began)
    first = next(iter(ways))
    return [
        {
            "way": name,
            "seconds": statistics.median(seconds[name]),
            "times the bare engine": _ratio(seconds[name], seconds[first]),
            "processor seconds": statistics.median(processor[name]),
            "times the bare engine's": _ratio(processor[name], processor[first]),
        }
        for name in ways
    ]


def _ratio(mine: Sequence[float], bare: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(mine, bare, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    configuration.add_model_flags(parser)
    parser.add_argument("--browser", action="store_true", help="also measure in headless Chromium")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=DEFAULT_SAMPLING.max_new_tokens, help="length of each reply")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    out = report.Report(report.command("benchmarks.page", arguments), "cpu", flags.save)
    try:
        pool = EndlessPool(Settings.read(flags, configuration.environment()), HuggingFaceHub())
        lease = pool.wait(pool.default.id)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    comparison = Comparison(
        pair=pool.default.id,
        prompt=PROMPT,
        sampling=DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": flags.tokens}),
        today="2026-01-01",
    )
    with browser.served(pool) as url, ExitStack() as stack:
        ways = {
            "the two engines alone": bare(lease, comparison),
            "API, with gradio_client": through_api(url, comparison),
            "page, every view read": through_stream(url, flags.tokens),
        }
        if flags.browser:
            ways["page, drawn by Chromium on the same cores"] = stack.enter_context(in_chromium(url, flags.tokens))
        out.add(f"A reply of {flags.tokens} tokens on {pool.default.title}", measure(ways, flags.repetitions))
    lease.release()
    pool.close()
    script: Any = Scripted(flags.tokens)  # what the page uses of a Pool
    with served(whole_page.build(script)) as url:
        out.add("A streamed view, on the server", view_costs(script, url, flags.tokens, flags.repetitions))
        if flags.browser:
            out.add("A streamed view, in Chromium", browser_costs(url, flags.tokens, flags.repetitions))
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
