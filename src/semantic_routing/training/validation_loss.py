"""The loss of held-out examples at fixed noise levels, which falls smoothly where the loss of a step is mostly noise.

The training loss draws other pictures and other noise levels at each step. Here both are fixed, so that two numbers of
one run, or of two runs, differ by the models alone.
"""

import torch
from accelerate import Accelerator
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from ..data import Batch, BrokenExamples, ExampleStream, LatentsSource, collate
from ..flow import Prediction, interpolate, velocity
from ..fusion.contract import NUM_TRAIN_TIMESTEPS
from ..models.latents import LatentCodec, PosteriorCodec
from ..text import TextEncoder
from .config import LARGEST_SEED, Config

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The noise levels."""


def velocity_errors(
    transformer: nn.Module,
    batch: Batch,
    encoder: TextEncoder,
    codec: LatentCodec | PosteriorCodec,
    prediction: Prediction,
    device: torch.device,
    dtype: torch.dtype,
) -> Float[Tensor, "batch sigmas"]:
    """The mean squared error of the velocity of each example at each of `SIGMAS`, whatever the model predicts.

    All levels of an example see the same noise, which is a function of its seed.

    Args:
        transformer: the diffusion transformer, perhaps wrapped for distributed training.
        batch: images and captions.
        encoder: makes hidden states of captions.
        codec: makes latents of images, or of their posteriors.
        prediction: what the transformer's output means.
        device: where to compute.
        dtype: that the transformer computes in.
    """
    generators = [torch.Generator().manual_seed(int(seed)) for seed in batch.noise_seeds]
    latents = codec.encode(batch.images.to(device), generators)
    noise = randn_tensor(latents.shape, generators, device)
    text = encoder(batch.captions).to(device, dtype)
    errors = []
    for sigma in SIGMAS:
        timestep = torch.full((len(latents),), sigma * NUM_TRAIN_TIMESTEPS, device=device)
        noisy = interpolate(latents, noise, timestep)
        found = velocity(transformer(noisy, timestep, *text).sample, noisy, timestep, prediction)
        errors.append((found - (noise.float() - latents.float())).square().flatten(1).mean(1))
    return torch.stack(errors, dim=1)


class ValidationLoss:
    """Measures `velocity_errors` of a run's held-out examples, shared by all processes.

    Args:
        config: the run.
        encoder: the run's.
        codec: the run's.
        accelerator: the run's.
        batch_size: examples at a time and process.

    Raises:
        ValueError: there are no held-out examples, or they are not of the kind that the run trains on.
    """

    def __init__(
        self,
        config: Config,
        encoder: TextEncoder,
        codec: LatentCodec | PosteriorCodec,
        accelerator: Accelerator,
        batch_size: int,
    ) -> None:
        options, size = config.validation, config.data.image_size
        chosen = options.source or config.data.source
        if isinstance(chosen, LatentsSource) != isinstance(config.data.source, LatentsSource):
            raise ValueError("validation.source and data.source must both hold latents computed ahead, or neither.")
        seed = LARGEST_SEED - options.seed  # far from the seeds that runs have: an endless source gives other examples
        source = chosen.open(size, seed)
        if options.source is None and source.length is not None:
            raise ValueError(
                f"validation.loss_every is {options.loss_every}, but all {source.length} examples of data.source are "
                "trained on: name held-out ones with validation.source."
            )
        self.count = min(options.loss_examples, source.length or options.loss_examples)
        self.stream = ExampleStream(source, size, seed)
        self.broken = BrokenExamples(source.length, config.data.max_broken)
        self.encoder, self.codec, self.accelerator, self.batch_size = encoder, codec, accelerator, batch_size
        self.prediction = config.model.prediction
        self.dtype = getattr(torch, config.training.precision)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The mean over examples and noise levels, and that of each level."""
        accelerator, size = self.accelerator, self.batch_size
        total = torch.zeros(len(SIGMAS), dtype=torch.float64)
        # All processes take as many steps: a sharded model computes only where all of them do.
        for start in range(0, self.count, size * accelerator.num_processes):
            first = start + accelerator.process_index * size
            batch = collate([self.stream[number % self.count] for number in range(first, first + size)])
            self.broken.count(batch.skipped)
            with accelerator.autocast():
                errors = velocity_errors(
                    model, batch, self.encoder, self.codec, self.prediction, accelerator.device, self.dtype
                )
            total += accelerator.gather(errors).double().cpu()[: self.count - start].sum(0)
        means = (total / self.count).tolist()
        by_level = {f"validation_loss_{sigma:g}": mean for sigma, mean in zip(SIGMAS, means, strict=True)}
        return {"validation_loss": sum(means) / len(means), **by_level}
