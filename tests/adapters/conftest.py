"""Tiny hosts, made once and copied."""

import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `tiny_hosts`, here and in the processes that tests start

from tiny_hosts import MAKERS, TinyHost, make_host

diffusers.logging.set_verbosity_error()


@pytest.fixture(params=MAKERS)
def host(request: pytest.FixtureRequest) -> TinyHost:
    """Each host in turn."""
    return make_host(request.param)


@pytest.fixture
def make() -> Callable[[str], TinyHost]:
    """A host by the name of its pipeline."""
    return make_host
