"""`submit`: what it checks, what it shows, what it hands to sbatch."""

import os
import shlex
from pathlib import Path

import pytest
from conftest import FinishedRun

from cotrain_dist.cli import main as cli
from cotrain_dist.config.parsing import parse_config

SETTINGS = ["--config", str(Path(__file__).parents[2] / "configs" / "digits.yaml")]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that notes how it was called; returns the file of its notes."""
    notes, tool = tmp_path / "notes", tmp_path / "bin" / "sbatch"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nenv | grep ^COTRAIN > {notes}\necho "$@" >> {notes}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    return notes


def test_a_dry_run_shows_plan_and_command_and_does_nothing(
    sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    shape = ["--nodes", "2", "--gpus-per-node", "4", "--time", "1:00:00", "--dry-run"]
    assert (
        cli.main(["submit", *shape, *SETTINGS, "--train.batch_size", "40", "--output_dir", run])
        == 0
    )
    out = capsys.readouterr().out
    assert "node1" in out
    assert "A3" in out
    assert "between the nodes" in out
    (line,) = [line for line in out.splitlines() if " sbatch " in line]
    words = shlex.split(line)
    assert "COTRAIN_RANKS_PER_NODE=4" in words
    options = words[words.index("sbatch") + 1 :]
    assert options[:4] == ["--nodes", "2", "--time", "1:00:00"]
    assert options[6:8] == ["--gpus-per-node", "4"]
    script, *arguments = options[8:]
    assert Path(script).is_file()
    assert arguments == [run, "--config", f"{run}.yaml"]
    assert not sbatch.exists()
    assert not (tmp_path / "run.yaml").exists()


NODES = "16 (null)\n96 gpu:h100:8(S:0-1)\n64 shard:4,gpu:4\n"


@pytest.mark.parametrize(
    ("words", "nodes", "expected"),
    [
        ([], NODES, "16"),
        (["--gpus-per-node", "2"], NODES, "24"),
        (["--gpus-per-node", "8"], NODES, "96"),
        (["--gpus-per-node", "16", "--ranks-per-node", "2"], NODES, None),
        (["--gpus-per-node", "2", "--cpus-per-task", "6"], NODES, "6"),
        ([], "", None),
    ],
)
def test_the_launcher_gets_the_cpus_of_its_gpus(
    words: list[str],
    nodes: str,
    expected: str | None,
    sbatch: Path,
    tmp_path: Path,
) -> None:
    """Else it would get one CPU, for all processes of a node."""
    (sbatch.parent / "nodes").write_text(nodes)
    sinfo = sbatch.parent / "bin" / "sinfo"
    sinfo.write_text(f"#!/bin/sh\ncat {sbatch.parent}/nodes\n")
    sinfo.chmod(0o755)
    run = str(tmp_path / "run")
    words = [*words, *SETTINGS, "--train.batch_size", "40"]
    assert cli.main(["submit", *words, "--output_dir", run]) == 0
    options = sbatch.read_text().splitlines()[-1].split()
    found = options[options.index("--cpus-per-task") + 1] if "--cpus-per-task" in options else None
    assert found == expected


def test_it_submits_the_settings_of_now(sbatch: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*SETTINGS, "--seed", "7", "--precision", "bf16", "--output_dir", str(run)]
    words += ["--ranks-per-node", "2", "--sbatch", "--partition long"]
    assert cli.main(["submit", *words]) == 0
    notes = sbatch.read_text()
    assert "COTRAIN_RANKS_PER_NODE=2" in notes
    assert "COTRAIN_MIXED_PRECISION=bf16" in notes
    assert "--partition long" in notes
    saved = parse_config(["--config", str(tmp_path / "run.yaml")], "train")
    assert (saved.seed, saved.precision, saved.output_dir) == (7, "bf16", str(run))
    assert cli.main(["submit", *words, "--seed", "8"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes: 0: must be at least 1"),
        (["--gpus-per-node", "-1"], "--gpus-per-node: -1: must be at least 0"),
        (["--ranks-per-node", "0"], "--ranks-per-node: 0: must be at least 1"),
        (["--cpus-per-task", "0"], "--cpus-per-task: 0: must be at least 1"),
        (["--seeed", "1"], "seeed: 1: no such key; did you mean seed"),
        (["--model_a.name", "resnet1"], "model_a.name: resnet1: is no model of timm"),
        (["--data.source", "imagefolder", "--data.root", "x"], "data.root: x: is no folder"),
        (["--nodes", "16"], "train.batch_size: 10: can leave 0 image"),
    ],
)
def test_what_would_fail_in_the_queue_fails_now(
    words: list[str],
    message: str,
    sbatch: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["submit", *SETTINGS, *words, "--output_dir", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not sbatch.exists()


def test_a_directory_that_is_there_and_other_settings(
    sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("seed: 1\n")
    command = ["submit", *SETTINGS, "--output_dir", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "was submitted with other settings" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    assert cli.main(command) == 2
    assert "exists already and is never written over" in capsys.readouterr().err
    assert not sbatch.exists()


def test_a_machine_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["submit", *SETTINGS, "--output_dir", str(tmp_path / "run")]) == 2
    assert "submit: sbatch: is not found on this machine" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_study_has_the_ranks_of_a_training_and_goes_on_where_it_is_there(
    sbatch: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    words = ["--seeds", "0", "1", "--arms", "vote", "--nodes", "2", "--ranks-per-node", "1"]
    words = ["submit", "reproduce", *words, *SETTINGS, "--output_dir", str(study)]
    assert cli.main(words) == 0
    notes = sbatch.read_text()
    assert "COTRAIN_COMMAND=reproduce" in notes
    assert "COTRAIN_RANKS_PER_NODE=1" in notes
    (line,) = [line for line in notes.splitlines() if line.startswith("--nodes 2")]
    script, *arguments = line[line.index(" /") + 1 :].split()
    assert Path(script).name == "train.sbatch"
    assert arguments == [
        *(str(study), "--config", f"{study}.yaml", "--seeds", "0", "1", "--arms", "vote")
    ]
    assert parse_config(["--config", f"{study}.yaml"], "train").output_dir == str(study)


def test_labels_and_report_of_a_run_are_one_process_with_their_own_words(
    sbatch: Path, finished_run: FinishedRun, tmp_path: Path
) -> None:
    run = str(finished_run.path)
    for name, file in (("labels", "pool.csv"), ("report", "report.html")):
        words = [run, "--output", str(tmp_path / file), "--device", "cpu"]
        assert cli.main(["submit", name, *words, "--gpus-per-node", "1", "--time", "9"]) == 0
        line = sbatch.read_text().splitlines()[-1]
        assert line.startswith(f"--nodes 1 --time 9 --job-name cotrain-{file} --gpus-per-node 1 ")
        assert line.endswith(" ".join(["/launch/slurm/command.sbatch", name, *words]))
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "RUN"], "submit: predict: is no command that can be submitted"),
        (["labels", "RUN", "--nodes", "2"], "--nodes: 2: labels runs as one process"),
        (["report", "RUN", "--ranks-per-node", "2"], "--ranks-per-node: 2: report runs as one"),
        (["labels", "RUN", "--output", "x.txt"], "--output: x.txt: must end in .csv or .jsonl"),
        (["labels", "RUN", "--output", "x.csv", "--nods", "2"], "nods: 2: no such key"),
        (["labels", "RUN", "--time", "1", "--time", "2"], "--time: --time: is given twice"),
        (["report", "nowhere", "--output", "x.html"], "RUN: nowhere: is no run directory"),
        (["reproduce", "--arms", "papr"], "--arms: papr: is no arm"),
        (["reproduce", "--report_only"], "--report_only: (given): trains nothing"),
    ],
)
def test_mistakes_in_other_commands_are_told_now(
    words: list[str],
    message: str,
    sbatch: Path,
    finished_run: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(finished_run.path) if word == "RUN" else word for word in words]
    assert cli.main(["submit", *words]) == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert error.count("\n") == 1
    assert not sbatch.exists()
