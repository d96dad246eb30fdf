"""Which keys of a config may differ where a run goes on from a checkpoint."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..io.files import JsonObject
from ..io.messages import brief
from .config import RunConfig

FREE: dict[str, Any] = {
    "imports": True,
    "text": {"cache", "cache_gib"},
    "data": {"max_broken", "num_workers"},
    "training": {
        "attention_backend",
        "checkpoint_every",
        "checkpoint_form",
        "compile",
        "ema_device",
        "gradient_accumulation",
        "gradient_checkpointing",
        "keep_checkpoints",
        "log_every",
        "max_minutes",
        "output",
        "steps",
        "trackers",
    },
    "validation": True,
}
"""Keys that do not say what a step learns: how far a run goes, what it leaves, how its machine computes the same."""


def fixed_part(config: RunConfig) -> JsonObject:
    """The config without the keys that may change; two runs in which it is equal take the same steps."""
    return config.model_dump(mode="json", exclude=FREE)


def check_same_run(saved: JsonObject, config: RunConfig, allowed: Collection[str], checkpoint: Path) -> None:
    """Refuses to go on with a config that is not that of the run so far.

    Args:
        saved: the fixed part of the run so far.
        config: of the run that shall go on.
        allowed: keys, or sections, that may differ all the same, such as `optimizer.learning_rate`.
        checkpoint: for the message.

    Raises:
        ValueError: naming the first key that differs.
    """
    written = config.model_dump(mode="json", exclude=FREE, exclude_defaults=True)
    for key, before, now in _differences(saved, fixed_part(config), written):
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise ValueError(
                f"{checkpoint} was trained with {key}={brief(before)}; the config says {brief(now)}: resume with the "
                f"same value, or with --allow-change {key}."
            )


def _differences(saved: object, now: object, written: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Keys that differ, with both values; one that a later version added counts if it is not left at its default."""
    if not (isinstance(saved, dict) and isinstance(now, dict)):
        if saved != now:
            yield path, saved, now
        return
    chosen = written if isinstance(written, dict) else {}
    for key in dict.fromkeys([*now, *saved]):
        if key in saved or key in chosen:
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(saved.get(key), now.get(key), chosen.get(key), below)
