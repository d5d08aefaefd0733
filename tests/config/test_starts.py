"""Folders with a model to start from: what their config.json decides, and what may be wrong."""

import json
from pathlib import Path

import pytest

from cotrain_dist.config import Config, DataConfig, ModelConfig, resolve_role
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.errors import UserError


def folder_of(path: Path, content: object, *, weights: bool = True) -> Path:
    path.mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    (path / "config.json").write_text(text)
    if weights:
        (path / "model.safetensors").write_bytes(b"")
    return path


SMALL = {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 96, 96]}}


def test_the_folder_decides_what_the_settings_leave_open(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "a", SMALL))
    config = Config(model_a=ModelConfig(pretrained=folder))
    a, b = resolve_role(config, "a"), resolve_role(config, "b")
    assert (a.name, a.image_size) == ("test_resnet", 96)
    assert (b.name, b.image_size) == ("efficientnet_b0", 64)


def test_the_settings_win_over_the_folder(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "a", SMALL))
    own = ModelConfig(pretrained=folder, name="test_resnet")
    config = Config(model_a=own, data=DataConfig(image_size=32))
    assert resolve_role(config, "a").image_size == 32
    own = ModelConfig(pretrained=folder, image_size=48)
    assert resolve_role(Config(model_a=own, data=config.data), "a").image_size == 48


def test_a_folder_that_tells_no_size(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", {"architecture": "test_resnet"})
    config = Config(model_b=ModelConfig(pretrained=str(folder)))
    assert resolve_role(config, "b").image_size == 64


@pytest.mark.parametrize(
    ("content", "weights", "rule"),
    [
        (SMALL, False, "a: has no model.safetensors; name a folder with config.json and model.s"),
        ("{", True, "config.json: tells of no model (JSONDecodeError"),
        ("[]", True, "config.json: tells of no model (TypeError"),
        ({}, True, "config.json: tells of no model (KeyError 'architecture')"),
        ({"architecture": 5}, True, "config.json: names no architecture of timm"),
        (SMALL | {"pretrained_cfg": {"input_size": "x"}}, True, "tells of no model (ValueError"),
    ],
    ids=["no weights", "no json", "a list", "empty", "a number", "no size"],
)
def test_a_folder_without_a_model(
    content: object, weights: bool, rule: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "a", content, weights=weights)
    config = Config(model_b=ModelConfig(pretrained=str(folder)))
    with pytest.raises(UserError) as caught:
        resolve_role(config, "b")
    assert str(caught.value).startswith(f"model_b.pretrained: {tmp_path}/")
    assert rule in str(caught.value)


def test_no_folder_at_all(tmp_path: Path) -> None:
    config = Config(model_a=ModelConfig(pretrained=str(tmp_path / "absent")))
    with pytest.raises(UserError, match=r"model_a.pretrained: .*absent: has no config.json"):
        resolve_role(config, "a")


def test_another_name_than_that_of_the_folder(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "a", SMALL))
    config = Config(model_a=ModelConfig(pretrained=folder, name="test_vit"))
    rule = "model_a.name: test_vit: model_a.pretrained names a test_resnet; leave one of the two"
    with pytest.raises(UserError, match=rule):
        resolve_role(config, "a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("no", False), ("runs/x/models/best", "runs/x/models/best"), ("./5", "./5")],
)
def test_pretrained_is_a_word_or_a_folder(text: str, expected: bool | str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"model_a:\n  pretrained: {text}\n")
    for argv in (["--model_a.pretrained", text], ["--config", str(file)]):
        assert parse_config(argv, "prog").model_a.pretrained == expected
