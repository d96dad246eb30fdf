"""What the step caches of `diffusers` must know of our models where their defaults are of other models."""

from dataclasses import replace
from typing import Any

from diffusers import FasterCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig
from torch import Tensor, nn

ATTENTION = r"blocks\.\d+\.(self|cross|joint)_attention"
"""Names of the modules that attend."""


def fitted(config: Any) -> Any:
    """A cache's configuration, in which what was left at its default fits our models.

    Without this, TaylorSeer and SeaCache would find nothing and silently do nothing.

    Raises:
        ValueError: FasterCache is not told how to know the timestep.
    """
    if isinstance(config, TaylorSeerCacheConfig) and config.cache_identifiers is None and not config.use_lite_mode:
        return replace(config, cache_identifiers=[ATTENTION])
    if isinstance(config, SeaCacheConfig) and config.raw_vision_callback is None:
        return replace(config, raw_vision_callback=_frames)
    if isinstance(config, FasterCacheConfig):
        if config.current_timestep_callback is None:
            raise ValueError(
                "FasterCacheConfig needs the timestep: give "
                "current_timestep_callback=lambda: pipeline.current_timestep."
            )
        default = FasterCacheConfig()
        own = {"tensor_format": "BCHW", "_unconditional_conditional_input_kwargs_identifiers": ("text_context",)}
        left = {name: value for name, value in own.items() if getattr(config, name) == getattr(default, name)}
        return replace(config, **left)
    return config


def _frames(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The noisy latents of each row, as videos of one frame."""
    latents: Tensor = args[0] if args else kwargs["hidden_states"]
    return list(latents[:, :, None])
