"""The page as a whole: sidebar and tabs in one gr.Blocks, and how it is served."""

from typing import Any

import gradio as gr

from .. import receipts
from ..experiments import Experiment, NewProcesses
from ..pool import Pool
from ..settings import Settings
from . import api, hardening, look
from .compare_tab import MODELS, CompareTab
from .experiments_tab import ExperimentsTab
from .lens_tab import LensTab
from .receipts_tab import ReceiptsTab
from .sidebar import Sidebar

MAX_WAITING = 256  # events in the queue before newcomers are turned away with a sentence
MAX_THREADS = 128  # every reply under way holds one


def build(pool: Pool, lesson: Experiment | None = None) -> gr.Blocks:
    """The whole page, opened on one experiment where `lesson` names one. Loads no weights."""
    processes = NewProcesses(pool.settings)
    with gr.Blocks(
        title="Same Seed: base and post-trained, side by side",
        analytics_enabled=False,
        fill_height=True,
        fill_width=True,
        delete_cache=(3600, 3600),
    ) as demo:
        with gr.Sidebar(width=304, elem_id="side", label="Settings"):
            sidebar = Sidebar(pool)
        gr.HTML(f"<div class='brand-small'>{look.LOGO.format(size=24)}<b>Same Seed</b></div>", elem_id="brand_small")
        with gr.Tabs(elem_id="tabs", selected="experiments" if lesson else "compare") as tabs:
            with gr.Tab("Compare", id="compare", elem_id="tab_compare"):
                compare = CompareTab(pool, sidebar)
            with gr.Tab("Token lens", id="lens", elem_id="tab_lens") as lens_tab:
                lens = LensTab(pool, compare)
            with gr.Tab("Experiments", id="experiments", elem_id="tab_experiments"):
                lessons = ExperimentsTab(pool, processes, compare, lesson)
            with gr.Tab("Receipts", id="receipts", elem_id="tab_receipts") as receipts_tab:
                checking = ReceiptsTab(pool, compare)
        compare.connect(demo)
        lens.connect(lens_tab, tabs)
        checking.connect(receipts_tab, tabs)
        lessons.connect(demo, tabs)
        api.add(pool, processes, MODELS)
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=16, api_open=False)
    return demo


def launch(demo: gr.Blocks, settings: Settings, **options: Any) -> tuple[Any, str, str]:
    """Serve the page. `options` go to gr.Blocks.launch as they are (tests use them)."""
    return demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path or None,
        share=settings.share,
        auth=list(settings.auth) or None,
        theme=look.theme(),
        css=look.STYLE,
        js=look.SCRIPT,
        head=look.HEAD,
        app_kwargs=hardening.APP_KWARGS,
        max_threads=MAX_THREADS,
        max_file_size=receipts.MAX_BYTES,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=True,
        **options,
    )
