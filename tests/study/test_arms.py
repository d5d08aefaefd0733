"""The settings of every arm."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ranks import tiny_config

from cotrain_dist.config import Config
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.text import flatten, with_settings
from cotrain_dist.errors import UserError
from cotrain_dist.study.arms import (
    ALIASES,
    ARMS,
    BY_NAME,
    in_order,
    names_by_folder,
)
from cotrain_dist.study.settings import (
    CEILING_PATIENCE_EPOCHS,
    DECIDED_BY_PART,
    arm_config,
    ceiling_config,
    has_views,
    start_config,
    with_num_epochs,
    without_recipe,
)

BASE = tiny_config(
    Path("images"), Path("study"), pretrain={"num_epochs": 8}, data={"augment": "crop_flip"}
)
FREE = ("output_dir", "exchange", "exchange_parity", "labels", "seed", "data.splits_from")
STARTS = ("pretrain.num_epochs", "pretrain.labels", "model_a.init_from", "model_b.init_from")


def test_arms_differ_from_the_common_settings_in_what_they_are_about_alone() -> None:
    common = flatten(asdict(BASE))
    for arm in ARMS:
        config = flatten(asdict(arm_config(arm, BASE, 3, Path("study/seed-3"), 2)))
        changed = {key for key, value in config.items() if value != common[key]}
        assert changed <= {*FREE, *STARTS, *arm.settings}, arm.name
        for key, value in arm.decided.items():
            assert config[key] == value, (arm.name, key)
        assert config["seed"] == 3
        assert config["data.splits_from"] == "study/seed-3/start"


def test_every_exchange_comes_with_both_kinds_of_labels_and_both_parities() -> None:
    seen = {
        tuple(arm.decided[key] for key in ("exchange", "exchange_parity", "labels"))
        for arm in ARMS
        if arm.begins == "pretrained"
    }
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
        is_anew = arm.begins != "pretrained"
        assert begun == ([None, None] if is_anew else ["s/start/models/a", "s/start/models/b"])
        assert config.pretrain.num_epochs == (8 if is_anew else 0)


def test_baselines_learn_all_labels_from_the_start() -> None:
    for name in ("vote", "vote-steps", "ceiling", "ceiling-equal"):
        config = arm_config(BY_NAME[name], BASE, 0, Path("s"), 2)
        assert config.pretrain.labels == "shared"
        assert config.exchange == "none"


def ceiling_of(base: Config, num_epochs: int, num_labeled: int, num_all: int) -> Config:
    arm = BY_NAME["ceiling-equal"]
    config = arm_config(arm, base, 0, Path("s"), num_epochs)
    return ceiling_config(arm, config, Path("s"), num_labeled, num_all)


def test_the_equal_ceiling_sees_as_many_images() -> None:
    config = ceiling_of(BASE, 2, 100, 200)
    assert config.pretrain.num_epochs == 4
    assert config.cotrain.num_epochs == 1
    assert config.data.splits_from == "s/splits-ceiling.parquet"


@pytest.mark.parametrize(
    ("pretrain", "cotrain", "num_all", "expected"),
    [(100, 10, 200, (50, 5)), (8, 2, 300, (3, 0)), (60, 10, 7190, (1, 0)), (3, 3, 100, (3, 3))],
)
def test_the_equal_ceiling_sees_as_many_images_as_whole_epochs_allow(
    pretrain: int, cotrain: int, num_all: int, expected: tuple[int, int]
) -> None:
    base = replace(BASE, pretrain=replace(BASE.pretrain, num_epochs=pretrain))
    ceiling = ceiling_of(base, cotrain, 100, num_all)
    assert (ceiling.pretrain.num_epochs, ceiling.cotrain.num_epochs) == expected
    assert abs(sum(expected) * num_all - (pretrain + cotrain) * 100) <= num_all / 2


def test_the_warm_up_keeps_its_share_of_another_number_of_epochs() -> None:
    pretrain = replace(BASE.pretrain, num_epochs=9, warmup_epochs=3)
    fewer = with_num_epochs(replace(BASE, pretrain=pretrain), 5).pretrain
    assert (fewer.num_epochs, fewer.warmup_epochs) == (5, 1)


def test_the_warm_up_of_the_equal_ceiling_fits_what_is_left_to_its_step_two() -> None:
    base = replace(
        BASE,
        pretrain=replace(BASE.pretrain, num_epochs=50),
        cotrain=replace(BASE.cotrain, num_epochs=4, warmup_epochs=2),
    )
    ceiling = ceiling_of(base, 4, 3658, 7315)
    assert (ceiling.pretrain.num_epochs, ceiling.cotrain.num_epochs) == (26, 1)
    assert ceiling.cotrain.warmup_epochs == 0


def test_the_docs_name_every_arm() -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    named = {
        word
        for word in re.findall("`([a-z][a-z-]*)`", text)
        if "-" in word or word in {"ceiling", "vote", "paper", "synergy", "fixmatch", "freematch"}
    }
    assert {arm.name for arm in ARMS} | set(ALIASES) == named


def test_an_arm_brings_what_it_needs_and_runs_after_it() -> None:
    names = [arm.name for arm in in_order(["none-own-steps", "none-own"])]
    assert names == ["none-own", "paper", "none-own-steps"]


@pytest.mark.parametrize(
    ("fraction", "given", "expected"),
    [(0.0, None, None), (0.1, None, CEILING_PATIENCE_EPOCHS), (0.1, 3, 3)],
)
def test_the_ceiling_trains_until_v_stops_rising(
    fraction: float, given: int | None, expected: int | None
) -> None:
    base = with_settings(
        BASE,
        {
            "data.validation_fraction": fraction,
            "pretrain.patience_epochs": given,
            "pretrain.stop_at_train_accuracy": 0.99,
        },
    )
    arm = BY_NAME["ceiling"]
    config = ceiling_config(arm, arm_config(arm, base, 0, Path("s"), 2), Path("s"), 100, 400)
    assert config.pretrain.patience_epochs == expected
    assert config.pretrain.stop_at_train_accuracy is None
    assert (config.pretrain.num_epochs, config.cotrain.num_epochs) == (8, 2)
    assert config.data.splits_from == "s/splits-ceiling.parquet"


def test_what_only_some_arms_decide_is_the_users_in_the_others() -> None:
    assert {"exchange", "labels", "seed", "pretrain.labels"} < DECIDED_BY_PART
    assert "pretrain.stop_at_train_accuracy" not in DECIDED_BY_PART
    base = with_settings(BASE, {"pretrain.stop_at_train_accuracy": 0.9})
    vote, ceiling = (
        arm_config(BY_NAME[name], base, 0, Path("s"), 2).pretrain for name in ("vote", "ceiling")
    )
    assert (vote.stop_at_train_accuracy, ceiling.stop_at_train_accuracy) == (0.9, None)


def test_former_names_are_aliases_and_folders_of_former_studies() -> None:
    assert ALIASES == {
        "none-shared": "labels-only",
        "alternate-own": "paper",
        "one-model": "vote",
        "one-model-steps": "vote-steps",
    }
    before, now = names_by_folder(1), names_by_folder(2)
    assert (before["ceiling"], now["ceiling"]) == ("ceiling-equal", "ceiling")
    assert before["one-model"] == now["vote"] == "vote"
    assert "one-model" not in now
    assert before["start"] == now["start"] == "start"


def test_settings_by_dotted_key() -> None:
    changed = with_settings(
        BASE, {"seed": 4, "cotrain.num_epochs": 9, "cotrain.warmup_epochs": 7, "model_a.name": "x"}
    )
    assert (changed.seed, changed.model_a.name, changed.model_b) == (4, "x", BASE.model_b)
    assert (changed.cotrain.num_epochs, changed.cotrain.warmup_epochs) == (9, 7)
    assert with_settings(BASE, {}) == BASE
    with pytest.raises(UserError, match=r"cotrain.num_epochs: -1"):
        with_settings(BASE, {"cotrain.num_epochs": -1})
    with pytest.raises(TypeError, match="nonsense"):
        with_settings(BASE, {"cotrain.nonsense": 1})


def test_arms_of_views_are_for_images_that_have_some() -> None:
    needing = [arm.name for arm in ARMS if arm.needs_views]
    assert needing == ["fixmatch", "freematch"]
    assert has_views(BASE)
    assert not has_views(replace(BASE, data=replace(BASE.data, augment="off")))


def test_a_recipe_of_the_user_is_the_arm_synergy_and_no_other() -> None:
    given = ["--recipe", "synergy", "--structure.kind", "off"]
    base = parse_config([*given, "--pretrain.num_epochs", "8"], "prog")
    for arm in ARMS:
        if arm.needs_views:
            continue  # digits have none
        config = arm_config(arm, base, 0, Path("s"), 2)
        if arm.name == "synergy":
            assert config.recipe == "synergy"
            assert (config.selection.rule, config.structure.kind) == ("mean_soft", "off")
            assert (config.exchange, config.labels) == ("peer", "shared")
        elif arm.name == "paper":
            assert config.recipe == "paper"
            assert config.selection.rule == "disagreement"
            assert not config.cotrain.keep_step_one
        assert config.pretrain.num_epochs == (8 if arm.begins != "pretrained" else 0)
    assert start_config(base, 0, Path("s")).pool.keep == "votes"
    assert without_recipe(BASE) is BASE
