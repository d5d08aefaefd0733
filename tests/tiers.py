"""Which cases of a test a newcomer runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(kept: Iterable[str], cases: Iterable[str]) -> list[Any]:
    """All cases for `parametrize`, those that are not kept with the marker `slow`."""
    names, of_newcomers = list(cases), set(kept)
    assert of_newcomers <= set(names), f"no such cases: {of_newcomers - set(names)}"
    return [
        name if name in of_newcomers else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]
