"""`train: head`: one head in every world, whole models that give its answers, and its errors."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import timm
import torch
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config, ModelConfig, resolve_role
from cotrain_dist.models import build_model, preprocessing_of, save_model
from cotrain_dist.store import features
from cotrain_dist.types import Role

NUM_BLOCKS = 4
"""Of the 200 images of `digits_folder`."""


def heads_config(root: Path, starts: dict[str, str], tmp_path: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "data": {"feature_cache": str(tmp_path / "cache"), "labeled_per_class": 4},
        "model_a": {"name": None, "pretrained": starts["a"], "train": "head"},
        "model_b": {"name": None, "pretrained": starts["b"], "train": "head"},
        "pretrain": {"num_epochs": 9},
        "cotrain": {"num_epochs": 3},
        "selection": {"threshold": 0.4},
    }
    for name, values in changes.items():
        settings[name] = settings.get(name, {}) | values if isinstance(values, dict) else values
    return tiny_config(root, tmp_path / "run", **settings)


def train_with_small_blocks(config: Config, die_after: int | None = None) -> int:
    """A body: the whole training; how many blocks of features this rank has computed."""
    write, written = features.FeatureStore.write, []

    def counted(store: Any, sample_ids: torch.Tensor, rows: torch.Tensor) -> None:
        if die_after is not None and len(written) == die_after:
            raise _Killed
        write(store, sample_ids, rows)
        written.append(sample_ids)

    with (
        mock.patch.object(features, "BLOCK_SIZE", 50),
        mock.patch.object(features.FeatureStore, "write", counted),
    ):
        train_run(config)
    return len(written)


def _die_in_the_feature_pass(config: Config, after: int) -> None:
    """A body: a training that ends where a kill would, after some blocks."""
    with pytest.raises(_Killed):
        train_with_small_blocks(config, after)


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


def _outcome(run: Path) -> dict[str, Any]:
    """Everything that must not depend on the world."""
    files = [run / "models" / name / "model.safetensors" for name in ("a", "b", "best")]
    found: dict[str, Any] = {
        str(f.parent.name): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    return found | {"history": history_of(run)}


def _features(cache: Path) -> dict[str, bytes]:
    return {str(f.relative_to(cache)): f.read_bytes() for f in cache.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def alone(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the run and the cache that all others are compared with: one process."""
    tmp_path = tmp_path_factory.mktemp("alone")
    config = heads_config(digits_folder, starts, tmp_path)
    assert run_ranks(train_with_small_blocks, 1, tmp_path, config) == [2 * NUM_BLOCKS]
    return tmp_path


@pytest.mark.parametrize(
    "num_ranks", [2, *(pytest.param(num, marks=pytest.mark.slow) for num in (3, 4))]
)
def test_every_world_has_the_same_features_heads_and_selections(
    num_ranks: int, alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = heads_config(digits_folder, starts, tmp_path)
    computed = run_ranks(train_with_small_blocks, num_ranks, tmp_path, config)
    assert sum(computed) == 2 * NUM_BLOCKS, "each block once"
    assert max(computed) <= NUM_BLOCKS
    assert _features(tmp_path / "cache") == _features(alone / "cache")
    assert _outcome(tmp_path / "run") == _outcome(alone / "run")


def test_a_head_learns_and_a_fit_is_one_epoch(alone: Path) -> None:
    lines = history_of(alone / "run")
    step_one = [line for line in lines if line["phase"] == "pretrain"]
    assert [(line["role"], line["epoch"]) for line in step_one] == [("a", 1), ("b", 1)]
    assert all(line["train_accuracy"] > 0.9 for line in step_one)
    assert all(line["test"]["top1"] > 0.2 for line in step_one), "ten classes: above chance"
    last = lines[-1]
    assert last["num_selected_a"] + last["num_selected_b"] > 0
    assert last["fit_a"]["num_samples"] > 40, "R was learned"


def test_a_kill_in_the_feature_pass_costs_one_block(
    alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = heads_config(digits_folder, starts, tmp_path)
    run_ranks(_die_in_the_feature_pass, 1, tmp_path, config, NUM_BLOCKS + 1)
    shutil.rmtree(tmp_path / "run")
    assert run_ranks(train_with_small_blocks, 1, tmp_path, config) == [NUM_BLOCKS - 1]
    assert _outcome(tmp_path / "run") == _outcome(alone / "run")


def test_another_run_finds_the_features(
    alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    cache = {"feature_cache": str(alone / "cache")}
    config = heads_config(digits_folder, starts, tmp_path, data=cache, labels="shared")
    assert run_ranks(train_with_small_blocks, 2, tmp_path, config) == [0, 0]
    assert _outcome(tmp_path / "run")["a"] != _outcome(alone / "run")["a"]


def test_an_image_has_the_same_features_among_others(
    alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    """A folder with a third of the images first, then with all: the rest alone is computed."""
    some = tmp_path / "some"
    for file in sorted(digits_folder.glob("*/*.png"))[::3]:
        (some / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, some / file.parent.name)
    cache = {"feature_cache": str(tmp_path / "cache")}
    labels = {"labeled_per_class": 1, "test_per_class": 1}
    before = heads_config(some, starts, tmp_path / "before", data=cache | labels)
    assert run_ranks(train_with_small_blocks, 1, tmp_path, before) == [2 * 2]
    config = heads_config(digits_folder, starts, tmp_path, data=cache)
    assert run_ranks(train_with_small_blocks, 1, tmp_path, config) == [2 * NUM_BLOCKS]
    sizes = [len(json.loads(f.read_text())["images"]) for f in _blocks(tmp_path / "cache")]
    assert sum(sizes) == 2 * 200, "each image once"
    assert _outcome(tmp_path / "run") == _outcome(alone / "run")


def _blocks(cache: Path) -> list[Path]:
    return [file for file in cache.rglob("*.json") if file.name != "about.json"]


def test_a_killed_run_ends_with_the_same_bits(
    alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    cache = {"feature_cache": str(alone / "cache")}
    config = heads_config(digits_folder, starts, tmp_path, data=cache)
    run_ranks(_train_until_epoch_1, 2, tmp_path, config)
    run_ranks(train_with_small_blocks_resumed, 2, tmp_path, config)
    assert _outcome(tmp_path / "run") == _outcome(alone / "run")


def train_with_small_blocks_resumed(config: Config) -> None:
    """A body: the rest of a training."""
    with mock.patch.object(features, "BLOCK_SIZE", 50):
        train_run(config, resume=True)


def _train_until_epoch_1(config: Config) -> None:
    """A body: train, and end where a kill would, after the first epoch of Step 2."""
    from cotrain_dist.training import epochs

    commit = epochs.commit_cotrain

    def dying(students: Any, state: Any, *rest: Any) -> None:
        commit(students, state, *rest)
        if state.next.epoch == 2:
            raise _Killed

    with (
        mock.patch.object(features, "BLOCK_SIZE", 50),
        mock.patch.object(epochs, "commit_cotrain", dying),
        pytest.raises(_Killed),
    ):
        train_run(config)


def test_the_saved_model_is_whole_and_gives_the_same_answers(
    alone: Path, starts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate` reads pixels through the whole model; the history was measured on features."""
    output = alone / "figures.json"
    assert cli.main(["evaluate", str(alone / "run"), "--output", str(output)]) == 0
    figures = json.loads(output.read_text())
    last = history_of(alone / "run")[-1]
    for name in ("a", "b", "ensemble"):
        assert figures[name]["top1"] == last["test"][name]["top1"]
        error = figures[name]["calibration_error"]
        assert error == pytest.approx(last["test"][name]["calibration_error"], abs=1e-5)
    for role in ("a", "b"):
        folder = alone / "run" / "models" / role
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        start = safetensors.torch.load_file(Path(starts[role]) / "model.safetensors")
        head = {"fc.weight", "fc.bias", "classifier.weight", "classifier.bias"}
        same = [
            k for k, v in model.state_dict().items() if k not in head and torch.equal(v, start[k])
        ]
        assert len(same) == len(model.state_dict()) - 2, "the backbone has stayed as it was"
        assert model.num_classes == 10


@pytest.mark.slow
def test_one_head_beside_one_whole_model(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"train": "all"}
    config = heads_config(
        digits_folder, starts, tmp_path, model_b=changes, pretrain={"num_epochs": 2}
    )
    run_ranks(train_run, 3, tmp_path, config)
    lines = history_of(tmp_path / "run")
    epochs = [(line["role"], line["epoch"]) for line in lines if line["phase"] == "pretrain"]
    assert epochs == [("a", 1), ("b", 1), ("b", 2)]
    assert lines[-1]["epoch"] == 3


def test_a_plan_of_heads(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cotrain_dist.config.text import config_to_yaml

    config = heads_config(digits_folder, starts, tmp_path)
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    assert cli.main(["plan", "--num_ranks", "4", "--config", str(tmp_path / "settings.yaml")]) == 0
    assert "Models" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("what", ["damaged", "other sizes", "cache", "unknown"])
def test_mistakes_are_one_error_and_leave_nothing(
    what: str, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(starts["a"], start)
    changes: dict[str, Any] = {"model_a": {"pretrained": str(start)}}
    match what:
        case "damaged":
            (start / "model.safetensors").write_bytes(b"x" * 100)
            expected = f"model_a.pretrained: {start}: its test_resnet cannot be used for 32 pixels"
        case "other sizes":
            shutil.copy(Path(starts["b"]) / "model.safetensors", start / "model.safetensors")
            expected = f"model_a.pretrained: {start}: its test_resnet cannot be used for 32 pixels"
        case "unknown":
            text = (start / "config.json").read_text().replace("test_resnet", "test_resnett")
            (start / "config.json").write_text(text)
            expected = f"model_a.pretrained: {start}: names test_resnett, no model of timm; did you"
        case "cache":
            (tmp_path / "file").write_text("mine")
            changes["data"] = {"feature_cache": str(tmp_path / "file" / "below")}
            expected = "data.feature_cache: "
    config = heads_config(digits_folder, starts, tmp_path, **changes)
    for kind, text in run_ranks(complaint, 2, tmp_path, config):
        assert kind in {"UserError", "PeerUserError"}
        assert expected in text


def _resume_and_complain(config: Config) -> tuple[str, str]:
    """A body: the error that a resume ends with."""
    with mock.patch.object(features, "BLOCK_SIZE", 50):
        return complaint(config, resume=True)


def test_a_resume_with_other_weights_below_the_head_is_refused(
    alone: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(starts["a"], start)
    config = heads_config(digits_folder, starts, tmp_path, model_a={"pretrained": str(start)})
    run_ranks(_train_until_epoch_1, 1, tmp_path, config)
    weights = safetensors.torch.load_file(start / "model.safetensors")
    weights["conv1.0.weight" if "conv1.0.weight" in weights else next(iter(weights))] += 0.01
    safetensors.torch.save_file(weights, start / "model.safetensors")
    ((kind, text),) = run_ranks(_resume_and_complain, 1, tmp_path, config)
    assert kind == "UserError"
    assert "holds a head for other features than the model gives now; put back the weights" in text


def test_a_folder_s_mean_and_deviation_stay_with_what_was_trained_from_it(
    starts: dict[str, str], tmp_path: Path
) -> None:
    """`evaluate`, a study's arms and a recycled run start from models/a, not from the folder."""
    start = tmp_path / "start"
    shutil.copytree(starts["a"], start)
    content = json.loads((start / "config.json").read_text())
    content["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (start / "config.json").write_text(json.dumps(content))
    found = []
    for own in (
        ModelConfig(pretrained=str(start)),
        ModelConfig(name="test_resnet", init_from=str(tmp_path / "a")),
    ):
        model = build_model(resolve_role(Config(model_a=own), "a"), Role.A, ["cat", "dog"])
        preprocessing = preprocessing_of(model, 32, 1.0)
        found.append((preprocessing.mean, preprocessing.std))
        save_model(model, tmp_path / "a", preprocessing, ["cat", "dog"], {})
    assert found == [((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))] * 2
