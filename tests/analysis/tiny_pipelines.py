"""Saved pipelines with tiny random models, one a strategy."""

from collections.abc import Callable
from pathlib import Path

import example_fusions  # noqa: F401 (registers fusions that vary with token and state)
import torch
from torch import Tensor, nn

from semantic_routing.analysis.model import AnalysisOptions, SavedModel
from semantic_routing.fusion import FusionSizes, Moment, Prepared, RoutedFusion, TextFusion
from semantic_routing.pipelines.saved import find_pipeline

NUM_BLOCKS = 3
NUM_LAYERS = 4  # of the language models in tests/conftest.py
TEXT_CHANNELS = 32
QUICK = AnalysisOptions(
    prompts=("a red circle", "two blue squares and a star"), steps=3, guidance=4.0, guidance_scales=(2.0,), rounds=1
)


class Mean(TextFusion):
    """The plain mean of layers: a fusion that has no layer weights and cannot drop layers."""

    def forward(self, prepared: Prepared, moment: Moment) -> Tensor:
        return prepared.features.mean(1)[None]


class PlainWeights(Mean):
    """The same with layer weights, which still cannot drop layers."""

    def layer_weights(self, prepared: Prepared | None, moment: Moment) -> Tensor:
        return torch.full((1, 1, 1, self.sizes.num_layers), 1 / self.sizes.num_layers)


class Unnamed(RoutedFusion):
    """A routed fusion that does not name its parameter's axis over layers."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.beta = nn.Parameter(torch.zeros(sizes.num_layers))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Tensor:
        return self.beta[None, None, None]


class Unbuildable(Mean):
    """A fusion that needs an option which has no default."""

    def __init__(self, sizes: FusionSizes, width: int = 0) -> None:
        if width < 1:
            raise ValueError(f"width must be 1 or more, not {width}.")
        super().__init__(sizes)


class Signed(PlainWeights):
    """Weights of which some are negative, which are no distribution."""

    varies_with = frozenset({"block"})

    def layer_weights(self, prepared: Prepared | None, moment: Moment) -> Tensor:
        return torch.linspace(-1, 2, self.sizes.num_layers).expand(self.sizes.num_blocks, 1, 1, -1)

    def forward(self, prepared: Prepared, moment: Moment) -> Tensor:
        return super().forward(prepared, moment).expand(self.sizes.num_blocks, -1, -1, -1)


class Wide(TextFusion):
    """Two layers side by side: its context is wider than the hidden states."""

    @property
    def out_channels(self) -> int:
        return 2 * super().out_channels

    def forward(self, prepared: Prepared, moment: Moment) -> Tensor:
        return prepared.features[:, [0, -1]].transpose(1, 2).flatten(2)[None]


FUSIONS_OF_TESTS = {
    "test-mean": Mean,
    "test-plain-weights": PlainWeights,
    "test-signed": Signed,
    "test-unbuildable": Unbuildable,
    "test-unnamed": Unnamed,
    "test-wide": Wide,
}


def saved_pipeline(language_models: Callable[[str], Path], strategy: str, trained: bool = True) -> Path:
    """A pipeline's folder; where not trained, with the weights of initialization. Made once a session."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from semantic_routing import SemanticRoutingPipeline, SemanticRoutingTransformer2DModel

    language_model = language_models("qwen3")
    folder = language_model.parent / f"pipeline-{strategy}-{trained}"
    if folder.exists():
        return folder
    layers = SemanticRoutingTransformer2DModel.layers_read(list(range(1, NUM_LAYERS + 1)), NUM_BLOCKS, strategy, {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SemanticRoutingTransformer2DModel(
            strategy=strategy,
            num_text_layers=len(layers),
            text_channels=TEXT_CHANNELS,
            num_blocks=NUM_BLOCKS,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_head_dim=8,
            hidden_size=32,
            in_channels=3,
            patch_size=4,
            sample_size=16,
            timestep_conditioning="adaln-zero",
        )
        if trained:
            for parameter in transformer.parameters():
                parameter.data += 0.15 * torch.randn_like(parameter)
    pipeline = SemanticRoutingPipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), text_model=str(language_model), text_layers=layers
    )
    pipeline.save_pretrained(folder)
    return folder


def model_of(
    language_models: Callable[[str], Path], strategy: str, trained: bool = True, options: AnalysisOptions = QUICK
) -> SavedModel:
    """Such a pipeline, to be analyzed."""
    return SavedModel(find_pipeline(str(saved_pipeline(language_models, strategy, trained))), options)
