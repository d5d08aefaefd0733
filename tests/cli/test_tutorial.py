"""The tutorial's commands as they stand in docs/tutorial.md, on small images and tiny models."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SMALLER = {"60": "40", "100": "30", "0.9": "0.1"}
"""Numbers of the tutorial that stand for others here: there are fewer images, and weak models."""
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
    assert len(commands) == 15
    printed = []
    for program, *arguments in commands:
        words = [SMALLER.get(word, word) for word in arguments]
        words = [word.replace("PATH/TO/trashnet", str(digits_folder)) for word in words]
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
    assert "40 of 120 images to label" in printed[1]
    assert "T 0, V 0, L_A 20, L_B 20, U 80" in printed[3]
    assert "cross-validation on L" in printed[3]
    assert "T 0, V 0, L_A 40, L_B 40, U 40" in printed[6]
    assert "30 of 40 images of U, drawn at random for an audit" in printed[10]
    assert "of these labels are right, with 95% confidence" in printed[12]
    assert (tmp_path / "tutorial" / "report.html").is_file()
    assert (tmp_path / "tutorial" / "model.onnx").is_file()
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert len(rows) == 120
    true = [Path(row["path"]).name.partition("--")[0] for row in rows]
    # Most images are labeled by now, so this is what was learned: far above chance, one in ten.
    right = sum(row["label"] == name for row, name in zip(rows, true, strict=True))
    assert right > 50
