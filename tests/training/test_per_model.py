"""Settings of one model in place of the common ones: which errors they give, and to whom."""

from pathlib import Path

import pytest

from cotrain_dist.cli import main as cli
from cotrain_dist.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    resolve_role,
)
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.errors import UserError

TINY = ["--device", "cpu", "--model_a.name", "test_resnet", "--model_b.name", "test_resnet"]


def test_without_own_settings_the_common_ones_stand() -> None:
    config = Config(data=DataConfig(image_size=32, augment="off"))
    own = resolve_role(config, "a")
    assert own == resolve_role(config, "b")
    assert (own.train, own.pretrain, own.cotrain) == (config.train, config.pretrain, config.cotrain)
    assert (own.image_size, own.augmentation, own.seed) == (32, "off", config.seed)


@pytest.mark.parametrize(
    ("own", "common", "expected"),
    [(None, 0.05, 0.05), (0.0, 0.05, 0.0), (0.1, 0.05, 0.1), (0.1, 0.0, 0.1)],
)
def test_weight_decay_of_zero_is_a_setting(
    own: float | None, common: float, expected: float
) -> None:
    config = Config(train=TrainConfig(weight_decay=common), model_b=ModelConfig(weight_decay=own))
    assert resolve_role(config, "b").train.weight_decay == expected
    assert resolve_role(config, "a").train.weight_decay == common


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        ("auto", None, "off"),
        ("auto", "crop_flip", "crop_flip"),
        ("crop_flip", "off", "off"),
        ("crop_flip", "strong", "strong"),
    ],
)
def test_augmentation_of_one_model(common: str, own: str | None, expected: str) -> None:
    config = Config(
        data=DataConfig(augment=common),  # type: ignore[arg-type]
        model_a=ModelConfig(augment=own),  # type: ignore[arg-type]
    )
    assert resolve_role(config, "a").augmentation == expected
    assert resolve_role(config, "b").augmentation == ("off" if common == "auto" else common)


@pytest.mark.parametrize("role", ["a", "b"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", "7", "7: must be 8 to 4096 pixels"),
        ("crop_min_area", "0", "0.0: must be above 0 and at most 1"),
        ("crop_min_area", "2", "2.0: must be above 0 and at most 1"),
        ("weight_decay", "-1", "-1.0: must not be negative"),
        ("learning_rate_scale", "0", "0.0: must be above 0"),
        ("drop_rate", "1", "1.0: must be at least 0 and below 1"),
        ("drop_path_rate", "1", "1.0: must be at least 0 and below 1"),
        ("augment", "flip", "flip: must be one of auto, crop_flip, strong, off or null"),
    ],
)
def test_each_rule_names_the_model(role: str, key: str, value: str, message: str) -> None:
    name = f"model_{role}.{key}"
    with pytest.raises(UserError, match=rf"^{name}: {message}") as caught:
        parse_config([f"--{name}", value], "prog")
    assert caught.value.key == name


@pytest.mark.parametrize("value", ["null", "crop_flip", "off", "auto"])
def test_every_word_of_an_optional_choice(value: str) -> None:
    config = parse_config(["--model_a.augment", value], "prog")
    assert config.model_a.augment == (None if value == "null" else value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.optimizer", "adamx"], "error: train.optimizer: adamx: is no optimizer of timm"),
        (
            ["--model_b.optimizer", "adamx"],
            "error: model_b.optimizer: adamx: is no optimizer of timm",
        ),
        (["--model_b.name", "test_resnett"], "error: model_b.name: test_resnett: is no model of t"),
        (
            # Another model than A's, so its operations are counted before it is built.
            ["--model_b.name", "test_vit", "--model_b.image_size", "24"],
            "error: model_b.",
        ),
    ],
    ids=["optimizer", "optimizer of B", "name", "size"],
)
@pytest.mark.parametrize("command", ["train", "plan"])
def test_what_timm_does_not_know_is_one_line(
    command: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ["--output_dir", str(tmp_path / "run")]
    settings = TINY[:4] if "--model_b.name" in arguments else TINY
    code = cli.main([command, *settings, *output, *arguments])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
