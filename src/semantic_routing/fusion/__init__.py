"""Semantic routing itself: which language-model layers does each block, at each time, listen to? (paper, section 3)

This folder depends on torch and jaxtyping alone, and is what somebody with a diffusion model of their own needs:

>>> import torch
>>> from semantic_routing.fusion import SemanticRouter
>>> router = SemanticRouter("depth-wise", num_layers=6, num_blocks=4)
>>> hidden_states = torch.randn(2, 6, 10, 384)  # all layers of a language model: batch, layers, text tokens, channels
>>> text = router.prepare(hidden_states)  # once a prompt
>>> timestep = torch.tensor([1000.0, 250.0])  # 1000 is noise
>>> context = router(text, timestep)  # one for each block of your model to cross-attend to
>>> context.shape
torch.Size([4, 2, 10, 384])
>>> router.layer_weights(timestep)[0, 0, 0].detach()  # every routed strategy starts as the mean over layers
tensor([0.1667, 0.1667, 0.1667, 0.1667, 0.1667, 0.1667])

A fusion of your own is a subclass of `TextFusion`, or of `RoutedFusion` if it mixes layers by a softmax, registered by
`@FUSIONS.register("its-name")`.
"""

# Importing a module registers its fusions, the paper's before the others.
from .contract import FUSIONS, FusionSizes, Moment, Prepared, Readers, TextFusion, check_fusion
from .routed import PAPER_STRATEGIES, RoutedFusion, ScaledTime

# isort: split
from .bundles import Bundles
from .concat import Concat
from .gains import LayerGains, check_scale, fuse_with_gains, gains_of, read_gains, write_gains
from .head_wise import HeadWise
from .key_value import KeyValueWise
from .layer_attention import LayerAttention
from .layer_map import LayerMap
from .router import SemanticRouter
from .sigma_estimated import SigmaEstimated
from .signed import Signed
from .state_wise import StateWise
from .token_wise import TokenWise

__all__ = [
    "FUSIONS",
    "PAPER_STRATEGIES",
    "Bundles",
    "Concat",
    "FusionSizes",
    "HeadWise",
    "KeyValueWise",
    "LayerAttention",
    "LayerGains",
    "LayerMap",
    "Moment",
    "Prepared",
    "Readers",
    "RoutedFusion",
    "ScaledTime",
    "SemanticRouter",
    "SigmaEstimated",
    "Signed",
    "StateWise",
    "TextFusion",
    "TokenWise",
    "check_fusion",
    "check_scale",
    "fuse_with_gains",
    "gains_of",
    "read_gains",
    "write_gains",
]
