"""A resume elsewhere: with another torch, device or source, and in fp16 after fp32."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.training.commits import restore_cotrain
from cotrain_dist.training.found import agree_on_commits, find_commits
from cotrain_dist.training.setup import first_models, prepare, start_world
from cotrain_dist.training.student import build_student, start_step_two
from cotrain_dist.types import Role


@pytest.fixture
def config(digits_folder: Path, tmp_path: Path) -> Config:
    return tiny_config(
        digits_folder, tmp_path / "run", pretrain={"num_epochs": 1}, cotrain={"num_epochs": 1}
    )


def resume_and_say(config: Config, folder: Path, **changes: str) -> list[str]:
    """The warnings of a resume of a run that was made with something else."""
    file = Path(config.output_dir) / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (folder / "rank-0.out").write_text("")
    run_ranks(train_run, 1, folder, config, True)
    printed = (folder / "rank-0.out").read_text()
    return [line for line in printed.splitlines() if "bit-equal" in line]


def test_what_a_resume_changes_is_told(config: Config, tmp_path: Path) -> None:
    run_ranks(train_run, 1, tmp_path, config)
    assert resume_and_say(config, tmp_path) == []
    others = {"torch": "2.0.1", "device": "NVIDIA H100", "source": "0123456789ab"}
    source = json.loads((tmp_path / "run" / "environment-2.json").read_text())["source"]
    assert resume_and_say(config, tmp_path, **others) == [
        f"warning: resumed with torch {version('torch')} (made with 2.0.1), device cpu (made "
        f"with NVIDIA H100), source of cotrain_dist {source} (made with 0123456789ab): right, but "
        "not bit-equal to an undisturbed run"
    ]
    log = (tmp_path / "run" / "logs" / "rank-000.log").read_text()
    assert "WARNING resumed with torch" in log


def resume_with_scalers(config: Config) -> list[dict[str, Any]]:
    """A body: the states of the loss scalers of both models after a resume in fp16, as on a GPU."""
    with start_world(config) as rt:
        ctx, images = prepare(config, rt, resume=True)
        students = []
        for role, model in first_models(config, list(Role), images.table.class_names).items():
            student = build_student(role, model, resolve_role(config, role.value), rt)
            student.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
            start_step_two(student)
            students.append(student)
        commits = agree_on_commits(find_commits(images.table, ctx), ctx)
        restore_cotrain(students, commits["world"], images, ctx)
        return [student.scaler.state_dict() for student in students]


@pytest.mark.slow
def test_fp16_goes_on_from_a_commit_without_a_scaler(config: Config, tmp_path: Path) -> None:
    run_ranks(train_run, 1, tmp_path, config)
    (states,) = run_ranks(resume_with_scalers, 1, tmp_path, config)
    assert [state["scale"] for state in states] == [256.0, 256.0]
