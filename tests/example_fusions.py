"""Two small fusions that vary with what the paper's do not: the token, and the state of the image."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from semantic_routing.fusion import FUSIONS, FusionSizes, Moment, Prepared, RoutedFusion, SemanticRouter

SIZES = {"num_layers": 5, "num_blocks": 3, "text_channels": 8, "state_channels": 6}


class ByToken(RoutedFusion):
    """Each token asks for its own mixture: z_{n,l} = q · LN(H_n^l)."""

    varies_with = frozenset({"token"})

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.query = nn.Parameter(torch.zeros(sizes.text_channels or 1))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Tensor:
        assert prepared is not None
        return (prepared.features.float() @ self.query).transpose(1, 2)[None]


class ByState(RoutedFusion):
    """Each block asks by the mean of its image tokens: z_{d,l} = β_{d,l} + W s."""

    varies_with = frozenset({"block", "state"})
    layer_axes: ClassVar[dict[str, int]] = {"beta": 1, "query": 0}

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.beta = nn.Parameter(torch.zeros(sizes.num_blocks, sizes.num_layers))
        self.query = nn.Parameter(torch.zeros(sizes.num_layers, sizes.state_channels or 1))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Tensor:
        assert moment.state is not None
        return (self.beta[moment.block] + moment.state.float() @ self.query.T)[None, :, None]


EXAMPLES = {"test-by-token": ByToken, "test-by-state": ByState}
for _name, _fusion in EXAMPLES.items():
    if _name not in FUSIONS:
        FUSIONS.register(_name)(_fusion)


def randomize(router: SemanticRouter, seed: int = 0, scale: float = 1.0) -> SemanticRouter:
    """Gives every parameter normal values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return router


def make(strategy: str, seed: int = 0, scale: float = 1.0, **sizes: int) -> SemanticRouter:
    """A router with random weights."""
    return randomize(SemanticRouter(strategy, **{**SIZES, **sizes}), seed, scale)
