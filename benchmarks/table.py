"""One table of all rows that were measured, as Markdown, beside their JSON files or inside a page.

The page keeps two lines, `<!-- make bench -->` and `<!-- end -->`; what is between them is replaced.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import common
from .report import Row, machine_line, markdown

# Scripts, in the order of the table.
ROWS = (
    "sampling_strategies",
    "sampling_reference",
    "fusion",
    "training",
    "training_speed",
    "one_image",
    "routed_host",
    "gpu_training",
    "geneval_scoring",
)
BEGIN, END = "<!-- make bench -->", "<!-- end -->"


def make_table(folder: Path) -> str:
    """The table of the JSON files of a folder, with what they were measured on.

    Raises:
        ValueError: there is no such file.
    """
    found = [json.loads(path.read_text()) for name in ROWS if (path := folder / f"{name}.json").exists()]
    if not found:
        raise ValueError(f"{folder} holds no measurements; `make bench` makes them.")
    rows = [Row(**row) for report in found for row in report["rows"]]
    machines = {(machine["device"], machine["processor"]): machine for machine in (one["machine"] for one in found)}
    return "\n\n".join(
        [markdown(rows), *map(machine_line, machines.values()), "\n".join(_details(report) for report in found)]
    )


def _details(report: dict[str, Any]) -> str:
    """Sizes and notes of one script, and how busy the machine was."""
    notes = " ".join([*report["notes"], f"Load {report['machine']['load']:.1f}."])
    return f"* `{report['command']}`: {report['sizes']}. {notes}"


def write_table(folder: Path) -> Path:
    """Writes `table.md` in the folder."""
    path = folder / "table.md"
    path.write_text(make_table(folder) + "\n")
    return path


def fill(page: Path, table: str) -> None:
    """Puts the table in its place in a page.

    Raises:
        ValueError: the page has no such place.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise ValueError(f"{page} needs the lines {BEGIN} and {END}, once each and in this order.")
    head, _, rest = text.partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


def main(
    folder: Annotated[Path, typer.Option(help="With the JSON files.")] = common.OUT,
    into: Annotated[Path | None, typer.Option(help="A page to fill; default: FOLDER/table.md.")] = None,
) -> None:
    """See above."""
    if into is None:
        write_table(folder)
    else:
        fill(into, make_table(folder))


if __name__ == "__main__":
    common.run(main)
