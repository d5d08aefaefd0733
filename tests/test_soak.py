"""The soak in short: real ranks, killed, frozen or stopped, go on and end with the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def _soak(output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SOAK), str(output), *words],
        env=os.environ | {"SOAK_MINUTES": "30"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "recipe", "deeds", "status"),
    [
        ("1+3", "paper", ["kill"], -9),
        ("2", "heads", ["kill"], -9),
        ("2", "paper", ["freeze"], -9),
        ("1+3", "synergy", ["SIGTERM", "SIGINT", "stop file"], 3),
    ],
    ids=["1+3-paper-kill", "2-heads-kill", "2-paper-freeze", "1+3-synergy-stop"],
)
def test_disturbed_ranks_go_on_to_the_same_end(
    world: str, recipe: str, deeds: list[str], status: int, tmp_path: Path
) -> None:
    words = ("--seed", "3", "--episodes", "2", "--worlds", world, "--recipes", recipe)
    done = _soak(tmp_path, *words, "--deeds", *deeds)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["is_same"] and line["status"] == status for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "world", "recipe", "phase", "found"),
    [
        ("layout", "1+3", "paper", "train", "other bits"),
        ("rename", "1", "paper", "commit, writing", "is not whole"),
        ("exchange", "1", "synergy", "train", "other bits"),
    ],
)
def test_a_broken_build_is_found_out(
    broken: str, world: str, recipe: str, phase: str, found: str, tmp_path: Path
) -> None:
    where = ("--worlds", world, "--recipes", recipe, "--phases", phase)
    done = _soak(tmp_path, "--seed", "1", "--episodes", "8", "--broken", broken, *where)
    assert done.returncode == 1, done.stdout + done.stderr
    assert found in done.stdout
