"""Imports modules that a user names, so that what they register is known by name everywhere."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

_imported: dict[str, None] = {}


def imported() -> list[str]:
    """What was imported so far, in order: what a new process must import to know the same names."""
    return list(_imported)


def import_user_code(names: Iterable[str], folder: Path | None = None) -> None:
    """Imports each name: a file that ends in `.py`, or a module.

    A file that was imported before, under whatever path, is not run again.

    Args:
        names: files or modules.
        folder: where relative paths of files start; None is the current folder.

    Raises:
        ValueError: a file or module is missing, or fails while it is imported; the message names it.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                path = ((folder or Path()) / name).resolve()
                _import_file(path)
                _imported[str(path)] = None
            else:
                importlib.import_module(name)
                _imported[name] = None
        except Exception as error:
            # Any error: the module is the user's. One sentence tells it, and SROUTE_TRACEBACK=1 shows where it arose.
            raise ValueError(f"{name!r} cannot be imported: {_sentence(error)}") from error


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    known = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    if str(path) in known:
        return
    name = path.stem
    if name in sys.modules:
        raise ImportError(f"a module called {name!r} is loaded already; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with ExitStack() as undo:
        undo.callback(sys.modules.pop, name)  # a module that failed half-way is not left behind
        spec.loader.exec_module(module)
        undo.pop_all()


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
