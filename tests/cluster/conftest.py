"""A real SLURM and two network hosts; a reason to skip, or with COTRAIN_REQUIRE_CLUSTER to fail."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import slurm


def _skip_or_fail(lacking: list[str]) -> None:
    if not lacking:
        return
    reason = f"this machine lacks {', '.join(lacking)}"
    if os.environ.get("COTRAIN_REQUIRE_CLUSTER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    """Two nodes; its folder's path is short, since sockets live there."""
    _skip_or_fail(slurm.missing_tools())
    with tempfile.TemporaryDirectory(prefix="sc.", dir="/tmp", ignore_cleanup_errors=True) as path:
        started = slurm.Cluster(Path(path))
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture
def two_hosts() -> Iterator[hosts.Hosts]:
    """Hosts a and b with a cable between them."""
    _skip_or_fail(hosts.missing_tools())
    pair = hosts.Hosts(f"ct{os.getpid() % 10_000}")
    try:
        pair.up()
        yield pair
    finally:
        pair.down()
