"""Two network hosts without a scheduler: to the end, cut off, resumed, and wrong starts."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import ADDRESSES, Hosts, missing_tools
from ranks import history_of
from requirements import require

ROOT = Path(__file__).parents[2]
LOST_AFTER_SECONDS = 8
PORT = "29507"
ENVIRON = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "CUDA_VISIBLE_DEVICES": ""}
SETTINGS = [
    *("--config", str(ROOT / "configs" / "digits.yaml"), "--output_dir", "run"),
    *("--pretrain.num_epochs", "4", "--pretrain.warmup_epochs", "0"),
    *("--distributed.lost_after_seconds", str(LOST_AFTER_SECONDS)),
    *("--distributed.start_seconds", "20"),
]


@pytest.fixture
def two_hosts() -> Iterator[Hosts]:
    """Hosts a and b with a cable between them."""
    require(missing_tools())
    pair = Hosts(f"ct{os.getpid() % 10_000}")
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


def launch(launcher: str, machine_rank: int, words: list[str], num_ranks: int = 2) -> list[str]:
    """The command of docs/launch.md for one host of two."""
    if launcher == "accelerate":
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file"),
            *(str(ROOT / "launch" / "accelerate" / "several_nodes.yaml"), "--num_machines", "2"),
            *("--num_processes", str(num_ranks), "--machine_rank", str(machine_rank)),
            *("--main_process_ip", ADDRESSES["a"], "--main_process_port", PORT),
            *("--rdzv_conf", "timeout=20"),
        ]
    else:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
            *("--nproc-per-node", "1", "--node-rank", str(machine_rank)),
            *("--master-addr", ADDRESSES["a"], "--master-port", PORT, "--rdzv-conf", "timeout=20"),
        ]
    return [*command, "-m", "cotrain_dist", "train", *words]


def start_both(
    hosts: Hosts, launcher: str, words: list[str], cwd: Path
) -> list[subprocess.Popen[str]]:
    return [
        hosts.start(host, launch(launcher, rank, words), ENVIRON, cwd)
        for rank, host in enumerate("ab")
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: float) -> list[str]:
    """What each printed; fails where one is still there after the time."""
    end = time.monotonic() + seconds
    return [p.communicate(timeout=max(end - time.monotonic(), 1.0))[0] for p in processes]


def wait_for_epoch(run: Path, epoch: int) -> None:
    end = time.monotonic() + 120
    while not (run / "checkpoints" / "world" / f"cotrain-{epoch:05d}").exists():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_a_cut_link_ends_both_sides_and_a_restart_goes_on(
    launcher: str, two_hosts: Hosts, tmp_path: Path
) -> None:
    long = [*SETTINGS, "--cotrain.num_epochs", "500"]
    processes = start_both(two_hosts, launcher, long, tmp_path)
    wait_for_epoch(tmp_path / "run", 2)
    two_hosts.cut()
    cut_at = time.monotonic()
    texts = finish(processes, LOST_AFTER_SECONDS * 6)
    assert time.monotonic() - cut_at < LOST_AFTER_SECONDS * 6
    assert all(process.returncode for process in processes)
    assert "rank 0 (role A, node a): lost rank 1 (role B, node b)" in texts[0]
    assert "rank 1 (role B, node b): lost the store of rank 0's node" in texts[1]

    two_hosts.heal()
    committed = max((tmp_path / "run" / "checkpoints" / "world").iterdir()).name
    again = start_both(two_hosts, launcher, ["--resume", "run"], tmp_path)
    wait_for_epoch(tmp_path / "run", int(committed.split("-")[1]) + 2)
    for process in again:
        process.terminate()
    finish(again, 60)
    epochs = [r["epoch"] for r in history_of(tmp_path / "run") if r["phase"] == "cotrain"]
    assert epochs == list(range(len(epochs)))
    environment = json.loads((tmp_path / "run" / "environment-2.json").read_text())
    assert [rank["node"] for rank in environment["ranks"]] == ["a", "b"]


def test_a_cut_of_a_few_seconds_is_survived(two_hosts: Hosts, tmp_path: Path) -> None:
    processes = start_both(
        two_hosts, "accelerate", [*SETTINGS, "--cotrain.num_epochs", "8"], tmp_path
    )
    wait_for_epoch(tmp_path / "run", 2)
    two_hosts.cut()
    time.sleep(LOST_AFTER_SECONDS / 3)
    two_hosts.heal()
    texts = finish(processes, 120)
    assert [process.returncode for process in processes] == [0, 0], texts
    assert history_of(tmp_path / "run")[-1]["epoch"] == 8


def test_a_host_that_does_not_come_is_told_in_time(two_hosts: Hosts, tmp_path: Path) -> None:
    """Rank 1's launcher starts a process, but with the world of three that nobody else has."""
    environ = ENVIRON | {"MASTER_ADDR": ADDRESSES["a"], "MASTER_PORT": PORT, "WORLD_SIZE": "3"}
    command = [sys.executable, "-m", "cotrain_dist", "train", *SETTINGS]
    processes = [
        two_hosts.start(host, command, environ | {"RANK": str(rank), "LOCAL_RANK": "0"}, tmp_path)
        for rank, host in enumerate("ab")
    ]
    texts = finish(processes, 90)
    assert [process.returncode for process in processes] == [2, 2]
    line = (
        "error: rank 0 on a: WORLD_SIZE: 3: rank(s) 2 did not come within 20 s; here are rank 0 on "
    )
    assert line in texts[0]
    assert "Traceback" not in "".join(texts)
    assert not (tmp_path / "run").exists()


def test_an_address_that_nobody_answers(two_hosts: Hosts, tmp_path: Path) -> None:
    environ = ENVIRON | {"MASTER_ADDR": "10.99.7.77", "MASTER_PORT": PORT, "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "cotrain_dist", "train", *SETTINGS]
    process = two_hosts.start("b", command, environ | {"RANK": "1", "LOCAL_RANK": "0"}, tmp_path)
    (text,) = finish([process], 90)
    assert process.returncode == 2
    assert "error: rank 1 on b: MASTER_ADDR: 10.99.7.77:29507: rank 1 on b does not reach" in text


def test_other_settings_on_one_host_are_named(two_hosts: Hosts, tmp_path: Path) -> None:
    processes = [
        two_hosts.start(
            host, launch("accelerate", rank, [*SETTINGS, "--seed", str(rank)]), ENVIRON, tmp_path
        )
        for rank, host in enumerate("ab")
    ]
    texts = finish(processes, 90)
    assert all(process.returncode for process in processes)
    assert "error: rank 0 on a: seed: 1: on rank 1, b, but 0 on rank 0, a" in texts[0]


def test_a_gpu_that_is_not_there(two_hosts: Hosts, tmp_path: Path) -> None:
    words = [*SETTINGS, "--device", "cuda"]
    texts = finish(start_both(two_hosts, "torchrun", words, tmp_path), 90)
    assert "device: cuda: this node shows no GPU (" in texts[0]
    assert "; give --device auto or --device cpu" in texts[0]
    assert "error: rank 1 on b: device: cuda" in texts[1]


@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_a_launcher_that_nobody_answers_ends(
    launcher: str, two_hosts: Hosts, tmp_path: Path
) -> None:
    """Host a was never started: b's launcher gives up after its own limit."""
    started = time.monotonic()
    process = two_hosts.start("b", launch(launcher, 1, SETTINGS), ENVIRON, tmp_path)
    (text,) = finish([process], 120)
    assert process.returncode != 0
    assert time.monotonic() - started < 90
    assert ADDRESSES["a"] in text
