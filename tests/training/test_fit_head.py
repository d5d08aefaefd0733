"""`pretrain.fit_head`: whole models begin with a last layer that was fitted to their labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import history_of, run_ranks, tiny_config, train_run
from safetensors.torch import load_file

from cotrain_dist.config import Config, ModelConfig, resolve_role
from cotrain_dist.models import build_model, head_of
from cotrain_dist.store import features
from cotrain_dist.training import heads, pretrain
from cotrain_dist.types import Role


def whole_config(
    root: Path, pretrained: Path, tmp_path: Path, rate: float, **changes: Any
) -> Config:
    return tiny_config(
        root,
        tmp_path / "run",
        data={"feature_cache": str(tmp_path / "cache"), "labeled_per_class": 4},
        model_a={"name": None, "pretrained": str(pretrained / "a")},
        model_b={"name": None, "pretrained": str(pretrained / "b")},
        pretrain={
            "num_epochs": 2,
            "learning_rate": rate,
            "min_learning_rate": 0.0,
            "fit_head": True,
        },
        cotrain={"num_epochs": 1, "learning_rate": rate, "min_learning_rate": 0.0},
        **changes,
    )


def _count_features(config: Config) -> int:
    """A body: the whole training; images whose features this rank has computed."""
    written = []
    write = features.FeatureStore.write

    def counted(store: Any, sample_ids: torch.Tensor, rows: torch.Tensor) -> None:
        written.append(len(sample_ids))
        write(store, sample_ids, rows)

    with mock.patch.object(features.FeatureStore, "write", counted):
        train_run(config)
    return sum(written)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_steps_begin_from_the_fitted_layer_of_their_own_labels(
    num_ranks: int, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = whole_config(
        digits_folder, pretrained, tmp_path, rate=1e-9
    )  # so that it stays as it is
    num_computed = run_ranks(_count_features, num_ranks, tmp_path, config)
    assert sum(num_computed) == 2 * 40  # those of the labeled images alone
    last = [line for line in history_of(tmp_path / "run") if line["phase"] == "pretrain"][-1]
    plain = replace(config, pretrain=replace(config.pretrain, fit_head=False))
    run_ranks(train_run, num_ranks, tmp_path, replace(plain, output_dir=str(tmp_path / "plain")))
    unfitted = [line for line in history_of(tmp_path / "plain") if line["phase"] == "pretrain"][-1]
    assert last["train_accuracy"] > unfitted["train_accuracy"] + 0.3
    assert last["test"]["top1"] > unfitted["test"]["top1"]


def _die_after_the_first_epoch(config: Config) -> None:
    """A body: a training that ends where a kill would, after both roles' first commit."""
    commit = pretrain.commit_pretrain
    committed = []

    def dying(*args: Any) -> None:
        commit(*args)
        committed.append(args)
        raise _Killed

    with mock.patch.object(pretrain, "commit_pretrain", dying), pytest.raises(_Killed):
        train_run(config)


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


def _resume(config: Config, num_fits: int) -> None:
    """A body: goes on, and fits a last layer so many times on this rank."""
    with mock.patch.object(heads, "fit_rows", wraps=heads.fit_rows) as fit:
        train_run(config, resume=True)
    assert fit.call_count == num_fits


@pytest.mark.slow
def test_a_resumed_run_fits_no_layer_anew_and_ends_with_the_same_bits(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = whole_config(digits_folder, pretrained, tmp_path, rate=1e-3)
    run_ranks(train_run, 2, tmp_path, config)
    killed = replace(config, output_dir=str(tmp_path / "killed"))
    run_ranks(_die_after_the_first_epoch, 2, tmp_path, killed)
    run_ranks(_resume, 2, tmp_path, killed, 0)
    for name in ("a", "b", "best"):
        whole, resumed = (
            (run / "models" / name / "model.safetensors").read_bytes()
            for run in (tmp_path / "run", tmp_path / "killed")
        )
        assert whole == resumed


def test_a_published_start_of_as_many_classes_keeps_no_last_layer(pretrained: Path) -> None:
    """They may be other classes, or the same ones in another order."""
    own = ModelConfig(pretrained=str(pretrained / "a"))
    config = resolve_role(Config(model_a=own), "a")
    model = build_model(config, Role.A, [str(number) for number in range(10)])
    saved = load_file(pretrained / "a" / "model.safetensors")
    assert torch.equal(model.state_dict()["conv_stem.weight"], saved["conv_stem.weight"])
    assert not torch.equal(head_of(model, "").weight, saved["classifier.weight"])
