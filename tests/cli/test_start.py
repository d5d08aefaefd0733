"""What a training imports up to its first step: nothing that takes long and is not needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NOT_NEEDED = {
    *("datasets", "pandas", "sklearn", "scipy", "matplotlib", "tensorboard"),
    *("cotrain_dist.study", "cotrain_dist.inference", "cotrain_dist.planning"),
}
"""0.3 to 1 second each, or parts of other commands."""

UP_TO_THE_FIRST_STEP = """
import os, sys
from cotrain_dist.runtime import stop

def end_at_first_step():
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def tell(*_):
        print("\\nimported:", *sys.modules, flush=True)
        os._exit(0)

    register_optimizer_step_post_hook(tell)

stop.end_on_signal = end_at_first_step
from cotrain_dist.cli.main import main
sys.exit(main())
"""


@pytest.mark.slow
def test_a_training_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    config = ROOT / "configs" / "digits.yaml"
    done = subprocess.run(
        [sys.executable, "-c", UP_TO_THE_FIRST_STEP, "train", "--config", str(config)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    head, line = done.stdout.rstrip().split("\nimported: ")
    assert "run runs/digits, attempt 1" in head
    imported = set(line.split())
    assert {"torch", "timm", "accelerate", "cotrain_dist.training.steps"} <= imported
    assert not NOT_NEEDED & imported
