"""What the launcher promised, as pure functions of the environment."""

import pytest

from cotrain_dist.errors import UserError
from cotrain_dist.runtime.launch import check_environment, check_world, use_cpu


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
    ("device", "environ", "num_gpus", "expected"),
    [
        ("auto", {}, 0, True),
        ("auto", {}, 2, False),
        ("auto", {"ACCELERATE_USE_CPU": "true"}, 2, True),
        ("cpu", {}, 2, True),
        ("cpu", {"LOCAL_WORLD_SIZE": "4"}, 2, True),
        ("cuda", {"LOCAL_WORLD_SIZE": "2"}, 2, False),
    ],
)
def test_the_device(device: str, environ: dict[str, str], num_gpus: int, expected: bool) -> None:
    assert use_cpu(device, environ, num_gpus) is expected


@pytest.mark.parametrize(
    ("device", "environ", "num_gpus", "match"),
    [
        ("cuda", {}, 0, "this node shows no GPU"),
        ("cuda", {"ACCELERATE_USE_CPU": "1"}, 2, "told to use CPUs"),
        ("auto", {"LOCAL_WORLD_SIZE": "3"}, 2, r"3 processes .* share 2 GPU.*--device cpu"),
    ],
)
def test_a_device_that_cannot_be_had(
    device: str, environ: dict[str, str], num_gpus: int, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        use_cpu(device, environ, num_gpus)
