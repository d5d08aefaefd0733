"""Device and precision are settled and compared before any group exists."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from ranks import run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.errors import UserError
from cotrain_dist.runtime import device as device_module
from cotrain_dist.runtime.accelerator import rows_of, start_runtime
from cotrain_dist.runtime.device import Card, resolve_device

H100 = Card("1a", "NVIDIA H100", "9.0")
TWIN = Card("1b", "NVIDIA H100", "9.0")
A100 = Card("2c", "NVIDIA A100", "8.0")
NO_DRIVER = "Found no NVIDIA driver"


def _start(config: Config, found: list[Card | str], environs: list[dict[str, str]]) -> list[str]:
    """A body: a start where each rank finds a card or the reason why not; how it ended."""
    rank = int(os.environ["RANK"])
    own = {"LOCAL_WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": ""} | environs[rank]
    with (
        mock.patch.dict(os.environ, own),
        mock.patch.object(device_module, "find_card", return_value=found[rank]),
    ):
        try:
            start_runtime(config)
        except UserError as error:
            return [type(error).__name__, str(error), str(dist.is_initialized())]
    return ["", "", ""]


def start(tmp_path: Path, found: list[Any], **changes: Any) -> list[list[str]]:
    environs = changes.pop("environs", [{}] * len(found))
    config = tiny_config(tmp_path, tmp_path / "run", **({"device": "auto"} | changes))
    return run_ranks(_start, len(found), tmp_path, config, found, environs)


def test_a_rank_that_falls_to_the_cpu_is_named_before_any_group_exists(tmp_path: Path) -> None:
    (kind, text, has_group), other = start(tmp_path, [H100, NO_DRIVER])
    assert (kind, has_group) == ("UserError", "False")
    assert text.startswith(f"device: cpu ({NO_DRIVER}): on rank 1, ")
    assert ", but cuda (NVIDIA H100) on rank 0, " in text
    assert text.endswith("give --device cpu.")
    assert other[::2] == ["PeerUserError", "False"]


def test_a_lead_rank_on_the_cpu_is_named_as_well(tmp_path: Path) -> None:
    (_, text, _), _ = start(tmp_path, [NO_DRIVER, H100])
    assert text.startswith("device: cuda (NVIDIA H100): on rank 1, ")
    assert f", but cpu ({NO_DRIVER}) on rank 0, " in text


def test_a_promise_that_one_node_cannot_keep_is_told_to_all(tmp_path: Path) -> None:
    """Within the start, not after `start_seconds` as a rank that never came."""
    environs = [{}, {"CUDA_VISIBLE_DEVICES": "0"}]
    lead, broken = start(tmp_path, [H100, NO_DRIVER], environs=environs)
    text = "device: auto: CUDA_VISIBLE_DEVICES=0 promises a GPU, but it cannot be used"
    assert broken[0] == "UserError"
    assert broken[1].startswith(text)
    assert lead[0] == "PeerUserError"
    assert lead[1].startswith("rank 1 on ")
    assert text in lead[1]


def test_precisions_of_two_launchers_are_compared(tmp_path: Path) -> None:
    environs = [{"ACCELERATE_MIXED_PRECISION": name} for name in ("bf16", "no")]
    (kind, text, has_group), _ = start(tmp_path, [NO_DRIVER] * 2, environs=environs)
    assert (kind, has_group) == ("UserError", "False")
    assert text.startswith("precision: fp32: on rank 1, ")
    assert ", but bf16 on rank 0, " in text


def test_ranks_that_share_a_gpu_are_refused_before_any_group_exists(tmp_path: Path) -> None:
    outcomes = start(tmp_path, [H100, TWIN, H100])
    assert [kind for kind, _, _ in outcomes] == ["UserError"] * 3
    assert {has_group for _, _, has_group in outcomes} == {"False"}
    assert outcomes[0][1].startswith("device: cuda 1a: ranks 0 and 2 on ")


def test_one_role_on_gpus_of_two_kinds_is_refused_before_any_group_exists(tmp_path: Path) -> None:
    outcomes = start(tmp_path, [A100, H100, TWIN], placement={"ranks_a": [2]})
    assert {has_group for _, _, has_group in outcomes} == {"False"}
    assert "role B would train on GPUs of two kinds: NVIDIA A100 (rank 0, " in outcomes[0][1]


def test_one_visible_gpu_for_each_of_several_processes_is_accepted() -> None:
    """As `srun --gpus-per-task=1` does: all of them see one GPU, and no two see the same one."""
    config = Config(device="cuda")
    environ = {"LOCAL_WORLD_SIZE": "2"}
    facts = {}
    for rank, card in enumerate((H100, TWIN)):
        with mock.patch.object(device_module, "find_card", return_value=card):
            device = resolve_device(config, environ | {"LOCAL_RANK": str(rank)})
        assert not device.on_cpu
        facts[rank] = {"node": "n"} | device.facts()
    assert [row.device for row in rows_of(facts)] == ["cuda 1a", "cuda 1b"]
    assert [row.card for row in rows_of(facts)] == ["NVIDIA H100"] * 2


@pytest.mark.parametrize(("nodes", "num_lines"), [(["/dev/nvidia0"], 1), ([], 0)])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_gpu_that_cannot_be_used_is_told_once(
    nodes: list[str], num_lines: int, rank: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        mock.patch.object(device_module, "find_card", return_value=NO_DRIVER),
        mock.patch.object(device_module.glob, "glob", return_value=nodes),
    ):
        assert resolve_device(Config(), {"RANK": rank}).on_cpu
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (num_lines if rank == "0" else 0)
    assert all(line.endswith(f"GPU cannot be used: {NO_DRIVER}") for line in lines)


def test_a_machine_without_a_gpu_says_why() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    why = device_module.find_card({})
    assert isinstance(why, str)
    assert 0 < len(why.splitlines()[0]) == len(why) < 120
