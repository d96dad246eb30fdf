"""`sroute caption`."""

import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[Path, typer.Argument(help="JSON or JSONL file of records with an image path.")],
    out: Annotated[Path, typer.Argument(help="JSONL file to write; one that is there is continued.")],
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible address, such as http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="Name of the vision-language model that the endpoint serves.")],
    image_root: Annotated[
        Path | None, typer.Option(help="Folder that image paths start from; default: the file's.")
    ] = None,
    image_key: Annotated[str, typer.Option(help="Key of the image's path.")] = "image",
    text_key: Annotated[str, typer.Option(help="Key of the caption.")] = "text",
    prompt: Annotated[
        str | None, typer.Option(help="Question to the model; default: a request for one dense paragraph.")
    ] = None,
    image_side: Annotated[int, typer.Option(min=32, help="Longest side in pixels of what is sent.")] = 1024,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a caption.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 0.2,
    workers: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 32,
    retries: Annotated[int, typer.Option(min=0, help="Retries of a request after a temporary failure.")] = 5,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one try.")] = 120.0,
    max_broken: Annotated[
        float, typer.Option(min=0, max=1, help="Stop when more than this share of images is broken.")
    ] = 0.01,
    api_key_variable: Annotated[
        str, typer.Option(help="Environment variable with the endpoint's key, if it needs one.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Write dense captions of images with a vision-language model. A second run goes on from what is there."""
    from ..data.caption import PROMPT, CaptionOptions, caption_images
    from ..data.sources import FolderSource
    from ..io.chat import ChatClient

    source = FolderSource(path=data, image_root=image_root, image_key=image_key, text_key=text_key)
    options = CaptionOptions(prompt or PROMPT, image_side, max_tokens, temperature, max_broken)
    with ChatClient(endpoint, model, os.environ.get(api_key_variable), workers, retries, timeout) as client:
        report = caption_images(source, out, client, options)
    root = (image_root or data.parent).resolve()
    typer.echo(f"Captioned {report.written} images to {out}; {report.already_there} were there already.")
    if root != out.parent.resolve():
        typer.echo(f"To train on them: data.source.path={out} data.source.image_root={root}")
    for what, reasons in (
        ("images were broken", report.broken),
        ("requests failed; run again for them", report.failed),
    ):
        if reasons:
            typer.echo(f"{len(reasons)} {what}: {'; '.join(reasons[:20])}", err=True)
    if report.failed:
        raise typer.Exit(1)
