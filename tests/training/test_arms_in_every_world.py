"""The arms that learn from U, with whole models, in 1 to 4 ranks, and the kill."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.config.text import with_settings
from cotrain_dist.study.arms import BY_NAME
from cotrain_dist.training import cotrain

ARMS = ("synergy", "v-pet", "fixmatch", "freematch")

AFTER_STEPS = {"test", "own_accuracy_a", "own_accuracy_b", "digests"}
"""What a line says of weights after steps: with batch normalization another world, another step."""


def arm_config(arm: str, root: Path, pretrained: Path, output_dir: Path) -> Config:
    """An arm of `reproduce` from two models that have taken Step 1."""
    config = tiny_config(
        root,
        output_dir,
        data={"augment": "crop_flip", "feature_cache": str(output_dir.parent / "cache")},
        model_a={"name": "test_efficientnet", "init_from": str(pretrained / "a")},
        model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
        pretrain={"num_epochs": 0},
        consistency={"ratio": 1, "threshold": 0.95},
    )
    decided = {
        key: value for key, value in BY_NAME[arm].decided.items() if key != "pretrain.labels"
    }
    if arm == "fixmatch":
        decided["consistency.threshold"] = 0.15
    return with_settings(config, decided | {"pretrain.labels": "shared"})


@pytest.fixture(scope="module")
def undisturbed(
    digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Path]:
    """The run of an arm in a world, trained once for all tests."""
    runs: dict[tuple[str, int], Path] = {}

    def find(arm: str, num_ranks: int) -> Path:
        if (arm, num_ranks) not in runs:
            tmp_path = tmp_path_factory.mktemp(f"{arm}-{num_ranks}")
            config = arm_config(arm, digits_folder, pretrained, tmp_path / "run")
            run_ranks(train_run, num_ranks, tmp_path, config)
            runs[arm, num_ranks] = tmp_path / "run"
        return runs[arm, num_ranks]

    return find


def _taught(run: Path) -> dict[str, Any]:
    """What the first epoch was taught, from the same weights in every world."""
    line = next(line for line in history_of(run) if line.get("epoch") == 1)
    found = {
        key: value for key, value in line.items() if key not in AFTER_STEPS and "fit_" not in key
    }
    found["exchange"] = (line["exchange"], line["digests"]["exchange"])
    for role in ("a", "b"):
        fit = line[f"fit_{role}"]
        found[role] = (fit["num_steps"], fit["num_samples"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("arm", ARMS)
def test_from_the_same_weights_every_world_teaches_the_same(
    arm: str, num_ranks: int, undisturbed: Callable[[str, int], Path]
) -> None:
    found = _taught(undisturbed(arm, num_ranks))
    assert found == _taught(undisturbed(arm, 1))
    if arm in ("synergy", "v-pet"):
        assert found["num_selected_a"] == found["num_selected_b"] > 0
    else:
        line = history_of(undisturbed(arm, num_ranks))[-1]
        assert 0.0 < line["fit_a"]["used_fraction"] <= 1.0


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


def _die_after_the_first_epoch(config: Config) -> None:
    """A body: a training that ends where a kill would, after a commit of Step 2."""
    close = cotrain.close_epoch

    def dying(students: Any, state: Any, outcome: Any, images: Any, ctx: Any) -> None:
        close(students, state, outcome, images, ctx)
        if outcome.epoch == 1:
            raise _Killed

    with mock.patch.object(cotrain, "close_epoch", dying), pytest.raises(_Killed):
        train_run(config)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("arm", ARMS)
def test_killed_and_resumed_it_ends_with_the_same_bits(
    arm: str,
    num_ranks: int,
    undisturbed: Callable[[str, int], Path],
    digits_folder: Path,
    pretrained: Path,
    tmp_path: Path,
) -> None:
    expected = undisturbed(arm, num_ranks)
    config = arm_config(arm, digits_folder, pretrained, expected.parent / "run")
    config = replace(config, output_dir=str(tmp_path / "run"))
    run_ranks(_die_after_the_first_epoch, num_ranks, tmp_path, config)
    run_ranks(train_run, num_ranks, tmp_path, config, True)
    assert history_of(tmp_path / "run") == history_of(expected)
    assert _weights(tmp_path / "run") == _weights(expected)


def _weights(run: Path) -> dict[str, str]:
    files = sorted(run.glob("models/*/model.safetensors"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
