"""Semantic routing itself: which language-model layers does each block, at each time, listen to? (paper, section 3)

This folder depends on torch alone, and is what somebody with a diffusion model of their own needs:

>>> import torch
>>> from semantic_routing.fusion import SemanticRouter
>>> router = SemanticRouter("depth-wise", num_layers=6, num_blocks=4)
>>> hidden_states = torch.randn(2, 6, 10, 384)  # all layers of a language model: batch, layers, text tokens, channels
>>> text = router.prepare(hidden_states)  # once a prompt
>>> timestep = torch.tensor([1000.0, 250.0])  # 1000 is noise
>>> context = router(text, timestep)  # one for each block of your model to cross-attend to
>>> context.shape
torch.Size([4, 2, 10, 384])
>>> router.weights(timestep)[0, 0].detach()  # every strategy starts as the mean over layers
tensor([0.1667, 0.1667, 0.1667, 0.1667, 0.1667, 0.1667])
"""

from ..io.registry import Registry
from .gate import Gate
from .router import PreparedText, SemanticRouter
from .strategies import STRATEGIES, FusionStrategy

FUSIONS: Registry[type[FusionStrategy]] = Registry("fusion strategy")
for name, strategy in STRATEGIES.items():
    FUSIONS.register(name)(strategy)

__all__ = ["FUSIONS", "STRATEGIES", "FusionStrategy", "Gate", "PreparedText", "SemanticRouter"]
