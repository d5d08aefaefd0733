"""`compile: true`: the training step is compiled, labeling and measuring are not."""

from pathlib import Path

import pytest
import torch
from conftest import two_models_config
from ranks import run_ranks
from torch import nn

from cotrain_dist.config import Config, CotrainConfig, ModelConfig, PretrainConfig


class Recorder(nn.Module):
    """Stands for a compiled model; counts its calls."""

    num_calls = 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert torch.is_grad_enabled(), "labeling and measuring take the bare model"
        assert self.training
        Recorder.num_calls += 1
        return self.model(images)


def train_with_a_stub(config: Config) -> tuple[int, int]:
    """A body: how many models were compiled, and how often they were called."""
    from cotrain_dist import cotrain

    compiled, original = [], torch.compile
    Recorder.num_calls = 0

    def compile_nothing(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return Recorder(model)

    torch.compile = compile_nothing  # type: ignore[assignment]
    try:
        cotrain(config, quiet=True)
    finally:
        torch.compile = original
    return len(compiled), Recorder.num_calls


@pytest.mark.parametrize("compiles", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_trained_module_alone_is_compiled(
    digits_table: Path, tmp_path: Path, compiles: bool
) -> None:
    """With a stub: compiling even a tiny model takes half a minute of a CPU."""
    config = two_models_config(
        digits_table,
        tmp_path / "run",
        compile=compiles,
        model_b=ModelConfig(name="test_resnet"),
        pretrain=PretrainConfig(num_epochs=1, warmup_epochs=0),
        cotrain=CotrainConfig(num_epochs=1, warmup_epochs=0),
        tracking="none",
    )
    ((num_compiled, num_calls),) = run_ranks(train_with_a_stub, 1, tmp_path, config)
    assert num_compiled == (2 if compiles else 0)
    # 16 images of L in steps of 10: two in Step 1 and two or more in Step 2, for each model.
    assert num_calls >= 8 if compiles else num_calls == 0
    log = (tmp_path / "run" / "logs" / "rank-000.log").read_text()
    assert ("compile is true" in log) == compiles
