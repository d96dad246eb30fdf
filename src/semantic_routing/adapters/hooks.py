"""What the hooks of this room share: arguments by their names, and removal.

Hooks are found on modules by the class that they belong to, and no handle is kept: so a deep copy of a hooked model can
be rid of its hooks too.
"""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

Call = tuple[tuple[object, ...], dict[str, object]]
"""Arguments of a call, by position and by name."""


class Argument(NamedTuple):
    """An argument of a module's `forward`, however a caller passes it."""

    name: str
    position: int

    @classmethod
    def of(cls, module: nn.Module, name: str) -> "Argument":
        """The argument of that name. The class is asked, since `accelerate` replaces `forward` of the instance."""
        names = list(inspect.signature(type(module).forward).parameters)
        return cls(name, names.index(name) - 1)

    def get(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        """Its value in a call; None where it is left out."""
        return args[self.position] if self.position < len(args) else kwargs.get(self.name)

    def put(self, args: tuple[object, ...], kwargs: dict[str, object], value: object) -> Call:
        """The call with another value for it."""
        if self.position < len(args):
            return (*args[: self.position], value, *args[self.position + 1 :]), kwargs
        return args, {**kwargs, self.name: value}


def owners(model: nn.Module) -> Iterator[object]:
    """The objects whose methods are hooks of a model or of its modules."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            yield from (getattr(hook, "__self__", None) for hook in hooks.values())


def remove_hooks(model: nn.Module, *kinds: type) -> None:
    """Takes all hooks that are methods of these classes off a model and its modules."""
    for module in model.modules():
        for hooks, flags in (
            (module._forward_pre_hooks, (module._forward_pre_hooks_with_kwargs,)),
            (module._forward_hooks, (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)),
        ):
            for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), kinds)]:
                for table in (hooks, *flags):
                    table.pop(key, None)
