"""`sroute ui`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..io.extras import how_to_install
from .options import Device, Dtype


def command(
    pipelines: Annotated[
        list[str] | None, typer.Argument(help="Pipeline folders or hub names. Default: the demo model.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one.")] = 7860,
    runs: Annotated[Path, typer.Option(help="Folder below which the tab Train finds runs.")] = Path("runs"),
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Open a web page to generate, compare and look inside; Ctrl-C ends it."""
    if find_spec("gradio") is None:
        raise ValueError(f"The page needs gradio, which is not installed: {how_to_install('gradio')}")
    from ..ui.page import serve

    names = pipelines or ["demo"]

    def ready(address: str) -> None:
        typer.echo(f"Ready at {address}\nLoading {names[0]} …")

    serve(names, host, port, runs, dtype, device, ready)
