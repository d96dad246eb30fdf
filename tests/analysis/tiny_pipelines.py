"""Saved pipelines with tiny random models, one a strategy."""

from collections.abc import Callable
from pathlib import Path

import example_fusions  # noqa: F401 (registers fusions that vary with token and state)
import torch

from semantic_routing.analysis.model import AnalysisOptions, SavedModel
from semantic_routing.fusion import FUSIONS, FusionSizes, Moment, Prepared, TextFusion
from semantic_routing.pipelines.saved import find_pipeline

NUM_BLOCKS = 3
NUM_LAYERS = 4  # of the language models in tests/conftest.py
TEXT_CHANNELS = 32
QUICK = AnalysisOptions(
    prompts=("a red circle", "two blue squares and a star"), steps=3, guidance=4.0, guidance_scales=(2.0,), rounds=1
)


if "test-mean" not in FUSIONS:

    @FUSIONS.register("test-mean")
    class Mean(TextFusion):
        """The plain mean of layers: a fusion that has no layer weights and cannot drop layers."""

        def __init__(self, sizes: FusionSizes) -> None:
            super().__init__(sizes)

        def forward(self, prepared: Prepared, moment: Moment) -> torch.Tensor:
            return prepared.features.mean(1)[None]


def saved_pipeline(language_models: Callable[[str], Path], strategy: str, trained: bool = True) -> Path:
    """A pipeline's folder; where not trained, with the weights of initialization. Made once a session."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from semantic_routing import SemanticRoutingPipeline, SemanticRoutingTransformer2DModel

    language_model = language_models("qwen3")
    folder = language_model.parent / f"pipeline-{strategy}-{trained}"
    if folder.exists():
        return folder
    layers = SemanticRoutingTransformer2DModel.layers_read(list(range(1, NUM_LAYERS + 1)), NUM_BLOCKS, strategy)
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
