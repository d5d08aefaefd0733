"""Without a V: heads whose Step 2 is held against Step 1 on folds of L, in every world."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from ranks import history_of, run_ranks, train_run
from test_synergy import synergy_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.certainty import Certainty
from cotrain_dist.method.splits import Split
from cotrain_dist.training import train as train_module
from cotrain_dist.training.folds import has_folds
from cotrain_dist.training.promise import RightByFolds, settle_by_folds
from cotrain_dist.types import Role


def mask(num_right: int) -> torch.Tensor:
    """The first ones of ten images."""
    return torch.arange(10) < num_right


def test_folds_decide_by_hand() -> None:
    before = {Role.A: mask(4), Role.B: mask(5)}
    passed = settle_by_folds(3, RightByFolds(before, {Role.A: mask(9), Role.B: mask(9)}))
    assert (passed.best.role, passed.best.epoch, passed.best.top1) == ("a", 3, 0.9)
    assert passed.line == (
        "models/best is A of epoch 3: cross-validation on L shows that it loses nothing, of 10 "
        "images of L it gains 4 and loses 0 (p 0.062)"
    )
    failed = settle_by_folds(3, RightByFolds(before, {Role.A: mask(8), Role.B: mask(7)}))
    assert (failed.best.role, failed.best.epoch, failed.best.top1) == ("b", 0, 0.5)
    assert failed.line == (
        "models/best is B of Step 1: cross-validation on L does not show that A of epoch 3 loses "
        "nothing, of 10 images of L it gains 3 and loses 0 (p 0.12)"
    )
    assert failed.chosen_on == "cross-validation on L"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"labels": "own"}, False),
        ({"pretrain": {"labels": "own"}}, False),
        ({"pretrain": {"num_epochs": 0}}, False),
        ({"cotrain": {"num_epochs": 0}}, False),
        ({"model_b": {"train": "all"}}, False),
    ],
)
def test_what_can_be_taken_anew(changes: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    starts = {"a": "some/folder", "b": "some/folder"}
    config = synergy_config(tmp_path, starts, tmp_path, "head")
    for name, own in changes.items():
        value = replace(getattr(config, name), **own) if isinstance(own, dict) else own
        config = replace(config, **{name: value})
    assert has_folds(config) is expected


def _files(run: Path) -> dict[str, str]:
    found = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix != ".log"]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def train_and_watch(config: Config) -> dict[str, Any]:
    """A body: the whole training; the bits of the folds, and that they leave everything alone."""
    right_by_folds, seen = train_module.right_by_folds, {}

    def state_of(students: Any, ctx: Any) -> list[Any]:
        own = [
            (s.role, s.temperature, s.config, s.model.weight.tolist(), s.model.bias.tolist())
            for s in students
        ]
        return [own, _files(ctx.store.path) if ctx.runtime.is_lead else {}]

    def watched(students: Any, start_features: Any, images: Any, ctx: Any, **last: Any) -> Any:
        before = state_of(students, ctx)
        found = right_by_folds(students, start_features, images, ctx, **last)
        assert state_of(students, ctx) == before
        for name in ("before", "after"):
            seen[name] = {r.value: own.tolist() for r, own in getattr(found, name).items()}
        return found

    with mock.patch.object(train_module, "right_by_folds", watched):
        train_run(config)
    return seen


def outcome_of(run: Path) -> dict[str, Any]:
    models = sorted((run / "models").iterdir())
    return {
        "no_loss": json.loads((run / "run.json").read_text())["no_loss"],
        "certainty": json.loads((run / "run.json").read_text()).get("certainty"),
        "models": {m.name: (m / "model.safetensors").read_bytes() for m in models},
    }


def few_labels(root: Path, starts: dict[str, str], tmp_path: Path, seed: int) -> Config:
    """Two labels of each class. Of seeds 0 and 1 Step 2 helps with the first alone."""
    data = {"labeled_per_class": 1}
    return synergy_config(root, starts, tmp_path, "head", data=data, seed=seed)


@pytest.fixture(scope="module")
def alone(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The run of one process that others are compared with, and the bits of its folds."""
    tmp_path = tmp_path_factory.mktemp("alone")
    config = few_labels(digits_folder, starts, tmp_path, seed=0)
    (seen,) = run_ranks(train_and_watch, 1, tmp_path, config)
    printed = (tmp_path / "rank-0.out").read_text()
    assert "cross-validating Step 2: fold 2 of 2" in printed
    return tmp_path / "run", seen


def test_step_two_is_best_where_the_folds_show_its_worth(
    alone: tuple[Path, dict[str, Any]],
) -> None:
    run, seen = alone
    found = outcome_of(run)
    role, told = found["no_loss"]["role"], found["no_loss"]
    assert (told["epoch"], told["chosen_on"]) == (2, "cross-validation on L")
    assert found["models"]["best"] == found["models"][role]
    assert len(seen["after"][role]) == 20
    assert told["top1"] == sum(seen["after"][role]) / 20
    earlier = max("ab", key=lambda name: sum(seen["before"][name]))
    gained = [
        a and not b for b, a in zip(seen["before"][earlier], seen["after"][role], strict=True)
    ]
    assert told["num_gained"] == sum(gained) > 3
    notes = json.loads((run / "models/best/config.json").read_text())["cotrain_dist"]
    assert (notes["epoch"], notes["chosen_on"]) == (2, "cross-validation on L")
    assert found["certainty"]["num_images"] == 20
    assert found["certainty"]["slope"] >= 0.0


def test_labels_are_given_the_certainty_of_the_folds(
    alone: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "all.parquet"
    assert cli.main(["labels", str(alone[0]), "--output", str(file)]) == 0
    assert "an estimate from 20 images of L, by folds" in capsys.readouterr().out
    certainty = Certainty(**outcome_of(alone[0])["certainty"])
    table = pq.read_table(file)
    confidences = torch.tensor(table["confidence"].to_pylist())
    expected = certainty.of(confidences).tolist()
    assert table["probability_right"].to_pylist() == pytest.approx(expected)


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_rank_of_every_world_finds_the_same(
    num_ranks: int,
    alone: tuple[Path, dict[str, Any]],
    digits_folder: Path,
    starts: dict[str, str],
    tmp_path: Path,
) -> None:
    config = few_labels(digits_folder, starts, tmp_path, seed=0)
    for seen in run_ranks(train_and_watch, num_ranks, tmp_path, config):
        assert seen == alone[1]
    assert outcome_of(tmp_path / "run") == outcome_of(alone[0])


def test_step_one_stays_where_the_folds_show_nothing(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = few_labels(digits_folder, starts, tmp_path, seed=1)
    (seen,) = run_ranks(train_and_watch, 1, tmp_path, config)
    found = outcome_of(tmp_path / "run")
    role, told = found["no_loss"]["role"], found["no_loss"]
    assert (told["epoch"], told["chosen_on"]) == (0, "cross-validation on L")
    assert told["top1"] == max(sum(own) for own in seen["before"].values()) / 20
    assert found["models"]["best"] == found["models"][f"step_one_{role}"]
    printed = (tmp_path / "rank-0.out").read_text()
    assert "of Step 1: cross-validation on L does not show that" in printed


def test_t_is_never_looked_at(
    alone: tuple[Path, dict[str, Any]],
    digits_folder: Path,
    starts: dict[str, str],
    tmp_path: Path,
) -> None:
    table = load_split_table(alone[0])
    class_ids, ids = table.class_ids.clone(), table.sample_ids(Split.T)
    class_ids[ids] = class_ids[ids].roll(7)
    dealt = replace(table, listing=replace(table.listing, class_ids=class_ids))
    (tmp_path / "dealt.parquet").write_bytes(dealt.to_parquet())
    config = few_labels(digits_folder, starts, tmp_path, seed=0)
    config = replace(config, data=replace(config.data, splits_from=str(tmp_path / "dealt.parquet")))
    (seen,) = run_ranks(train_and_watch, 1, tmp_path, config)
    assert seen == alone[1]
    assert outcome_of(tmp_path / "run") == outcome_of(alone[0])
    assert history_of(tmp_path / "run")[-1]["test"] != history_of(alone[0])[-1]["test"]


class Killed(BaseException):
    """Ends a body where a kill would."""


def train_until_settled(config: Config) -> None:
    """A body: gone after the folds, before anything is made of them."""
    with mock.patch.object(train_module, "settle", side_effect=Killed), pytest.raises(Killed):
        train_run(config)


def test_a_resume_takes_the_folds_again(
    alone: tuple[Path, dict[str, Any]],
    digits_folder: Path,
    starts: dict[str, str],
    tmp_path: Path,
) -> None:
    config = few_labels(digits_folder, starts, tmp_path, seed=0)
    run_ranks(train_until_settled, 1, tmp_path, config)
    run_ranks(train_run, 1, tmp_path, config, True)
    assert outcome_of(tmp_path / "run") == outcome_of(alone[0])


def config_of(num_labels: list[int], root: Path, starts: dict[str, str], tmp_path: Path) -> Config:
    """Of digits 0, 1 ... so many labels each; there is no T and no V."""
    lines = ["path,label"]
    for digit, num in enumerate(num_labels):
        for index in range(20):
            lines.append(f"digit_{digit}/{index:02d}.png,{digit if index < num else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    settings = synergy_config(root, starts, tmp_path, "head")
    data = {"source": "csv", "table": str(tmp_path / "labels.csv"), "root": str(root)}
    nothing = {"test_per_class": None, "labeled_per_class": None}
    return replace(settings, data=replace(settings.data, **data, **nothing))


def test_an_image_alone_in_its_class_is_wrong_before_and_after(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = config_of([11, 11, 1], digits_folder, starts, tmp_path)
    (seen,) = run_ranks(train_and_watch, 1, tmp_path, config)
    # The run's own models know its class, so it says nothing of how often they are right.
    assert outcome_of(tmp_path / "run")["certainty"]["num_images"] == 22
    for bits in seen.values():
        for own in bits.values():
            assert len(own) == 23
            assert own[-1] is False
            assert any(own)


def test_without_two_images_of_a_class_step_one_stays(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = config_of([1, 1, 1], digits_folder, starts, tmp_path)
    run_ranks(train_run, 1, tmp_path, config)
    told = outcome_of(tmp_path / "run")["no_loss"]
    assert (told["epoch"], told["chosen_on"]) == (0, "own labels")
    assert "without a V nothing shows what Step 2 loses" in told["why"]
