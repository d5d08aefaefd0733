"""The settings of every arm."""

from dataclasses import asdict
from pathlib import Path

from ranks import tiny_config

from cotrain_dist.config.digest import flatten
from cotrain_dist.study.arms import ARMS, BY_NAME, arm_config, ceiling_config, in_order

BASE = tiny_config(Path("images"), Path("study"), pretrain={"num_epochs": 8})
FREE = ("output_dir", "exchange", "exchange_parity", "labels", "seed", "data.groups_from")
STARTS = ("pretrain.num_epochs", "pretrain.labels", "model_a.init_from", "model_b.init_from")


def test_arms_differ_from_the_common_settings_in_what_they_are_about_alone() -> None:
    common = flatten(asdict(BASE))
    for arm in ARMS:
        config = flatten(asdict(arm_config(arm, BASE, 3, Path("study/seed-3"), 2)))
        changed = {key for key, value in config.items() if value != common[key]}
        assert changed <= {*FREE, *STARTS}, arm.name
        assert config["seed"] == 3
        assert config["data.groups_from"] == "study/seed-3/start"


def test_every_exchange_comes_with_both_kinds_of_labels_and_both_parities() -> None:
    seen = {(a.exchange, a.parity, a.labels) for a in ARMS if a.begins == "pretrained"}
    expected = {
        (e, "even_own", lab)
        for e in ("none", "peer", "own", "alternate")
        for lab in ("own", "shared")
    }
    expected |= {("alternate", "odd_own", labels) for labels in ("own", "shared")}
    assert seen == expected


def test_baselines_start_from_random_weights() -> None:
    for name in ("one-model", "ceiling"):
        config = arm_config(BY_NAME[name], BASE, 0, Path("s"), 2)
        assert config.model_a.init_from is None
        assert config.pretrain.num_epochs == 8
        assert config.pretrain.labels == "shared"
        assert config.exchange == "none"


def test_the_ceiling_sees_as_many_images() -> None:
    config = ceiling_config(
        arm_config(BY_NAME["ceiling"], BASE, 0, Path("s"), 2), Path("s"), 100, 200
    )
    assert config.pretrain.num_epochs == 4
    assert config.cotrain.num_epochs == 1
    assert config.data.groups_from == "s/groups-ceiling.parquet"


def test_an_arm_brings_what_it_needs_and_runs_after_it() -> None:
    names = [arm.name for arm in in_order(["none-own-steps", "none-own"])]
    assert names == ["none-own", "alternate-shared", "none-own-steps"]
