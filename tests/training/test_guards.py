"""A model whose weights explode in Step 2 is told of, and does not become models/best."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from histories import accuracy, cotrain_record, pretrain_record
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.data.sources.listing import listing_of
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.advice import Watched
from cotrain_dist.method.splits import Split
from cotrain_dist.training.evaluate import MAX_WATCHED, watched_ids
from cotrain_dist.training.guards import candidates_of, watch_step_one, watched, weights_by_role
from cotrain_dist.types import ROLES, Role


def table_of(splits: list[Split], class_ids: list[int]) -> SplitTable:
    names = [["cat", "dog"][class_id] for class_id in class_ids]
    paths = [str(row) for row in range(len(names))]
    listing = listing_of("digits", paths, names, [(1, path) for path in paths])
    return SplitTable(listing, torch.tensor(splits))


def test_v_is_watched_or_else_some_of_the_own_labels() -> None:
    with_v = table_of([Split.L_A, Split.V, Split.L_B, Split.V], [0, 1, 0, 1])
    assert watched_ids(Role.A, with_v).tolist() == watched_ids(Role.B, with_v).tolist() == [1, 3]
    without = table_of([Split.L_A, Split.L_B, Split.L_A, Split.U], [0, 1, 0, 1])
    assert watched_ids(Role.A, without).tolist() == [0, 2]
    assert watched_ids(Role.B, without).tolist() == [1]
    one_empty = table_of([Split.L_A, Split.U, Split.L_A, Split.T], [0, 1, 0, 1])
    assert watched_ids(Role.B, one_empty).tolist() == [0, 2]
    many = table_of([Split.L_A] * (MAX_WATCHED + 1), [0] * (MAX_WATCHED + 1))
    ids = watched_ids(Role.A, many).tolist()
    assert ids == list(range(0, MAX_WATCHED + 1, 2)), "spread over all of them"


def test_numbers_behind_an_accuracy() -> None:
    assert watched(2 / 3, torch.tensor([1, 1, 0])) == Watched(2, 3, 2)


def test_t_decides_nothing() -> None:
    table = table_of([Split.L_A, Split.L_B] * 20 + [Split.T] * 2, [0, 0, 1, 1] * 10 + [0, 1])

    def record(epoch: int, own: float, on_test: float) -> Any:
        test = {name: accuracy(on_test) for name in ("a", "b", "ensemble")}
        return cotrain_record(epoch, test, {"own_accuracy": own})

    first = record(0, 1.0, 0.9)
    fallen = weights_by_role(first, record(1, 0.5, 0.9), table)
    assert fallen == dict.fromkeys(ROLES, "fallen")
    well = weights_by_role(first, record(1, 1.0, 0.0), table)
    assert well == dict.fromkeys(ROLES, "well")


def test_who_may_become_the_best() -> None:
    def names(a: Any, b: Any, has_figures: bool) -> str:
        found = candidates_of({Role.A: a, Role.B: b}, has_figures=has_figures)
        return "".join(role.value for role in found)

    for has_figures in (True, False):
        assert names("well", "well", has_figures) == "ab"
        assert names("fallen", "well", has_figures) == "b"
        assert names("fallen", "at chance", has_figures) == "b"
        assert names("fallen", "fallen", has_figures) == ""
        assert names("at chance", "at chance", has_figures) == "ab"
    assert names("at chance", "well", True) == "ab"
    assert names("at chance", "well", False) == "b"


def test_step_one_is_judged_by_its_last_epoch() -> None:
    table = table_of([Split.L_A, Split.L_B] * 20, [0, 0, 1, 1] * 10)
    history = [
        pretrain_record("a", 1, train_accuracy=1.0),
        pretrain_record("a", 2, train_accuracy=0.5),
        pretrain_record("b", 1, train_accuracy=0.5),
        pretrain_record("b", 2, train_accuracy=1.0),
    ]
    (line,) = watch_step_one(history, "own", table)
    assert line.startswith("model A calls 10 of its 20 own labels right, and one name for all")
    assert watch_step_one(history[2:3], "shared", table)[0].startswith("model B calls 20 of its 40")
    assert watch_step_one([], "own", table) == []
    assert watch_step_one([pretrain_record("a", 1)], "own", table) == []


def _train_and_wreck(config: Config, wrecked: str) -> None:
    """A body: the last layers of some models call everything one class from the first epoch on."""
    from cotrain_dist.training import cotrain

    train_epoch = cotrain.train_epoch

    def wreck(student: Any, *rest: Any) -> Any:
        fit = train_epoch(student, *rest)
        if student.role.value in wrecked:
            with torch.no_grad():
                student.model.get_classifier().weight.zero_()
        return fit

    with mock.patch.object(cotrain, "train_epoch", wreck):
        train_run(config)


@pytest.mark.parametrize(
    ("num_ranks", "wrecked", "data", "chosen"),
    [
        (1, "a", {}, ("b", 2, "T")),
        (2, "ab", {}, (None, 0, "T")),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (1, "a", {"test_per_class": None, "test_fraction": 0}, ("b", 2, "nothing")),
                (2, "ab", {"test_per_class": None, "test_fraction": 0}, ("a", 0, "nothing")),
                (2, "ab", {"validation_fraction": 0.3}, (None, 0, "V")),
            )
        ),
    ],
)
def test_exploded_weights_are_told_of_and_not_published(
    num_ranks: int,
    wrecked: str,
    data: dict[str, Any],
    chosen: tuple[Any, ...],
    digits_folder: Path,
    pretrained: Path,
    tmp_path: Path,
) -> None:
    model = {"name": "test_efficientnet"}
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        data=data,
        model_a=model | {"init_from": str(pretrained / "a")},
        model_b=model | {"init_from": str(pretrained / "b")},
        pretrain={"num_epochs": 0},
    )
    run_ranks(_train_and_wreck, num_ranks, tmp_path, config, wrecked)
    notes = json.loads((tmp_path / "run/models/best/config.json").read_text())["cotrain_dist"]
    role, epoch, chosen_on = chosen
    assert (notes["epoch"], notes["chosen_on"]) == (epoch, chosen_on)
    assert role in (None, notes["role"])
    printed = (tmp_path / "rank-0.out").read_text()
    on = "V" if "validation_fraction" in data else "its own labels"
    for name in "ab":
        warning = f"warning: model {name.upper()} is far below its start on {on} ("
        assert printed.count(warning) == (name in wrecked), "once, though it is so in each epoch"
    assert ("stays that of Step 1" in printed) == (wrecked == "ab" and on != "V")
    lines = history_of(tmp_path / "run")
    assert len(lines) == 3
    for line in lines:
        for name in "ab":
            assert (f"own_accuracy_{name}" in line) == (on != "V")
