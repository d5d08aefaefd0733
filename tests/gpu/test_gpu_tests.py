"""`make test-gpu` itself: on a machine without a GPU it fails, and a skipped test fails it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ON_GPUS, a_skip_fails

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"],
        env=os.environ | {"COTRAIN_TEST_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "COTRAIN_TEST_DEVICE=cuda: this machine shows no GPU" in done.stdout + done.stderr


def test_the_target_runs_these_tests_on_the_gpu() -> None:
    words = (ROOT / "Makefile").read_text().split("test-gpu: setup\n\t")[1].splitlines()[0]
    assert words == "COTRAIN_TEST_DEVICE=cuda OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu"
    assert all((ROOT / path).exists() for path in ON_GPUS)


@pytest.mark.parametrize(
    ("device", "required", "num_skipped", "of_clusters", "expected"),
    [
        ("cpu", "", 3, 3, False),
        ("cpu", "1", 3, 0, False),
        ("cpu", "1", 3, 1, True),
        ("cuda", "", 0, 0, False),
        ("cuda", "", 1, 0, True),
    ],
)
def test_which_skips_fail(
    device: str,
    required: str,
    num_skipped: int,
    of_clusters: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COTRAIN_REQUIRE_CLUSTER", required)
    assert a_skip_fails(device, num_skipped, of_clusters) is expected
