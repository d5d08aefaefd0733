"""launch/slurm on a real SLURM of two nodes: to the end, stopped, requeued, out of time, swept."""

import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import history_of
from requirements import require
from slurm import Cluster, missing_tools

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "launch" / "slurm"
ENVIRON = {
    "COTRAIN_PYTHON": sys.executable,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo",  # the nodes share the machine's loopback
}
SETTINGS = (
    *("--config", str(ROOT / "configs" / "digits.yaml")),
    *("--pretrain.num_epochs", "6", "--pretrain.warmup_epochs", "0"),
    *("--cotrain.num_epochs", "6"),
)


def outcome_of(run: Path) -> dict[str, Any]:
    """All that a run leaves and that must not depend on how often it was started."""
    weights = {
        name: hashlib.sha256((run / "models" / name / "model.safetensors").read_bytes()).hexdigest()
        for name in ("a", "b", "best")
    }
    return {"history": history_of(run), **weights}


def log_of(folder: Path, job: str) -> str:
    """What the job has printed so far."""
    return "".join(log.read_text() for log in folder.glob(f"*-{job}.log"))


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


def has_reached(run: Path, epoch: int) -> bool:
    return (run / "checkpoints" / "world" / f"cotrain-{epoch:05d}").exists()


def submit(cluster: Cluster, folder: Path, *options: str, settings: Any = SETTINGS) -> str:
    return cluster.sbatch(
        *("--nodes", "2", *options, str(SLURM / "train.sbatch"), "run", *settings),
        environ=ENVIRON,
        cwd=folder,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes; the folder's path is short, since sockets live there."""
    require(missing_tools())
    with tempfile.TemporaryDirectory(prefix="sc.", dir="/tmp", ignore_cleanup_errors=True) as path:
        started = Cluster(Path(path))
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.run("scancel", "--user=root")
    wait_until(lambda: not cluster.run("squeue", "--noheader"), 60)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that nothing has stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = submit(cluster, folder, "--time", "10")
    (ended,) = cluster.wait(job, 200)
    assert ended["JobState"] == "COMPLETED", log_of(folder, job)
    assert (ended["ExitCode"], ended["Restarts"]) == ("0:0", "0")
    return folder


def test_a_is_on_one_node_and_b_on_the_other(undisturbed: Path) -> None:
    environment = json.loads((undisturbed / "run" / "environment.json").read_text())
    assert [(rank["node"], rank["roles"]) for rank in environment["ranks"]] == [
        ("node1", ["a"]),
        ("node2", ["b"]),
    ]
    assert json.loads((undisturbed / "run" / "run.json").read_text())["finished"]
    for rank in (0, 1):
        assert (undisturbed / "run" / "logs" / f"rank-{rank:03d}.log").stat().st_size > 0
    (log,) = undisturbed.glob("cotrain-*.log")
    assert "start 1: 2 process(es) on node[1-2]" in log.read_text()


@pytest.mark.parametrize("how", ["signal", "requeue"])
def test_stopped_in_the_middle_it_goes_on_to_the_same_end(
    how: str, cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path, "--time", "10")
    wait_until(lambda: has_reached(tmp_path / "run", 2))
    if how == "signal":  # as SLURM warns before a limit or a preemption
        cluster.run("scancel", "--batch", "--signal=USR1", job)
    else:
        cluster.run("scontrol", "requeue", job)
    (ended,) = cluster.wait(job, 200)
    log = log_of(tmp_path, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1")
    assert "start 1: 2 process(es)" in log
    assert "start 2: 2 process(es)" in log
    assert f"stopped by {'SIGUSR1' if how == 'signal' else 'SIGTERM'}" in log
    assert json.loads((tmp_path / "run" / "run.json").read_text())["attempt"] == 2
    assert outcome_of(tmp_path / "run") == outcome_of(undisturbed / "run")


def test_a_job_that_meets_its_time_limit_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """A real limit of one minute; SLURM looks every half minute, so the warning comes any time."""
    long = [*SETTINGS[:-1], "1000"]
    job = submit(cluster, tmp_path, "--time", "1", "--signal=B:USR1@10", settings=long)
    wait_until(lambda: "start 2:" in log_of(tmp_path, job), 180)
    begun = last_epoch(tmp_path / "run")
    wait_until(lambda: last_epoch(tmp_path / "run") > begun, 120)
    cluster.run("scancel", job)
    cluster.wait(job, 60)
    assert f"job {job}: warned; ending, to go on later" in log_of(tmp_path, job)
    epochs = [r["epoch"] for r in history_of(tmp_path / "run") if r["phase"] == "cotrain"]
    assert epochs == list(range(len(epochs)))


def test_one_launcher_a_node_has_all_its_cpus(cluster: Cluster, tmp_path: Path) -> None:
    """Whatever shape the job has; srun takes none of its numbers by itself."""
    shape = ["--ntasks-per-node", "2", "--cpus-per-task", "3", "--time", "10"]
    job = submit(cluster, tmp_path, *shape, settings=[*SETTINGS[:-1], "2"])
    wait_until(lambda: (tmp_path / "run" / "run.json").exists())
    step = cluster.run("scontrol", "show", "step", f"{job}.0")
    (ended,) = cluster.wait(job, 200)
    log = log_of(tmp_path, job)
    assert ended["JobState"] == "COMPLETED", log
    assert "start 1: 2 process(es) on node[1-2], 6 CPU(s) a node" in log
    assert " Tasks=2 " in step
    assert " CPUs=12 " in step
    assert not list(tmp_path.glob("run.*"))  # notes of restarts are of no more use


def test_restarts_without_a_commit_end_the_job(cluster: Cluster, tmp_path: Path) -> None:
    """A pass longer than the job's time: a warning comes before the first commit, each time.

    The pass is that over features of heads, a minute of them: a warning among steps makes a commit.
    """
    import timm

    start = tmp_path / "start"
    timm.models.save_for_hf(timm.create_model("resnet18"), start, safe_serialization=True)
    words = [f"--model_{role}.{key}" for role in "ab" for key in ("name", "pretrained", "train")]
    values = ["resnet18", str(start), "head"] * 2
    model = [word for pair in zip(words, values, strict=True) for word in pair]
    size = ["--data.image_size", "224", "--data.feature_cache", str(tmp_path / "features")]
    job = submit(cluster, tmp_path, "--time", "10", settings=[*SETTINGS, *model, *size])
    for start in (1, 2, 3):
        line = f"run run, attempt {start}:"
        wait_until(lambda line=line: line in log_of(tmp_path, job))  # type: ignore[misc]
        cluster.run("scancel", "--batch", "--signal=USR1", job)
    (ended,) = cluster.wait(job, 120)
    log = log_of(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "2"), log
    assert f"job {job}: 2 restart(s) in a row have brought no newer commit: stopping" in log
    assert not list((tmp_path / "run").glob("checkpoints/*/*[0-9]"))
    # With more time it goes on by hand, as the message says.
    again = submit(cluster, tmp_path, settings=["--resume", "run"])
    wait_until(lambda: "run run, attempt 4:" in log_of(tmp_path, again))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGABRT, 134), (signal.SIGSTOP, 4)], ids=["aborted", "silent"]
)
def test_a_job_that_lost_a_rank_goes_on_to_the_same_end(
    number: int, code: int, cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    """One that NCCL ends, and one that gives no more sign of life, so that its peer ends."""
    limit = ["--distributed.lost_after_seconds", "5"]
    job = submit(cluster, tmp_path, "--time", "10", settings=[*SETTINGS, *limit])
    wait_until(lambda: has_reached(tmp_path / "run", 2))
    os.kill(pid_of_rank(1, job), number)
    (ended,) = cluster.wait(job, 200)
    log = log_of(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log
    assert f"job {job}: ended with code {code}; to go on later" in log
    assert outcome_of(tmp_path / "run") == outcome_of(undisturbed / "run")


def pid_of_rank(rank: int, job: str) -> int:
    """The process of a rank of a job."""
    wanted = {f"RANK={rank}".encode(), f"SLURM_JOB_ID={job}".encode()}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                found.append(int(process.name))
        except OSError:  # it has ended, or is not ours
            continue
    return min(found)


def last_epoch(run: Path) -> int:
    """The last epoch of Step 2 that is committed; -1 before."""
    commits = sorted(path.name for path in (run / "checkpoints" / "world").glob("*[0-9]"))
    return int(commits[-1].split("-")[1]) if commits else -1


def test_a_mistake_ends_the_job_at_once_with_its_line(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, settings=[*SETTINGS, "--data.root", "nowhere", "--seeed", "1"])
    (ended,) = cluster.wait(job, 60)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0")
    assert ended["ExitCode"] != "0:0"
    assert "error: rank 0 on node1: seeed: 1: no such key; did you mean seed" in log_of(
        tmp_path, job
    )


def test_strangers_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    """N processes and no launcher: each would train alone."""
    command = [sys.executable, "-m", "cotrain_dist", "train", *SETTINGS]
    done = cluster.call(
        *("srun", "--nodes=2", "--ntasks=2", "--kill-on-bad-exit=1", *command),
        environ=ENVIRON,
        cwd=tmp_path,
        seconds=120,
    )
    assert done.returncode != 0
    rule = "SLURM_NTASKS: 2: this process is one of several, but WORLD_SIZE is not set"
    assert rule in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", ["none", "other"])
def test_a_node_without_the_data_is_named(other: str, cluster: Cluster, tmp_path: Path) -> None:
    """The path leads to a disk of each node; that of node2 holds nothing, or something else."""
    local = cluster.local
    make = (
        "import sys; from pathlib import Path; from PIL import Image\n"
        "root, gray = Path(sys.argv[1]), int(sys.argv[2])\n"
        "for label in 'xy':\n"
        "  (root / label).mkdir(parents=True, exist_ok=True)\n"
        "  for i in range(20):\n"
        "    image = Image.new('L', (8 + gray, 8), 20 * (label == 'y') + i)\n"
        "    image.save(root / label / f'{i}.png')\n"
    )
    for node, gray in (("node1", "1"), *([("node2", "99")] if other == "other" else [])):
        cluster.run("srun", "-w", node, sys.executable, "-c", make, f"{local}/{other}", gray)
    source = ["--data.source", "imagefolder", "--data.root", f"{local}/{other}"]
    job = submit(cluster, tmp_path, settings=[*SETTINGS, *source])
    (ended,) = cluster.wait(job, 120)
    assert ended["JobState"] == "FAILED"
    log = log_of(tmp_path, job)
    assert "error: rank 1 on node2: data.root: " in log
    assert ("is missing" if other == "none" else "bytes, not") in log
    assert not (tmp_path / "run").exists()


def test_a_sweep_and_its_report(cluster: Cluster, tmp_path: Path) -> None:
    settings = [
        *("study", "--config", str(ROOT / "configs" / "digits_study.yaml")),
        *("--pretrain.num_epochs", "3", "--pretrain.warmup_epochs", "0"),
        *("--cotrain.num_epochs", "2", "--arms", "none-own", "paper"),
    ]
    environ = ENVIRON | {"COTRAIN_RANKS_PER_NODE": "2"}
    array = cluster.sbatch(
        *("--array", "0-1", str(SLURM / "sweep.sbatch"), *settings), environ=environ, cwd=tmp_path
    )
    report = cluster.sbatch(
        *("--dependency", f"afterany:{array}", str(SLURM / "report.sbatch"), *settings),
        environ=environ,
        cwd=tmp_path,
    )
    tasks = cluster.wait(array, 300)
    logs = [log.read_text() for log in tmp_path.glob(f"cotrain-sweep-{array}-*.log")]
    assert [task["JobState"] for task in tasks] == ["COMPLETED"] * 2, logs
    (ended,) = cluster.wait(report, 120)
    assert ended["JobState"] == "COMPLETED", log_of(tmp_path, report)
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert sorted(results["outcomes"]["paper"]) == ["0", "1"]
    assert "2 seeds, not decided" in (tmp_path / "study" / "report.md").read_text()


def test_submit_hands_over_what_then_runs(cluster: Cluster, tmp_path: Path) -> None:
    shape = ["--nodes", "2", "--time", "10", "--sbatch", "--export ALL"]
    done = cluster.call(
        *(sys.executable, "-m", "cotrain_dist", "submit", *shape, *SETTINGS[:-1], "2"),
        *("--output_dir", "run"),
        environ=ENVIRON,
        cwd=tmp_path,
        seconds=120,
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    (ended,) = cluster.wait(job, 200)
    assert ended["JobState"] == "COMPLETED", log_of(tmp_path, job)
    assert ended["JobName"] == "cotrain-run"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [rank["node"] for rank in environment["ranks"]] == ["node1", "node2"]


def test_submit_hands_over_a_study_and_the_labels_of_its_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    program = (sys.executable, "-m", "cotrain_dist", "submit")
    words = ["reproduce", "--arms", "none-own", *SETTINGS[:-1], "2", "--output_dir", "study"]
    run = "study/seed-0/none-own"
    for command, name in (
        ([*words, "--nodes", "2"], "cotrain-study"),
        (["labels", run, "--output", "pool.csv"], "cotrain-pool.csv"),
        (["report", run, "--output", "run.html"], "cotrain-run.html"),
    ):
        own = ["--time", "10", "--sbatch", "--export ALL"]
        done = cluster.call(*program, *command, *own, environ=ENVIRON, cwd=tmp_path, seconds=120)
        assert done.returncode == 0, done.stderr
        job = done.stdout.split()[-1]
        (ended,) = cluster.wait(job, 300)
        assert ended["JobState"] == "COMPLETED", log_of(tmp_path, job)
        assert ended["JobName"] == name
    environment = json.loads((tmp_path / run / "environment.json").read_text())
    assert [rank["node"] for rank in environment["ranks"]] == ["node1", "node2"]
    assert (tmp_path / "study" / "report.md").is_file()
    assert (tmp_path / "pool.csv").stat().st_size > 0
    assert (tmp_path / "run.html").stat().st_size > 0
