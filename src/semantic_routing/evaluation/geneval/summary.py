"""GenEval's summary of its results file, with the official figures."""

from collections.abc import Iterable

from ...io.files import JsonObject


def summarize_rows(rows: Iterable[JsonObject]) -> JsonObject:
    """The official figures of lines with `tag`, `metadata` and `correct`.

    `overall` is the plain mean of the tasks that occur, not the mean over images. A prompt is correct if any of its
    images is.
    """
    rows = list(rows)
    tasks: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for row in rows:
        tasks.setdefault(row["tag"], []).append(row["correct"])
        prompts[row["metadata"]] = prompts.get(row["metadata"], False) or row["correct"]
    shares = {tag: sum(correct) / len(correct) for tag, correct in tasks.items()}
    return {
        "total_images": len(rows),
        "total_prompts": len(prompts),
        "percent_correct_images": _percent(sum(row["correct"] for row in rows), len(rows)),
        "percent_correct_prompts": _percent(sum(prompts.values()), len(prompts)),
        "tasks": {
            tag: {"percent": _percent(sum(correct), len(correct)), "correct": sum(correct), "images": len(correct)}
            for tag, correct in tasks.items()
        },
        "overall": round(sum(shares.values()) / len(shares), 5) if shares else None,
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
