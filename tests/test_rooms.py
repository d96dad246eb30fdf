"""A room imports only from those above it."""

import ast
from pathlib import Path

import semantic_routing

PACKAGE = Path(semantic_routing.__file__).parent
# From the ground up. Modules of one entry may import one another.
ROOMS = (
    {"__init__", "io"},
    {"reporting"},
    {"fusion"},
    {"flow", "flow_config"},
    {"text"},
    {"scenes"},
    {"data"},
    {"models"},
    {"adapters"},
    {"pipelines"},
    {"training"},
    {"evaluation"},
    {"analysis"},
    {"interop"},
    {"experiments"},
    {"cli", "ui", "__main__"},
)
HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports from, also within functions."""
    package = path.relative_to(PACKAGE).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) - node.level + 1]
            names = [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]
            rooms |= {(*start, name)[0] for name in names} & HEIGHT.keys()
    return rooms


def test_rooms_import_only_what_is_above_them() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"]
    own = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files}
    assert set(own.values()) <= HEIGHT.keys()
    below = {
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in files
        for room in imported_rooms(path)
        if HEIGHT[room] > HEIGHT[own[path]]
    }
    assert not below
