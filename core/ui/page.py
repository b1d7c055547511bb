"""The page as a whole: sidebar and rooms in one gr.Blocks, and how it is served."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import gradio as gr

from .. import __version__, receipts
from ..experiments import Experiment
from ..pool import Pool
from ..settings import Settings
from . import api, connections, faults, security_headers, sessions, theme
from .delivery import Delivery
from .line import Blocks
from .openai import routes as openai
from .room import MODELS, Page
from .sidebar import Sidebar
from .visitor import Visitor

_HERE = Path(__file__).parent
# In the order of their tabs. Each is a folder here and nothing else knows that it exists, so one that is not wanted
# is deleted with its line.
ROOMS = (
    "compare",
    "lens",
    "experiments",
    "studies",
    "receipts",
)
# Why the last three words: checkpoints/LICENSE.md.
FOOT = f"<p>Same Seed {__version__} \u00b7 Apache-2.0 \u00b7 The embedded pair: Built with Llama</p>{(_HERE / 'kept.html').read_text('utf-8')}"
LOOK_FOR_EVENTS = 0.02  # seconds; Gradio's own 0.001 costs a twentieth of a core while nobody asks for anything
MAX_THREADS = 192  # every reply under way holds one
SECONDS_TO_TELL = 3.0  # at most, how the work of every page ended when the server stops
SECONDS_TO_SETTLE = 0.5


def build(pool: Pool, lesson: Experiment | None = None) -> Blocks:
    """The whole page, opened on one experiment where `lesson` names one. Loads no weights."""
    security_headers.no_downloads()
    sessions.hold_little()
    connections.serve_in_bounds()
    faults.speak_of_faults()
    with Blocks(
        title="Same Seed: base and post-trained, side by side",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(3600, 3600),
    ) as demo:
        gr.HTML(
            "<button type='button' class='skip'>Skip the settings</button>", apply_default_css=False, elem_id="skip"
        )
        with gr.Sidebar(width=304, elem_id="side", label="Settings"):
            sidebar = Sidebar(pool)
            _conversations()
        gr.HTML(
            f"<div class='brand-small'>{theme.LOGO.format(size=24)}<b>Same Seed</b><button type='button' class='to-conversations'>Conversations</button></div>",
            elem_id="brand_small",
        )
        tabs = gr.Tabs(elem_id="tabs", selected="experiments" if lesson else "compare")
        gr.HTML(FOOT, elem_id="foot")
        page = Page(pool, Visitor(pool, sidebar, tabs), Delivery(demo), lesson)
        furnish(page, demo)
        api.add(demo, pool, MODELS)
    demo.queue(default_concurrency_limit=16, api_open=False)
    demo.take_turns(pool.settings.address_header)
    demo.pool = pool
    demo._queue.sleep_when_free = LOOK_FOR_EVENTS
    demo._queue.progress_update_sleep_when_free = 1.0  # 0.01, for a kind of progress that nothing here reports
    demo._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize  # a table of all events, made after each, that nobody reads
    return demo


def _conversations() -> None:
    """The list of what this browser keeps; visitor.js has it, and the server is not asked."""
    template, script = ((_HERE / f"conversations.{kind}").read_text("utf-8") for kind in ("html", "js"))
    gr.HTML(html_template=template, js_on_load=script, apply_default_css=False, elem_id="conversations")


def furnish(page: Page, demo: gr.Blocks) -> dict[str, Any]:
    """Every room in a tab of its own, by name; wired once all of them are there."""
    rooms: dict[str, Any] = {}
    with page.visitor.tabs:
        for name in ROOMS:
            module = import_module(f".{name}.tab", __package__)
            with gr.Tab(module.TITLE, id=name, elem_id=f"tab_{name}") as tab:
                rooms[name] = module.Room(page, tab)
    for room in rooms.values():
        room.connect(demo)
    page.visitor.connect(demo)
    return rooms


def launch(demo: Blocks, settings: Settings, **options: Any) -> tuple[Any, str, str]:
    """Serve the page. `options` go to gr.Blocks.launch as they are (tests use them)."""
    tools = _tools(demo) if settings.mcp else None
    return demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path or None,
        share=settings.share,
        auth=list(settings.auth) or None,
        theme=theme.theme(),
        css=theme.STYLE,
        js=theme.SCRIPT,
        head=theme.HEAD,
        app_kwargs=security_headers.app_kwargs(
            demo.pool,
            settings.address,
            settings.address_header,
            settings.api_key,
            settings.embed_in,
            [openai.route(demo.pool), *([tools.route] if tools else [])],
            tools.running if tools else nullcontext,
        ),
        max_threads=MAX_THREADS,
        max_file_size=receipts.MAX_BYTES,
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=True,
        **options,
    )


def _tools(demo: Blocks) -> Any:
    """Imported where they are asked for alone: the package that they need may not be there (Settings.read)."""
    from .tools import Tools

    return Tools(demo)


def end(demo: gr.Blocks, pool: Pool, grace: float) -> None:
    """Stop serving: nothing new begins, what is under way has `grace` seconds, and every page is told how its own ended."""
    pool.take_no_more()
    queue = demo._queue
    _wait_while(lambda: bool(len(queue) or any(queue.active_jobs)), grace)
    pool.close(wait=False)
    # A page takes an event off this list when it has read how it ended, and asks for the settings once more then.
    _wait_while(lambda: any(list(queue.pending_event_ids_session.values())), SECONDS_TO_TELL)
    sleep(SECONDS_TO_SETTLE)
    demo.close(verbose=False)


def _wait_while(busy: Callable[[], bool], seconds: float) -> None:
    deadline = monotonic() + seconds
    while busy() and monotonic() < deadline:
        sleep(0.05)
