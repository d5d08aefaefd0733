"""The settings of every arm."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ranks import tiny_config

from cotrain_dist.config.text import flatten
from cotrain_dist.study.arms import (
    ARMS,
    BY_NAME,
    arm_config,
    ceiling_config,
    in_order,
    start_config,
    with_num_epochs,
)

BASE = tiny_config(Path("images"), Path("study"), pretrain={"num_epochs": 8})
FREE = ("output_dir", "exchange", "exchange_parity", "labels", "seed", "data.splits_from")
STARTS = ("pretrain.num_epochs", "pretrain.labels", "model_a.init_from", "model_b.init_from")


def test_arms_differ_from_the_common_settings_in_what_they_are_about_alone() -> None:
    common = flatten(asdict(BASE))
    for arm in ARMS:
        config = flatten(asdict(arm_config(arm, BASE, 3, Path("study/seed-3"), 2)))
        changed = {key for key, value in config.items() if value != common[key]}
        assert changed <= {*FREE, *STARTS}, arm.name
        assert config["seed"] == 3
        assert config["data.splits_from"] == "study/seed-3/start"


def test_every_exchange_comes_with_both_kinds_of_labels_and_both_parities() -> None:
    seen = {(a.exchange, a.parity, a.labels) for a in ARMS if a.begins == "pretrained"}
    expected = {
        (e, "even_own", lab)
        for e in ("none", "peer", "own", "alternate")
        for lab in ("own", "shared")
    }
    expected |= {("alternate", "odd_own", labels) for labels in ("own", "shared")}
    assert seen == expected


def test_what_step_two_would_do_does_not_touch_the_start() -> None:
    changed = replace(
        BASE,
        exchange="peer",
        exchange_parity="odd_own",
        labels="shared",
        pretrain=replace(BASE.pretrain, labels="shared"),
    )
    assert start_config(changed, 3, Path("s")) == start_config(BASE, 3, Path("s"))
    assert start_config(BASE, 3, Path("s")).pretrain.labels == "own"


def test_arms_begin_pre_trained_or_anew() -> None:
    for arm in ARMS:
        config = arm_config(arm, BASE, 0, Path("s"), 2)
        begun = [config.model_a.init_from, config.model_b.init_from]
        is_anew = arm.name in ("one-model", "one-model-steps", "ceiling")
        assert begun == ([None, None] if is_anew else ["s/start/models/a", "s/start/models/b"])
        assert config.pretrain.num_epochs == (8 if is_anew else 0)


def test_baselines_learn_all_labels_from_the_start() -> None:
    for name in ("one-model", "one-model-steps", "ceiling"):
        config = arm_config(BY_NAME[name], BASE, 0, Path("s"), 2)
        assert config.pretrain.labels == "shared"
        assert config.exchange == "none"


def test_the_ceiling_sees_as_many_images() -> None:
    config = ceiling_config(
        arm_config(BY_NAME["ceiling"], BASE, 0, Path("s"), 2), Path("s"), 100, 200
    )
    assert config.pretrain.num_epochs == 4
    assert config.cotrain.num_epochs == 1
    assert config.data.splits_from == "s/splits-ceiling.parquet"


@pytest.mark.parametrize(
    ("pretrain", "cotrain", "num_all", "expected"),
    [(100, 10, 200, (50, 5)), (8, 2, 300, (3, 0)), (60, 10, 7190, (1, 0)), (3, 3, 100, (3, 3))],
)
def test_the_ceiling_sees_as_many_images_as_whole_epochs_allow(
    pretrain: int, cotrain: int, num_all: int, expected: tuple[int, int]
) -> None:
    base = replace(BASE, pretrain=replace(BASE.pretrain, num_epochs=pretrain))
    config = arm_config(BY_NAME["ceiling"], base, 0, Path("s"), cotrain)
    ceiling = ceiling_config(config, Path("s"), 100, num_all)
    assert (ceiling.pretrain.num_epochs, ceiling.cotrain.num_epochs) == expected
    assert abs(sum(expected) * num_all - (pretrain + cotrain) * 100) <= num_all / 2


def test_the_warm_up_keeps_its_share_of_another_number_of_epochs() -> None:
    pretrain = replace(BASE.pretrain, num_epochs=9, warmup_epochs=3)
    fewer = with_num_epochs(replace(BASE, pretrain=pretrain), 5).pretrain
    assert (fewer.num_epochs, fewer.warmup_epochs) == (5, 1)


def test_the_warm_up_of_the_ceiling_fits_what_is_left_to_its_step_two() -> None:
    base = replace(
        BASE,
        pretrain=replace(BASE.pretrain, num_epochs=50),
        cotrain=replace(BASE.cotrain, num_epochs=4, warmup_epochs=2),
    )
    ceiling = ceiling_config(
        arm_config(BY_NAME["ceiling"], base, 0, Path("s"), 4), Path("s"), 3658, 7315
    )
    assert (ceiling.pretrain.num_epochs, ceiling.cotrain.num_epochs) == (26, 1)
    assert ceiling.cotrain.warmup_epochs == 0


def test_the_docs_name_every_arm() -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    named = {
        word for word in re.findall("`([a-z][a-z-]*)`", text) if "-" in word or word == "ceiling"
    }
    assert {arm.name for arm in ARMS} == named


def test_an_arm_brings_what_it_needs_and_runs_after_it() -> None:
    names = [arm.name for arm in in_order(["none-own-steps", "none-own"])]
    assert names == ["none-own", "alternate-own", "none-own-steps"]
