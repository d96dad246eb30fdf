"""The web page of the demo model under load: wanted is ready within 10 s of the start, the first picture within 3 s of
the click, and 50 requests from 8 clients at once all answered, each with its own pictures.

Ready is when the page can be opened; the model is loaded after that. A click at that very moment waits for it, so the
first picture is timed twice: clicked at once, and once more when the model is loaded, with one picture and with four.

The page runs in a process of its own. Clients are gradio's, each with a session of its own. A request is answered
rightly if the file of its picture names its prompt and seed, and the picture is the one that the pipeline makes alone.
Seconds are those of a clock: on a busy machine they say little, so the page's CPU seconds stand beside them.
"""

import base64
import io
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from gradio_client import Client
from PIL import Image

from semantic_routing.ui.models import Models
from semantic_routing.ui.settings import Settings

from . import common

Cases = list[tuple[str, int]]


def start(port: int) -> subprocess.Popen[str]:
    """The page's process, once it says that it is ready."""
    command = [sys.executable, "-m", "semantic_routing", "ui", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Ready"):
            return process
    raise RuntimeError("The page ended before it was ready.")


def ask(client: Client, prompt: str, seed: int, images: int, steps: int) -> list[Image.Image]:
    """The pictures that the page answers with."""
    html, *_ = client.predict("demo", prompt, "", seed, images, steps, 2.0, None, api_name="/generate")
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def right(case: tuple[str, int], answer: Any, alone: Image.Image) -> bool:
    """Whether an answer is the picture of this case and no other."""
    texts = answer.text
    return (texts["prompt"], texts["seed"]) == (case[0], str(case[1])) and np.array_equal(
        np.asarray(answer), np.asarray(alone)
    )


def main(
    requests: Annotated[int, typer.Option(min=1, help="In all.")] = 50,
    clients: Annotated[int, typer.Option(min=1, help="That ask at once.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Of each request of the load.")] = 4,
    port: Annotated[int, typer.Option(help="Of the page.")] = 7870,
) -> None:
    """Measures start, first picture and load."""
    begun = time.perf_counter()
    page = start(port)
    try:
        cpu = psutil.Process(page.pid).cpu_times
        print(f"ready after {time.perf_counter() - begun:.1f} s, {cpu().user + cpu().system:.1f} CPU s")
        sessions = [Client(f"http://127.0.0.1:{port}", verbose=False) for _ in range(clients)]
        for what, images in (("one picture, clicked at once", 1), ("one picture", 1), ("four pictures", 4)):
            clicked, before = time.perf_counter(), sum(cpu()[:2])
            ask(sessions[0], "a blue star and a yellow square", 0, images, 50)
            print(f"{what}: {time.perf_counter() - clicked:.1f} s, {sum(cpu()[:2]) - before:.1f} CPU s")
        cases: Cases = [(f"{number} red circles", number) for number in range(requests)]
        with ThreadPoolExecutor(clients) as pool:
            jobs = [
                pool.submit(ask, sessions[n % clients], prompt, seed, 1, steps)
                for n, (prompt, seed) in enumerate(cases)
            ]
            answers = [job.result()[0] for job in jobs]
    finally:
        page.terminate()
    models = Models(["demo"])
    alone = [models.make(Settings(prompt, seed=seed, images=1, steps=steps))[0] for prompt, seed in cases]
    correct = sum(map(right, cases, answers, alone))
    print(f"{len(answers)} of {requests} requests from {clients} clients answered, {correct} with their own picture")


if __name__ == "__main__":
    common.run(main)
