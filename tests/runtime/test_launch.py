"""What the launcher promised, as pure functions of the environment."""

import pytest

from cotrain_dist.errors import UserError
from cotrain_dist.runtime.launch import (
    check_environment,
    check_fallback,
    check_world,
    promised_gpu,
    wants_cpu,
)


@pytest.mark.parametrize(
    ("environ", "match"),
    [
        ({"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}, r"--multi_gpu"),
        ({"SLURM_NTASKS": "4"}, r"SLURM_NTASKS: 4: .*unset SLURM_NTASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, r"OMPI_COMM_WORLD_SIZE: 2"),
        ({"PMI_SIZE": "3"}, r"PMI_SIZE: 3"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, r"LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
    ],
)
def test_a_lone_process_of_several_is_refused(environ: dict[str, str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_environment(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_NTASKS": "1"},
        {"ACCELERATE_USE_CPU": "true"},
        {"MASTER_ADDR": "127.0.0.1"},
        {"WORLD_SIZE": "1"},
        {
            **{"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "SLURM_NTASKS": "2"},
            **{"MASTER_ADDR": "a", "MASTER_PORT": "1"},
        },
    ],
)
def test_a_right_start_passes(environ: dict[str, str]) -> None:
    check_environment(environ)


def test_a_world_other_than_promised_is_refused() -> None:
    check_world({}, 1)
    check_world({"WORLD_SIZE": "3"}, 3)
    with pytest.raises(UserError, match=r"WORLD_SIZE: 2: Accelerate sees a world of 1"):
        check_world({"WORLD_SIZE": "2"}, 1)
    with pytest.raises(UserError, match=r"WORLD_SIZE: 1"):
        check_world({}, 2)


@pytest.mark.parametrize(
    ("device", "environ", "expected"),
    [
        ("auto", {}, False),
        ("auto", {"ACCELERATE_USE_CPU": "true"}, True),
        ("cpu", {}, True),
        ("cpu", {"CUDA_VISIBLE_DEVICES": "0"}, True),
        ("cuda", {"LOCAL_WORLD_SIZE": "2"}, False),
    ],
)
def test_who_stays_on_the_cpu(device: str, environ: dict[str, str], expected: bool) -> None:
    assert wants_cpu(device, environ) is expected


def test_cuda_under_a_launcher_for_cpus_is_refused() -> None:
    with pytest.raises(UserError, match=r"device: cuda: .*told to use CPUs"):
        wants_cpu("cuda", {"ACCELERATE_USE_CPU": "1"})


@pytest.mark.parametrize(
    ("environ", "promise"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "0"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES=0"),
        ({"SLURM_GPUS_ON_NODE": "0"}, None),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
        ({"SLURM_JOB_GPUS": "0,1"}, "SLURM_JOB_GPUS=0,1"),
    ],
)
def test_what_promises_a_gpu(environ: dict[str, str], promise: str | None) -> None:
    assert promised_gpu(environ) == promise


@pytest.mark.parametrize(
    ("device", "environ", "match"),
    [
        ("cuda", {}, r"device: cuda: this node shows no GPU \(no driver\); give --device auto or"),
        (
            "auto",
            {"SLURM_JOB_GPUS": "0"},
            r"device: auto: SLURM_JOB_GPUS=0 promises a GPU, but it cannot be used \(no driver\); "
            r"mend CUDA .*--device cpu",
        ),
    ],
)
def test_a_fallback_that_is_refused(device: str, environ: dict[str, str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_fallback(device, environ, "no driver")


def test_who_was_promised_nothing_may_fall_back() -> None:
    check_fallback("auto", {}, "no driver")
