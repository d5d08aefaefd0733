"""How many threads a rank gets and how they wait; a user's or a launcher's word wins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotrain_dist.runtime.threads import (
    GIVEN_BY,
    choose_threads,
    settle_threads,
    usable_cores,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"OMP_NUM_THREADS": "8", "OMP_WAIT_POLICY": "PASSIVE"}),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"},
            {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"},
        ),
        # A world of which nothing is known but its size: all of it may be here.
        ({"WORLD_SIZE": "3"}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"LOCAL_WORLD_SIZE": "16"}, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"LOCAL_WORLD_SIZE": "none"}, {"OMP_NUM_THREADS": "8", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "3"}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"MKL_NUM_THREADS": "3"}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_NUM_THREADS": "8"}),
        ({"KMP_BLOCKTIME": "1", "OMP_NUM_THREADS": "1"}, {}),
        ({"GOMP_SPINCOUNT": "100", "OMP_NUM_THREADS": "1"}, {}),
    ],
)
def test_what_is_given_wins_and_the_rest_is_chosen(
    environ: dict[str, str], expected: dict[str, str]
) -> None:
    assert choose_threads(environ, 8) == expected


def test_once_torch_is_there_nothing_is_set() -> None:
    assert "torch" in sys.modules or __import__("torch")
    environ: dict[str, str] = {}
    settle_threads(environ)
    assert environ == {}


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's")
def test_two_threads_on_one_core_count_once_and_a_container_has_its_limit(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == len(allowed), "the system tells nothing"
    for number in allowed:
        topology = tmp_path / f"devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{allowed[0]}-{allowed[-1]}\n")
    assert usable_cores(tmp_path) == 1
    for number in allowed:
        file = tmp_path / f"devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        file.write_text(f"{number}\n")
    limit = tmp_path / "fs/cgroup/cpu.max"
    limit.parent.mkdir(parents=True)
    for text, expected in (
        ("max 100000", len(allowed)),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("99900000 100000", len(allowed)),
    ):
        limit.write_text(f"{text}\n")
        assert usable_cores(tmp_path) == expected, text


def environment_of(arguments: list[str], folder: Path, **given: str) -> str:
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in {variable for names in GIVEN_BY.values() for variable in names}
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ | {"PYTHONPATH": str(ROOT)} | given,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_command_line_says_what_was_chosen_and_torch_obeys(tmp_path: Path) -> None:
    shown = environment_of(["-m", "cotrain_dist", "env"], tmp_path, LOCAL_WORLD_SIZE="999")
    assert "OMP_NUM_THREADS: 1\n" in shown
    assert "OMP_WAIT_POLICY: PASSIVE\n" in shown
    assert "CPU threads: 1\n" in shown


@pytest.mark.slow
def test_the_command_line_keeps_what_a_user_has_given(tmp_path: Path) -> None:
    shown = environment_of(["-m", "cotrain_dist", "env"], tmp_path, OMP_NUM_THREADS="3")
    assert "OMP_NUM_THREADS: 3\n" in shown


@pytest.mark.slow
def test_the_python_api_settles_threads_and_a_run_tells(tmp_path: Path) -> None:
    script = """
from cotrain_dist import Config, CotrainConfig, DataConfig, ModelConfig, PretrainConfig, cotrain
model = ModelConfig(name="test_resnet")
cotrain(Config(
    data=DataConfig(image_size=16, labeled_per_class=1, test_fraction=0.02),
    model_a=model, model_b=model, device="cpu", output_dir="run",
    pretrain=PretrainConfig(num_epochs=1), cotrain=CotrainConfig(num_epochs=0),
))
"""
    environment_of(["-c", script], tmp_path, OMP_NUM_THREADS="1")
    told = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert told["num_threads_per_rank"] == 1
    assert told["threads"] == {
        "OMP_NUM_THREADS": "1 (given)",
        "OMP_WAIT_POLICY": "PASSIVE (chosen)",
    }
    (log,) = (tmp_path / "run").rglob("rank-000.log")
    assert "threads: OMP_NUM_THREADS=1 (given), OMP_WAIT_POLICY=PASSIVE (chosen)" in log.read_text()
