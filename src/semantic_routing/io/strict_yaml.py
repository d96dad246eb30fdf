"""YAML for configs: a key that is named twice and a text that grows without bound are errors."""

import yaml

from .messages import brief

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
"""Of a text, once all its aliases are expanded."""


def parse_yaml(text: str, name: str) -> object:
    """The value that a YAML text stands for.

    Args:
        text: of one document.
        name: what error messages call it.

    Raises:
        ValueError: it is not YAML, names a key twice, or is too large.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{name} has {len(text)} characters, more than the {MAX_CHARACTERS} that a config may have.")
    try:
        loader = yaml.SafeLoader(text)  # which reads the first characters
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{name} is not valid YAML: {reason}") from error


def _count(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """How many values a node holds, each alias counted as all that it stands for; `counts` remembers nodes by id."""
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            raise ValueError(f"an alias in line {node.start_mark.line + 1} holds itself")
        return known
    counts[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count(child, counts) for child in children)
    if total > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values once its aliases are expanded")
    counts[id(node)] = total
    return total


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise ValueError(f"the key {brief(key.value)} is named twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
