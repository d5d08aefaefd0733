"""The program from outside: exit codes, one-line errors, and the real launchers."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotrain_dist.cli import main as cli
from cotrain_dist.version import __version__

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
TINY = [
    *("--data.image_size", "16", "--data.center_crop_fraction", "1", "--device", "cpu"),
    *("--data.labeled_per_class", "2", "--data.test_fraction", "0.05", "--train.batch_size", "8"),
    *("--model_a.name", "test_resnet", "--model_b.name", "test_resnet"),
    *("--pretrain.num_epochs", "1", "--pretrain.warmup_epochs", "0"),
    *("--cotrain.num_epochs", "1", "--cotrain.warmup_epochs", "0"),
    *("--selection.threshold", "0.12"),
]
PYTHON = [sys.executable, "-m", "cotrain_dist"]
ACCELERATE = [str(BIN / "accelerate"), "launch", "--num_machines", "1", "--mixed_precision", "no"]
ACCELERATE += ["--dynamo_backend", "no"]
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
BUILD_ACCELERATOR_FIRST = (
    "import sys, accelerate; accelerate.PartialState();"
    "from cotrain_dist.cli.main import main; sys.exit(main())"
)


def start(command: list[str], cwd: Path, **extra_environ: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PMI_", "OMPI_"))}
    # The package beside these tests, wherever the environment's own one comes from.
    environ |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(cwd), "PYTHONPATH": str(REPOSITORY)}
    environ |= extra_environ
    return subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=170, check=False
    )


def model_digests(run: Path) -> list[str]:
    files = [run / "models" / name / "model.safetensors" for name in ("a", "b", "best")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_version_help_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert "--resume RUN" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "error: command: trian: is not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--resume"], "--resume: : takes one run directory"),
        (["--resume", "x", "--resume=y"], "takes one run directory"),
        (["--resume", "nowhere"], "RUN: nowhere: is no run directory"),
        (["--selection.treshold", "0.9"], "did you mean selection.threshold"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *arguments]) == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.slow
def test_one_process_two_launchers_and_a_resume(tmp_path: Path) -> None:
    """One process, accelerate launch and torchrun end with the same weights; then resume."""
    train = ["train", *TINY, "--output_dir"]
    commands = {
        "alone": [str(BIN / "cotrain-dist"), *train, "alone"],
        "accelerate": [
            *ACCELERATE, *("--multi_gpu", "--num_processes", "2", "-m", "cotrain_dist"),
            *train, "accelerate",
        ],
        "torchrun": [*TORCHRUN, "-m", "cotrain_dist", *train, "torchrun"],
    }  # fmt: skip
    for command in commands.values():
        done = start(command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Accuracy on T in %" in done.stdout
        assert "\x1b[" not in done.stdout, "plain lines where there is no terminal"
        assert "cotrain 1/1: T A" in done.stdout
    digests = {name: model_digests(tmp_path / name) for name in commands}
    assert digests["alone"] == digests["accelerate"] == digests["torchrun"]
    assert len(set(digests["alone"])) == 2, "best is A or B"

    again = start([*PYTHON, *train, "alone"], tmp_path)
    assert again.returncode == 2
    assert "output_dir: alone: exists already" in again.stderr
    assert "Traceback" not in again.stderr

    changed = start([*PYTHON, "train", "--resume", "alone", "--seed", "1"], tmp_path)
    assert changed.returncode == 2
    assert "seed: 1: cannot change in an existing run" in changed.stderr
    both = start([*PYTHON, "train", "--resume", "alone", "--config", "x.yaml"], tmp_path)
    assert both.returncode == 2
    assert "--config" in both.stderr

    history = (tmp_path / "alone" / "history.jsonl").read_text()
    finished = start([*PYTHON, "train", "--resume", "alone", "--data.num_workers", "1"], tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "alone" / "history.jsonl").read_text() == history
    assert json.loads((tmp_path / "alone" / "run.json").read_text())["attempt"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "environ", "fragment"),
    [
        (
            [*ACCELERATE, "--cpu", "--num_processes", "2", "-m", "cotrain_dist"],
            {},
            "accelerate launch --cpu: MASTER_ADDR",
        ),
        (
            [*TORCHRUN, "--no-python", "env", "-u", "LOCAL_RANK", *PYTHON],
            {},
            "WORLD_SIZE: 2: LOCAL_RANK not set",
        ),
        (
            # A library built its Accelerator first, without cpu=True: on a CPU, N worlds of one.
            [*TORCHRUN, "--no-python", sys.executable, "-c", BUILD_ACCELERATOR_FIRST],
            {},
            "WORLD_SIZE: 2: Accelerate sees a world of 1",
        ),
        (PYTHON, {"SLURM_NTASKS": "2"}, "SLURM_NTASKS: 2"),
        (PYTHON, {"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE: 2"),
        (PYTHON, {"PMI_SIZE": "2"}, "PMI_SIZE: 2"),
    ],
    ids=["accelerate-cpu", "torchrun-no-rank", "torchrun-strangers", "slurm", "openmpi", "pmi"],
)
def test_strangers_are_refused(
    command: list[str], environ: dict[str, str], fragment: str, tmp_path: Path
) -> None:
    arguments = ["train", *TINY, "--output_dir", "run"]
    done = start([*command, *arguments], tmp_path, **environ)
    assert done.returncode != 0
    if command is PYTHON:
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert fragment in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", cli.command_names())
def test_the_help_of_each_command_ends_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    words = capsys.readouterr().out.split()
    place = words.index("Example:")
    assert words[place + 1 : place + 3] == ["cotrain-dist", name]
