"""Named implementations of one idea, to which any module can add its own."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Item = TypeVar("Item")


class Registry(Mapping[str, Item]):
    """A live mapping from names to implementations.

    >>> SHAPES = Registry[type]("shape")
    >>> @SHAPES.register("circle")
    ... class Circle: ...
    >>> SHAPES.find("circle") is Circle
    True

    Args:
        kind: what is registered, in the singular, for error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, Item] = {}

    def register(self, name: str) -> Callable[[Item], Item]:
        """A decorator that registers a class or function under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def add(item: Item) -> Item:
            if name in self._items:
                raise ValueError(
                    f"The {self.kind} {name!r} is registered already, by {source_of(self._items[name])}; "
                    "choose another name."
                )
            self._items[name] = item
            return item

        return add

    def find(self, name: str) -> Item:
        """The implementation called `name`.

        Raises:
            ValueError: there is none; the message lists the names that exist.
        """
        if name not in self._items:
            raise ValueError(f"Unknown {self.kind} {name!r}: expected one of {', '.join(self._items)}.")
        return self._items[name]

    def __getitem__(self, name: str) -> Item:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def source_of(item: object) -> str:
    """Where a class or function is defined, such as `my_fusion.WordGate`."""
    return f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', type(item).__qualname__)}"
