"""A host as its own pipeline runs it: what training, measuring and looking inside need of any of them."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ..io.files import read_json_object
from ..models.latents import LatentCodec
from .attach import parts
from .call import HostCall, host_call, own_time, runs_backward

Latents = Float[Tensor, "images ..."]
"""Of the autoencoder: `images channels height width`. As the model takes them, they may be rows of patches."""


def load_host(name: str, dtype: str = "float32") -> Any:
    """A host's pipeline, by folder or hub name.

    Raises:
        ValueError: there is none.
    """
    index = Path(name) / "model_index.json"
    # `diffusers` must be told of a part that was saved as None.
    saved = read_json_object(index).items() if index.is_file() else ()
    absent: dict[str, Any] = {part: None for part, value in saved if value == [None, None]}
    try:
        return DiffusionPipeline.from_pretrained(name, dtype=getattr(torch, dtype), **absent)
    except OSError as error:
        raise ValueError(f"{name!r} is neither the folder of a pipeline nor a hub name: {error}") from error


class HostRun:
    """A host's pipeline, called for square images of one size.

    Args:
        pipe: of a host, routed or not.
        size: pixels a side; None is what the model was made for, where its configuration says.
        options: more arguments of the pipeline's call, such as `max_sequence_length`.

    Raises:
        ValueError: the pipeline is no host or makes videos, or no size is known.
    """

    def __init__(self, pipe: DiffusionPipeline, size: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.pipe: Any = pipe
        self.model: Any
        self.model, self.encoder, self.host = parts(pipe)
        self.codec, self.options = LatentCodec(self.pipe.vae), options or {}
        factor = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None)
        if factor is None:
            raise ValueError(f"{type(pipe).__name__} cannot be used for images: it makes videos, from rows of latents.")
        self.factor = int(factor)
        if size is None:
            side = self.model.config.get("sample_size")
            if not isinstance(side, int):
                raise ValueError(f"{type(pipe).__name__} does not say for what image size it was made: name one.")
            size = side * self.codec.downsampling
        self.size = size

    @property
    def sides(self) -> dict[str, int]:
        """What the pipeline is asked for: without an autoencoder it counts pixels as if there were one.

        Of a pipeline that makes videos that is one frame.
        """
        side = self.size // self.codec.downsampling * self.factor
        frames = {"num_frames": 1} if "num_frames" in inspect.signature(type(self.pipe).__call__).parameters else {}
        return {"height": side, "width": side, **frames}

    def call(self, prompts: Sequence[str]) -> HostCall:
        """How the model is called for prompts, without guidance."""
        return host_call(self.pipe, list(prompts), **self.sides, **self.options)

    def packed(self, latents: Latents, call: HostCall) -> Latents:
        """Latents in the shape that the model takes: rows of patches, or a video of one frame.

        Raises:
            ValueError: they do not come into that shape.
        """
        wanted, pack = call.image_shape, getattr(self.pipe, "_pack_latents", None)
        forms = [latents, latents.unsqueeze(2), latents.movedim(1, -1).unsqueeze(1)]
        if pack and len(wanted) == 3:
            forms.append(pack(latents, *latents.shape))
        found = next((form for form in forms if tuple(form.shape) == wanted), None)
        if found is None:
            raise ValueError(
                f"{type(self.pipe).__name__} cannot be used for images of {self.size} x {self.size} pixels: its model "
                f"takes latents of shape {wanted}, and its autoencoder makes {tuple(latents.shape)}."
            )
        return found

    def unpacked(self, latents: Latents) -> Latents:
        """The inverse of `packed`."""
        if latents.ndim == 3:
            latents = self.pipe._unpack_latents(latents, self.sides["height"], self.sides["width"], self.factor)
        if latents.ndim == 5:  # Kandinsky has channels last
            return latents[:, :, 0] if latents.shape[1] == self.codec.channels else latents[:, 0].movedim(-1, 1)
        return latents

    def predict(self, call: HostCall, noisy: Latents, timestep: Float[Tensor, " images"], module: nn.Module) -> Latents:
        """What the model predicts from packed latents, at timesteps in [0, 1000]; variances are left out.

        Args:
            call: for the prompts of these latents.
            noisy: packed, and as large as the host takes them.
            timestep: 1000 is noise.
            module: the model, or what wraps it.
        """
        args, kwargs = call.at(noisy.to(self.model.dtype), own_time(self.host, self.model, timestep))
        made = module(*args, **kwargs | {"return_dict": False})
        output: Tensor = made if isinstance(made, Tensor) else made[0]  # Kandinsky gives no tuple
        return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * noisy.shape[1] else output

    @property
    def velocity_sign(self) -> int:
        """1 where a host that follows a flow predicts noise minus data, −1 where it predicts data minus noise."""
        return -1 if runs_backward(self.host, self.model) else 1

    def sample(
        self, prompts: Sequence[str], noise: Latents, steps: int, guidance: float, batch_size: int = 16
    ) -> Latents:
        """Final latents of one image a prompt from rows of `noise`, packed, in float32 on the CPU."""
        options = {"use_resolution_binning": False, "output_type": "latent", **self.sides, **self.options}
        taken, ends = inspect.signature(type(self.pipe).__call__).parameters, []
        self.pipe.set_progress_bar_config(disable=True)
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            made = self.pipe(
                prompt=list(prompts[rows]),
                latents=noise[rows].to(self.model.device, self.model.dtype),
                num_inference_steps=steps,
                guidance_scale=guidance,
                **{name: value for name, value in options.items() if name in taken},
            )
            ends.append(made[0].float().cpu())  # `images`, `image` or `frames`
        return torch.cat(ends)

    @torch.no_grad()
    def pictures(self, latents: Latents) -> UInt8[np.ndarray, "images height width 3"]:
        """Pictures of final latents, packed or not."""
        images = self.codec.decode(self.unpacked(latents).to(self.model.device)).float()
        values = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        made: np.ndarray = (values * 255).round().astype(np.uint8)
        return made

    def default(self, name: str) -> Any:
        """What the pipeline takes for an argument of its call that is left out."""
        return inspect.signature(type(self.pipe).__call__).parameters[name].default

    @contextmanager
    def watching_tokens(self) -> Iterator[list[Tensor]]:
        """Collects the tokens that the text encoder is given, a batch a call."""
        seen: list[Tensor] = []

        def see(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["input_ids"])

        handle = self.encoder.register_forward_pre_hook(see, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()
