"""The soak in short: real ranks, killed for good, go on and end with the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize(("world", "recipe"), [("1+3", "paper"), ("2", "heads")])
def test_killed_ranks_go_on_to_the_same_end(world: str, recipe: str, tmp_path: Path) -> None:
    command = [sys.executable, SOAK, tmp_path, "--seed", "3", "--episodes", "2"]
    done = subprocess.run(
        [*map(str, command), "--worlds", world, "--recipes", recipe],
        env=os.environ | {"SOAK_MINUTES": "30"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["is_same"] and line["status"] == -9 for line in lines)
