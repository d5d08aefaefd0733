"""The tutorial's commands as they stand in docs/tutorial.md, on small images and tiny models."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def commands_of_the_tutorial(starts: list[str]) -> list[list[str]]:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if not line.startswith("#")]
    words = [line.split() for line in lines]
    return [[part for w in own for part in (starts if w == "$STARTS" else [w])] for own in words]


@pytest.mark.slow
def test_every_command_of_the_tutorial(
    tmp_path: Path, digits_folder: Path, start_options: list[str]
) -> None:
    for name in ("docs", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = {
        "python": [sys.executable],
        "cotrain-dist": [sys.executable, "-m", "cotrain_dist"],
        "accelerate": [str(BIN / "accelerate")],
    }
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")  # no user's own features
    commands = commands_of_the_tutorial(start_options)
    assert len(commands) == 10
    printed = []
    for program, *arguments in commands:
        words = [word.replace("PATH/TO/trashnet", str(digits_folder)) for word in arguments]
        done = subprocess.run(
            [*programs[program], *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    assert "120 images in tutorial/images, 80 kept aside" in printed[0]
    assert "60 of 120 images to label" in printed[1]
    assert "T 0, V 0, L_A 30, L_B 30, U 60" in printed[3]
    assert "cross-validation on L" in printed[3]
    assert "T 0, V 0, L_A 60, L_B 60, U 0" in printed[6]
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert len(rows) == 120
    true = [Path(row["path"]).name.partition("--")[0] for row in rows]
    # All images are labeled by now, so this is what was learned: far above chance, one in ten.
    right = sum(row["label"] == name for row, name in zip(rows, true, strict=True))
    assert right > 60
