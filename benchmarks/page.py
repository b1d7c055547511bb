"""What the page adds to the time of a reply, as a ratio to the bare engine in the same process.

    python -m benchmarks.page              through the API, and as the page's own stream of views
    python -m benchmarks.page --browser    also in headless Chromium, which draws on the same cores

Every repetition runs the same comparison, both replies of full length, once each way: by the two
engines alone; with gradio_client through /compare; as the page's Compare button, every view read from
its event stream; in a real browser from the key press until both panes say that they have ended.
Processor time is this process's own (the engines, the server and the client, not the browser), which
other work on the machine does not change.
"""

import argparse
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

from gradio_client import Client

from benchmarks import clients, report
from core import prompts
from core import settings as configuration
from core.checkpoints.loading import Checkpoint
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pool import Lease, Pool
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, SIDES, Comparison, Request
from tests import browser

PROMPT = "Tell me about the sea."
Way = Callable[[], None]


class EndlessPool(Pool):
    """A pool whose models have no end-of-text token, so that every reply has its full length."""

    def _load(self, entry: Any) -> Checkpoint:
        return replace(super()._load(entry), stop_ids=frozenset())


def bare(lease: Lease, comparison: Comparison) -> Way:
    """The two engines and nothing else; the prompts are built beforehand."""
    requests = [
        (
            lease.side(side).engine,
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


def through_stream(url: str, tokens: int) -> Way:
    """What a browser asks when Compare is pressed, and every view that it is sent, without drawing them."""
    with urllib.request.urlopen(f"{url}/config") as answer:
        config = json.load(answer)
    components = {part["id"]: part for part in config["components"]}
    prompt = next(id for id, part in components.items() if part["props"].get("elem_id") == "prompt")
    submit = next(event for event in config["dependencies"] if [prompt, "submit"] in event["targets"])

    def value(id: int) -> Any:
        properties = components[id]["props"]
        if id == prompt:
            return PROMPT
        return tokens if properties.get("label") == "Max new tokens" else properties.get("value")

    def run() -> None:
        session = uuid.uuid4().hex
        data = [value(id) for id in submit["inputs"]]
        body = {"data": data, "fn_index": submit["id"], "session_hash": session, "trigger_id": prompt}
        join = urllib.request.Request(
            f"{url}/gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(join).close()
        with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={session}") as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(message["output"])
                    return

    return run


@contextmanager
def in_chromium(url: str) -> Iterator[Way]:
    """From the key press until both panes say that the reply has ended, in a new chat each time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.executable(), args=browser.ARGUMENTS)
        page = chromium.new_page()
        browser.open_page(page, url)

        def run() -> None:
            page.locator("#new").click()
            page.wait_for_function("() => document.querySelectorAll('.strip.is-length').length === 0")
            browser.ask(page, PROMPT)
            browser.ended(page)

        try:
            yield run
        finally:
            chromium.close()


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
            ways["page, drawn by Chromium on the same cores"] = stack.enter_context(in_chromium(url))
        out.add(f"A reply of {flags.tokens} tokens on {pool.default.title}", measure(ways, flags.repetitions))
    lease.release()
    pool.close()
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
