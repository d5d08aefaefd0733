"""`deterministic`: what it asks for, that it is taken back, and that a CPU needs no asking."""

import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import cotrain_quietly
from ranks import run_ranks, tiny_config
from torch.nn.parallel import DistributedDataParallel

from cotrain_dist.config import Config
from cotrain_dist.runtime.determinism import (
    ENVIRON,
    describe_determinism,
    not_exact_line,
    set_determinism,
)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ENVIRON:
        monkeypatch.delenv(name, raising=False)
    yield
    set_determinism(False)


def test_it_is_set_and_taken_back() -> None:
    torch.backends.cudnn.benchmark = True
    set_determinism(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert {name: os.environ[name] for name in ENVIRON} == ENVIRON
    assert describe_determinism() == {"deterministic": True, **ENVIRON}
    set_determinism(True)
    set_determinism(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert not set(ENVIRON) & set(os.environ)
    assert describe_determinism() == {"deterministic": False, **dict.fromkeys(ENVIRON)}


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    set_determinism(True)
    assert os.environ["NCCL_ALGO"] == "Tree"
    set_determinism(False)
    assert os.environ["NCCL_ALGO"] == "Tree"


def train_in_both_ways(first: Config, second: Config) -> list[bool]:
    """A body: two trainings in one process, and whether torch was asked after each."""
    asked = []
    for config in (first, second):
        cotrain_quietly(config)
        asked.append(torch.are_deterministic_algorithms_enabled())
    return asked


def test_on_a_cpu_a_run_with_it_is_the_run_without_it(digits_folder: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model_a": {"name": "test_efficientnet", "drop_rate": 0.1},
        "pretrain": {"num_epochs": 1},
        "cotrain": {"num_epochs": 1},
    }
    config = tiny_config(digits_folder, tmp_path / "with", deterministic=True, **changes)
    plain = replace(config, deterministic=False, output_dir=str(tmp_path / "without"))
    (asked,) = run_ranks(train_in_both_ways, 1, tmp_path, config, plain)
    assert asked == [True, False]
    for name in ("a", "b"):
        of_with, of_without = (
            (tmp_path / run / "models" / name / "model.safetensors").read_bytes()
            for run in ("with", "without")
        )
        assert of_with == of_without
    environment = json.loads((tmp_path / "with" / "environment.json").read_text())
    assert environment["deterministic"] is True
    assert environment["NCCL_ALGO"] == "Ring"


def test_ddp_has_the_argument_that_the_lower_bound_of_torch_stands_for() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"torch>=2.13",' in text
    assert "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters


def test_it_is_said_where_bits_may_differ() -> None:
    off = {"compiled": False, "tf32": False, "deterministic": False}
    assert not_exact_line("cpu", **off | {"tf32": True}) is None
    assert not_exact_line("cuda", **off | {"deterministic": True}) is None
    line = not_exact_line("cuda", **off | {"tf32": True})
    assert line is not None
    assert "tf32 is true" in line
    assert "deterministic is false" in line
    compiled = not_exact_line("cpu", **off | {"compiled": True})
    assert compiled is not None
    assert "compile is true" in compiled
