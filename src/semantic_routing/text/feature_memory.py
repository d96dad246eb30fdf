"""Features of the prompts that were read last, in memory: for training, whose captions come again."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

States = Float[Tensor, "layers text_tokens text_channels"]


class FeatureMemory:
    """Hidden states of prompts, kept up to a number of bytes; those used longest ago go first.

    Args:
        limit: bytes of all hidden states together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._states: OrderedDict[str, States] = OrderedDict()

    def find(self, prompts: Sequence[str]) -> dict[str, States]:
        """Those of some prompts that are kept."""
        found = {prompt: self._states[prompt] for prompt in prompts if prompt in self._states}
        for prompt in found:
            self._states.move_to_end(prompt)
        return found

    def keep(self, states: Mapping[str, States]) -> None:
        """Adds copies of the hidden states of new prompts: what comes may be views of a whole batch."""
        for prompt, state in states.items():
            self._states[prompt] = state.clone()
            self.size += state.nbytes
        while self.size > self.limit:
            self.size -= self._states.popitem(last=False)[1].nbytes
