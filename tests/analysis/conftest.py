"""Fusions that only these tests know, so that no other room's tests take them for the project's."""

import pytest
from tiny_pipelines import FUSIONS_OF_TESTS

from semantic_routing.fusion import FUSIONS


@pytest.fixture(autouse=True)
def _fusions_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fusion in FUSIONS_OF_TESTS.items():
        monkeypatch.setitem(FUSIONS._items, name, fusion)
