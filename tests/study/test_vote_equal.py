"""`vote-equal`: labels alone, for as long as `synergy` trains."""

from dataclasses import replace
from pathlib import Path

import pytest
from ranks import run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.study.reproduce import finished_outcomes


def _reproduce(config: Config, arms: list[str]) -> None:
    """A body: the study."""
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.study.reproduce import reproduce

    with start_runtime(config) as rt:
        reproduce(config, [0], arms, rt)


@pytest.mark.slow
def test_it_takes_the_same_step_one_and_at_least_the_steps_of_step_two(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "study",
        model_a={"name": None, "pretrained": starts["a"]},
        model_b={"name": None, "pretrained": starts["b"]},
        data={"feature_cache": str(tmp_path / "cache"), "labeled_per_class": 2},
        pretrain={"num_epochs": 2, "learning_rate": 1e-3, "fit_head": True},
        cotrain={"num_epochs": 1, "warmup_epochs": 0},
    )
    run_ranks(_reproduce, 1, tmp_path, config, ["vote-equal"])
    found = finished_outcomes(tmp_path / "study")
    synergy, equal = found["synergy"][0], found["vote-equal"][0]
    assert equal.num_steps_before == synergy.num_steps_before
    per_epoch = 3  # 40 labels in batches of 16
    for role, num_steps in equal.num_steps.items():
        assert 0 <= num_steps - max(synergy.num_steps.values()) < per_epoch
        assert equal.num_samples[role] % 40 == 0
    heads = replace(
        config,
        output_dir=str(tmp_path / "heads"),
        pretrain=replace(config.pretrain, num_epochs=1, warmup_epochs=0),
        model_a=replace(config.model_a, train="head"),
        model_b=replace(config.model_b, train="head"),
    )
    run_ranks(_reproduce, 1, tmp_path, heads, ["vote-equal"])
    left_out = finished_outcomes(tmp_path / "heads")
    assert left_out["synergy"]
    assert not left_out["vote-equal"]
