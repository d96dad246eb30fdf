"""The page: four tabs, one theme, and a server that loads nothing from elsewhere and tells nobody anything."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
import gradio as gr

from . import compare_tab, generate_tab, layers_tab, train_tab
from .models import Models

MOST_WAITING = 100
"""Requests in the queue; one more is told to come back later."""
FORGET_AFTER_SECONDS = 3600
"""What a user made is forgotten so long after the page was closed."""
LOCAL = "127.0.0.1"
STYLE = Path(__file__).with_name("page.css")
TITLE = "semantic-routing"


def theme() -> gr.themes.Base:
    """Fonts of the reader's own machine, a calm color."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build(models: Models, runs: Path) -> gr.Blocks:
    """The page of some pipelines and of the runs below a folder."""
    defaults = models.defaults(models.names[0])
    forget = (FORGET_AFTER_SECONDS, FORGET_AFTER_SECONDS)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=forget) as page:
        gr.HTML('<h1 class="sr-title">semantic-routing <small>see which layers a picture is read from</small></h1>')
        with gr.Tab("Generate", id="generate"):
            generate_tab.add(models, defaults)
        with gr.Tab("Compare", id="compare"):
            compare_tab.add(models, defaults)
        with gr.Tab("Layers", id="layers"):
            layers_tab.add(models)
        with gr.Tab("Train", id="train"):
            train_tab.add(runs)
    page.queue(max_size=MOST_WAITING)
    return page


def serve(
    pipelines: Sequence[str],
    host: str = LOCAL,
    port: int = 7860,
    runs: Path = Path("runs"),
    dtype: str = "float32",
    device: str | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Opens the page, which stays until it is interrupted.

    Args:
        pipelines: folders, hub names or `demo`; the first is loaded as soon as the page is open.
        host: the address to listen on.
        port: 0 is any free one.
        runs: the folder below which the tab Train finds runs.
        dtype: of the weights.
        device: None is cuda where there is one.
        ready: told the address once the page can be opened.

    Raises:
        ValueError: a pipeline cannot be loaded.
        OSError: the port is taken.
    """
    models = Models(pipelines, dtype, device)
    page = build(models, runs)
    ready(launch(page, host, port))
    models.warm_up()
    page.block_thread()


def launch(page: gr.Blocks, host: str = LOCAL, port: int = 0) -> str:
    """Starts the server of a page and returns its address; port 0 is any free one."""
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(),
        css_paths=[STYLE],
        _frontend=False,  # gradio would ask itself for the page, and give up after 3 s on a busy machine
    )
    return address
