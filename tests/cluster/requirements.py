"""Skip where a machine lacks what a test needs; under COTRAIN_REQUIRE_CLUSTER fail."""

import os

import pytest


def require(lacking: list[str]) -> None:
    """End the test unless nothing is lacking."""
    if not lacking:
        return
    reason = f"this machine lacks {', '.join(lacking)}"
    if os.environ.get("COTRAIN_REQUIRE_CLUSTER"):
        pytest.fail(reason)
    pytest.skip(reason)
