"""A training on a table with unlabeled rows and two models of different settings."""

import json

import pytest
import safetensors.torch
from conftest import FinishedRun

from cotrain_dist.config import resolve_role
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split


def test_it_runs_to_the_end_and_says_nothing(finished_run: FinishedRun) -> None:
    assert [record.epoch for record in finished_run.cotrain] == [0, 1, 2]
    assert json.loads((finished_run.path / "run.json").read_text())["finished"] is True
    assert finished_run.printed == ""


def test_unlabeled_rows_are_in_u_alone(finished_run: FinishedRun) -> None:
    table = load_split_table(finished_run.path)
    unknown = (table.class_ids < 0).nonzero().flatten()
    assert len(unknown) == 4 * 12
    assert set(table.splits[unknown].tolist()) == {Split.U}
    assert len(table.sample_ids(Split.U)) > len(unknown)


def test_r_is_recorded_and_its_accuracy_is_over_known_labels_alone(
    finished_run: FinishedRun,
) -> None:
    class_ids = list_images(finished_run.config.data).class_ids.tolist()
    num_unknown = num_known = 0
    records = finished_run.cotrain[1:]
    for record, exchanged in zip(records, finished_run.exchanges, strict=True):
        for name, r in exchanged.items():
            assert record.roles[name].num_selected == len(r["ids"])
            histogram = [r["labels"].count(class_id) for class_id in range(4)]
            assert record.roles[name].selected_class_histogram == histogram
            pairs = zip(r["ids"], r["labels"], strict=True)
            right = [label == class_ids[i] for i, label in pairs if class_ids[i] >= 0]
            expected = sum(right) / len(right) if right else None
            assert record.roles[name].selected_accuracy == pytest.approx(expected)
            num_known += len(right)
            num_unknown += len(r["ids"]) - len(right)
    assert num_known > 0
    assert num_unknown > 0


def test_each_model_has_its_own_settings(finished_run: FinishedRun) -> None:
    sizes, rates = {}, {}
    for name in ("a", "b"):
        saved = json.loads((finished_run.path / "models" / name / "config.json").read_text())
        sizes[name] = saved["pretrained_cfg"]["input_size"]
        first = next(r for r in finished_run.pretrain if r.role == name)
        rates[name] = first.fit.learning_rate
    assert sizes == {"a": [3, 16, 16], "b": [3, 32, 32]}
    assert rates["a"] == pytest.approx(10 * rates["b"])


def test_each_model_has_its_own_optimizer(finished_run: FinishedRun) -> None:
    """AdamW keeps two moments of every weight, SGD one."""
    commits = finished_run.path / "checkpoints"
    keys = {
        role: set(
            safetensors.torch.load_file(commits / role / "cotrain-00002" / "optimizer.safetensors")
        )
        for role in ("a", "b")
    }
    assert any("exp_avg_sq" in key for key in keys["b"])
    assert not any("exp_avg_sq" in key for key in keys["a"])
    assert any("momentum" in key for key in keys["a"])


def test_the_settings_of_a_model(finished_run: FinishedRun) -> None:
    config = finished_run.config
    a, b = resolve_role(config, "a"), resolve_role(config, "b")
    assert (a.image_size, a.augmentation) == (config.data.image_size, "off")
    assert (a.train.optimizer, a.train.weight_decay) == ("sgd", 0.0)
    assert a.train.batch_size == config.train.batch_size
    assert a.pretrain.learning_rate == 10 * config.pretrain.learning_rate
    assert a.cotrain.learning_rate == 10 * config.cotrain.learning_rate
    assert a.cotrain.min_learning_rate == 10 * config.cotrain.min_learning_rate
    assert a.pretrain.num_epochs == config.pretrain.num_epochs
    assert (a.model, a.seed) == (config.model_a, config.seed)
    assert (b.image_size, b.augmentation, b.crop_min_area) == (32, "crop_flip", 0.8)
    assert (b.train, b.pretrain, b.cotrain) == (config.train, config.pretrain, config.cotrain)
