"""Precision: setting and launcher, contradictions, and a training in bf16."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import cotrain_quietly, two_models_config
from ranks import run_ranks

from cotrain_dist.config import Config, CotrainConfig, ModelConfig, PretrainConfig
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.launch import mixed_precision_of

NO, BF16, FP16, FP8 = ({"ACCELERATE_MIXED_PRECISION": p} for p in ("no", "bf16", "fp16", "fp8"))


@pytest.mark.parametrize(
    ("precision", "on_cpu", "environ", "expected"),
    [
        ("auto", True, {}, "no"),
        ("auto", False, {}, "no"),
        ("auto", True, NO, "no"),
        ("auto", True, BF16, "bf16"),
        ("auto", False, FP16, "fp16"),
        ("fp32", True, {}, "no"),
        ("fp32", False, NO, "no"),
        ("bf16", True, {}, "bf16"),
        ("bf16", True, BF16, "bf16"),
        ("bf16", False, {}, "bf16"),
        ("fp16", False, {}, "fp16"),
        ("fp16", False, FP16, "fp16"),
    ],
)
def test_setting_and_launcher(
    precision: str, on_cpu: bool, environ: Mapping[str, str], expected: str
) -> None:
    assert mixed_precision_of(precision, on_cpu, environ) == expected


@pytest.mark.parametrize(
    ("precision", "environ", "match"),
    [
        ("bf16", NO, r"precision: bf16: .*--mixed_precision no; .*--mixed_precision bf16"),
        ("bf16", FP16, r"precision: bf16: .*--mixed_precision fp16; .*--mixed_precision bf16"),
        ("fp32", BF16, r"precision: fp32: .*--mixed_precision bf16; .*--mixed_precision no"),
        ("fp16", BF16, r"precision: fp16: .*or leave precision at auto"),
        ("fp32", FP8, r"precision: fp32: .*--mixed_precision fp8"),
    ],
)
@pytest.mark.parametrize("on_cpu", [True, False])
def test_contradictions(
    precision: str, environ: Mapping[str, str], match: str, on_cpu: bool
) -> None:
    with pytest.raises(UserError, match=match):
        mixed_precision_of(precision, on_cpu, environ)


@pytest.mark.parametrize(
    ("precision", "on_cpu", "environ", "value"),
    [
        ("fp16", True, {}, "fp16"),
        ("fp16", True, FP16, "fp16"),
        ("auto", True, FP16, "fp16"),
        ("auto", True, FP8, "fp8"),
        ("auto", False, FP8, "fp8"),
    ],
)
def test_what_is_not_to_be_had(
    precision: str, on_cpu: bool, environ: Mapping[str, str], value: str
) -> None:
    with pytest.raises(UserError, match=rf"precision: {value}: is not to be had here"):
        mixed_precision_of(precision, on_cpu, environ)


def one_epoch(table: Path, output_dir: Path, precision: str) -> Config:
    return two_models_config(
        table,
        output_dir,
        precision=precision,
        # At 16 pixels its last maps are 1 x 1, for which oneDNN's bf16 gradients hold stray NaN.
        model_a=ModelConfig(name="test_resnet", image_size=32),
        model_b=ModelConfig(name="test_vit"),
        pretrain=PretrainConfig(num_epochs=1, warmup_epochs=0),
        cotrain=CotrainConfig(num_epochs=0, warmup_epochs=0),
        tracking="none",
    )


def train_both(first: Config, second: Config) -> None:
    """A body: two trainings in one process, as in a notebook."""
    cotrain_quietly(first)
    cotrain_quietly(second)


def test_bf16_trains_and_gives_other_weights(digits_table: Path, tmp_path: Path) -> None:
    weights = {}
    for precision in ("fp32", "bf16"):
        config = one_epoch(digits_table, tmp_path / precision, precision)
        run_ranks(cotrain_quietly, 1, tmp_path, config)
        text = (tmp_path / precision / "environment.json").read_text()
        assert f'"precision": "{precision}"' in text
        weights[precision] = {
            name: safetensors.torch.load_file(
                tmp_path / precision / "models" / name / "model.safetensors"
            )
            for name in ("a", "b")
        }
    for name in ("a", "b"):
        fp32, bf16 = weights["fp32"][name], weights["bf16"][name]
        assert {tensor.dtype for tensor in bf16.values()} <= {torch.float32, torch.int64}
        assert fp32.keys() == bf16.keys()
        assert any(not torch.equal(fp32[key], bf16[key]) for key in fp32)
        assert all(tensor.isfinite().all() for tensor in bf16.values())


@pytest.mark.slow
def test_one_process_may_train_in_one_precision_and_then_in_another(
    digits_table: Path, tmp_path: Path
) -> None:
    first = one_epoch(digits_table, tmp_path / "first", "fp32")
    second = replace(first, precision="bf16", output_dir=str(tmp_path / "second"))
    run_ranks(train_both, 1, tmp_path, first, second)
    assert '"precision": "bf16"' in (tmp_path / "second" / "environment.json").read_text()
