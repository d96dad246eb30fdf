"""The config's section of flow matching."""

from pydantic import Field, NonNegativeFloat, PositiveFloat

from .io.section import Section


class FlowConfig(Section):
    """Noise levels in training and what each counts, and the scheduler's shift."""

    timestep_mean: float = Field(0.0, description="of logit(sigma); above 0 trains noisier pictures more")
    timestep_std: PositiveFloat = Field(1.0, description="of logit(sigma), which is drawn from a normal distribution")
    weight_power: NonNegativeFloat = Field(
        0.0, description="losses are divided by sigma to this power; 2 makes the error of a sample that of its velocity"
    )
    shift: PositiveFloat = Field(1.0, description="of the sigma schedule, in training and sampling; 3 for SD3 latents")
