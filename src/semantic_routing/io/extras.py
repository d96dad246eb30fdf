"""How packages are installed that the project does not bring along."""

import re

PROJECT = "semantic-routing"


def how_to_install(package: str) -> str:
    """The command that installs a package, by the extra of this project that asks for it where there is one."""
    from importlib.metadata import PackageNotFoundError, requires  # slow to import, and seldom needed

    try:
        requirements = requires(PROJECT) or []
    except PackageNotFoundError:  # run from its sources
        requirements = []
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([^'\"]+)['\"]", requirement)
        if name and extra and _normal(name[0]) == _normal(package):
            return f"pip install '{PROJECT}[{extra[1]}]'"
    return f"pip install {package}"


def _normal(name: str) -> str:
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()
