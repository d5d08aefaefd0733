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
SMALL = [
    *("--data.image_size", "16", "--data.labeled_per_class", "2", "--data.test_per_class", "1"),
    *("--model_a.name", "test_resnet", "--model_b.name", "test_vit", "--train.batch_size", "8"),
    *("--pretrain.num_epochs", "1", "--pretrain.warmup_epochs", "0"),
    *("--cotrain.num_epochs", "1", "--cotrain.warmup_epochs", "0", "--device", "cpu"),
]


def commands_of_the_tutorial() -> list[list[str]]:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.split() for line in lines if not line.startswith("#")]


@pytest.mark.slow
def test_every_command_of_the_tutorial(tmp_path: Path, digits_folder: Path) -> None:
    for name in ("docs", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = {
        "python": [sys.executable],
        "cotrain-dist": [sys.executable, "-m", "cotrain_dist"],
        "accelerate": [str(BIN / "accelerate")],
    }
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    commands = commands_of_the_tutorial()
    assert len(commands) == 5
    for program, *arguments in commands:
        words = [word.replace("PATH/TO/caltech101", str(digits_folder)) for word in arguments]
        words += ["10", "5", "3"] if "docs/make_table.py" in words else []
        words += SMALL if {"plan", "train"} & set(words) else []
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
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert len(rows) == 30
    assert {row["label_a"] for row in rows} <= {f"digit_{digit}" for digit in range(10)}
