"""What a user gets wrong ends every rank with one clear line, before a file is written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import ModelConfig
from cotrain_dist.errors import PeerUserError, TrainingError, UserError
from cotrain_dist.store.checkpoint import commits_in, read_state

EFFICIENTNET = {"name": "test_efficientnet"}

# number of ranks, changed settings, fragments of the message
MISTAKES: dict[str, tuple[int, dict[str, Any], list[str]]] = {
    "model name": (
        1,
        {"model_b": {"name": "test_resnt"}},
        ["model_b.name: test_resnt: is no model of timm", "did you mean", "test_resnet"],
    ),
    "optimizer": (
        2,
        {"train": {"optimizer": "adamwx"}},
        ["train.optimizer: adamwx: is no optimizer of timm", "did you mean", "adamw"],
    ),
    "micro-batches": (
        1,
        {"train": {"accumulation_steps": 9}},
        [
            "train.batch_size: 16: can leave 1 image(s) per rank and micro-batch: an epoch of A "
            "has 40 images"
        ],
    ),
    "ranks of a role": (
        4,
        {"train": {"batch_size": 4}, "placement": {"ranks_a": [0]}},
        [
            "train.batch_size: 4: can leave 1 image(s)",
            "an epoch of B has 40 images, with R up to",
            "role B 3 rank(s)",
        ],
    ),
    "labeled images and few others": (
        1,
        {"train": {"accumulation_steps": 6, "least_labeled_fraction": 0.9}},
        [
            "train.batch_size: 16: can leave 1 image(s) per rank and micro-batch",
            "or a lower train.least_labeled_fraction",
        ],
    ),
    "rank of a smaller world": (
        2,
        {"placement": {"ranks_a": [2]}},
        ["placement.ranks_a: [2]: must name ranks of this world, 0 to 1"],
    ),
    "image size": (
        2,
        {"model_b": {"name": "test_vit"}, "data": {"image_size": 33}},
        ["model_b.name: test_vit: cannot be built for 33 pixels"],
    ),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_named_on_every_rank_and_leaves_nothing(
    mistake: str, digits_folder: Path, tmp_path: Path
) -> None:
    num_ranks, changes, fragments = MISTAKES[mistake]
    config = tiny_config(digits_folder, tmp_path / "run", **changes)
    _assert_complaints(run_ranks(complaint, num_ranks, tmp_path, config), *fragments)
    assert not (tmp_path / "run").exists()


def _assert_complaints(complaints: list[tuple[str, str]], *fragments: str) -> None:
    assert complaints
    for kind, text in complaints:
        assert kind in {UserError.__name__, PeerUserError.__name__}
        assert text.count("\n") == 0
        for fragment in fragments:
            assert fragment in text
    assert UserError.__name__ in {kind for kind, _ in complaints}


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_nothing_is_written_over(num_ranks: int, digits_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("years of work")
    complaints = run_ranks(complaint, num_ranks, tmp_path, tiny_config(digits_folder, run))
    _assert_complaints(complaints, f"output_dir: {run}: exists already", f"train --resume {run}")
    assert [file.name for file in run.iterdir()] == ["thesis.txt"]


def _groups(pretrained: Path, to: Path, **columns: str) -> Path:
    """The groups of a run with every value of some columns replaced."""
    table = pq.read_table(pretrained.parent / "splits.parquet")
    for name, value in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array([value] * len(table)))
    pq.write_table(table, to)
    return to


def test_groups_must_fit_the_settings(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    stranger = _groups(pretrained, tmp_path / "stranger.parquet", source="digits")
    (tmp_path / "empty.parquet").write_bytes(b"")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"splits_from": str(stranger)}, "holds splits of digits, data.source is imagefolder"),
        ({"splits_from": str(tmp_path / "nowhere")}, "is no file"),
        ({"splits_from": str(tmp_path / "empty.parquet")}, "is no table of splits"),
        (
            {"splits_from": str(pretrained.parent), "validation_fraction": 0.1},
            "data.validation_fraction: 0.1: the splits taken over hold 0 images of V",
        ),
    ]
    for data, fragment in cases:
        config = tiny_config(digits_folder, tmp_path / "run", data=data)
        _assert_complaints(run_ranks(complaint, 1, tmp_path, config), fragment)
        assert not (tmp_path / "run").exists()


def _edited_copy(folder: Path, to: Path, **changes: Any) -> str:
    shutil.copytree(folder, to)
    saved = json.loads((to / "config.json").read_text())
    saved["cotrain_dist"].pop("sha256")  # as an earlier version has saved it
    (to / "config.json").write_text(json.dumps(saved | changes))
    return str(to)


def test_weights_to_start_from_must_fit_the_model(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    classes = _edited_copy(pretrained / "a", tmp_path / "classes", label_names=["cat", "dog"])
    broken = _edited_copy(pretrained / "a", tmp_path / "broken")
    (Path(broken) / "model.safetensors").write_bytes(b"{}")
    nowhere = str(tmp_path / "nowhere")
    cases = [
        # In a world of two, the rank of A has nothing to complain about on its own.
        (2, EFFICIENTNET | {"init_from": nowhere}, f"{nowhere}: holds no saved model"),
        (1, EFFICIENTNET | {"init_from": broken}, f"{broken}: holds no saved model"),
        (1, EFFICIENTNET | {"init_from": classes}, f"{classes}: knows other classes"),
        (
            1,
            {"name": "test_resnet", "init_from": str(pretrained / "a")},
            "holds test_efficientnet, but model_b.name is test_resnet",
        ),
    ]
    for num_ranks, model, fragment in cases:
        config = tiny_config(digits_folder, tmp_path / "run", model_b=model)
        complaints = run_ranks(complaint, num_ranks, tmp_path, config, timeout_seconds=60)
        _assert_complaints(complaints, "model_b.init_from: ", fragment)
        assert not (tmp_path / "run").exists()


def test_weights_of_another_image_size_do_not_fit_a_transformer(
    digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "small",
        model_a={"name": "test_vit"},
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 0},
    )
    run_ranks(train_run, 1, tmp_path, config)
    folder = tmp_path / "small" / "models" / "a"
    larger = replace(
        tiny_config(digits_folder, tmp_path / "large", data={"image_size": 64}),
        model_a=ModelConfig(name="test_vit", init_from=str(folder)),
    )
    _assert_complaints(
        run_ranks(complaint, 1, tmp_path, larger),
        f"model_a.init_from: {folder}: does not fit the model",
        "use the data.image_size that it was trained with",
    )


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_infinite_loss_in_step_two_ends_every_rank_and_keeps_the_last_commit(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = tiny_config(
        digits_folder, run, cotrain={"learning_rate": 1e30}, pretrain={"num_epochs": 1}
    )
    for resume in (False, True):  # the commit is whole: a resume reaches the same end
        complaints = run_ranks(complaint, num_ranks, tmp_path, config, resume)
        assert {kind for kind, _ in complaints} == {TrainingError.__name__}
        for rank, (_, text) in enumerate(complaints):  # each role meets its own
            assert f"the loss of model {'AB'[rank]} is nan" in text
            assert text.startswith("cotrain epoch 1, step ")
            assert "lower cotrain.learning_rate" in text
        (commit,) = commits_in(run / "checkpoints" / "world")
        assert commit.name == "cotrain-00000"
        assert read_state(commit)["next"]["epoch"] == 1
        assert [line["epoch"] for line in history_of(run)][-1] == 0
    recycled = tiny_config(
        digits_folder,
        tmp_path / "recycled",
        model_a={"name": "test_resnet", "init_from": str(run / "models" / "a")},
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 0},
    )
    assert run_ranks(complaint, 1, tmp_path, recycled) == [("", "no error")]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_infinite_loss_in_pre_training_ends_every_rank(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", pretrain={"learning_rate": 1e30})
    complaints = run_ranks(complaint, num_ranks, tmp_path, config)
    for rank, (kind, text) in enumerate(complaints):
        assert kind == TrainingError.__name__
        assert text.startswith("pretrain epoch 1, step ")
        assert f"the loss of model {'AB'[rank]} is nan, on images " in text
        assert "lower pretrain.learning_rate" in text
    assert not (tmp_path / "run" / "checkpoints").exists()
