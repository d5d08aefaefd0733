"""`verify RUN`: an epoch trained again gives what the run has recorded, or the run is told of."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import cotrain_quietly
from filelock import FileLock
from ranks import run_ranks, tiny_config, train_run
from safetensors.torch import load_file, save_file

from cotrain_dist.cli.main import main
from cotrain_dist.config import Config, CotrainConfig

Change = Callable[[Path], None]


def _config(root: Path, models: Path, output_dir: Path, **changes: Any) -> Config:
    model = {"name": "test_efficientnet", "drop_rate": 0.1}
    return tiny_config(
        root,
        output_dir,
        data={"augment": "crop_flip"},
        model_a=model | {"init_from": f"{models}/a"},
        model_b=model | {"init_from": f"{models}/b"},
        pretrain={"num_epochs": 1, "learning_rate": 1e-3},
        cotrain={"num_epochs": 2},
        checkpoint={"keep": 9},
        **changes,
    )


@pytest.fixture(scope="module")
def run(digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process; copy it to change it."""
    folder = tmp_path_factory.mktemp("verified") / "run"
    cotrain_quietly(_config(digits_folder, pretrained, folder))
    return folder


def _files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("words", [[], ["--from_start"]])
def test_what_its_settings_make_is_verified_and_only_read(
    run: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files_of(run.parent)
    assert main(["verify", str(run), *words, "--tracking", "tensorboard"]) == 0
    shown = capsys.readouterr().out
    assert "all equal" in shown
    assert "weights of A" in shown
    assert "R_A and R_B" in shown
    assert "models/b" in shown
    assert _files_of(run.parent) == before


def test_another_torch_is_warned_of_and_a_run_without_commits_is_trained_whole(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    _without_commits(other)
    made_with = json.loads((other / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps(made_with | {"torch": "2.0.1"}))
    assert main(["verify", str(other)]) == 0
    shown = capsys.readouterr().out
    assert "(made with 2.0.1): right, but not bit-equal" in shown
    assert re.search(r"^\W+0 .* weights of A", shown, re.MULTILINE), "from the first weights on"


def _other_digest(name: str) -> Change:
    def change(run: Path) -> None:
        *lines, last = (run / "history.jsonl").read_text().splitlines()
        record = json.loads(last)
        record["digests"][name] = "0" * 64
        (run / "history.jsonl").write_text("\n".join([*lines, json.dumps(record), ""]))

    return change


def _better_figure(run: Path) -> None:
    text = (run / "history.jsonl").read_text()
    *_, last = text.splitlines()
    record = json.loads(last)
    record["test"]["a"]["top1"] = 1.0
    (run / "history.jsonl").write_text(text.replace(last, json.dumps(record)))


def _other_weights(run: Path) -> None:
    file = run / "models" / "b" / "model.safetensors"
    tensors = load_file(file)
    first = min(name for name in tensors if tensors[name].is_floating_point())
    tensors[first] = tensors[first] * 1.001
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_other_digest("a"), "weights of A"),
        (_other_digest("exchange"), "R_A and R_B"),
        (_better_figure, "figures and counts"),
        (_other_weights, "models/b"),
    ],
)
def test_what_was_changed_is_told(
    run: Path, change: Change, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    change(changed)
    assert main(["verify", str(changed)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if " NO " in line]
    assert any(told in line for line in lines), lines


def _without_digests(run: Path) -> None:
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("digests", None)
    (run / "history.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


def _before_step_two(run: Path) -> None:
    lines = (run / "history.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["phase"] == "pretrain"]
    (run / "history.jsonl").write_text("".join(f"{line}\n" for line in kept))


def _of_two_ranks(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    environment["ranks"] *= 2
    (run / "environment.json").write_text(json.dumps(environment))


def _without_commits(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def _changed_since(run: Path) -> None:
    """As `--allow-config-change` leaves a run that has not come to another epoch."""
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("clip_grad_norm: null", "clip_grad_norm: 9.0"))


def _once_changed(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"earlier_settings": ["0" * 64]}))


def _nothing(run: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        (_nothing, ["--epoch", "3"], "--epoch: 3: .* has the epochs 1 to 2"),
        (_nothing, ["--epoch", "-1"], "--epoch: -1: must not be negative"),
        (_nothing, ["--work_dir", "nowhere"], "--work_dir: nowhere: cannot be written to"),
        (_without_commits, ["--epoch", "2"], "--epoch: 2: no commit before it is kept"),
        (_changed_since, [], "its settings were changed on the way"),
        (_once_changed, ["--from_start"], "its settings were changed on the way"),
        (_without_digests, [], "has recorded no hashes"),
        (_before_step_two, [], "has not come to Step 2"),
        (_of_two_ranks, ["--from_start"], r"was made by 2 process\(es\), here are 1"),
    ],
)
def test_what_cannot_be_verified_is_one_error(
    run: Path,
    change: Change,
    words: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    change(changed)
    assert main(["verify", str(changed), *words]) == 2
    assert re.search(told, capsys.readouterr().err)


def _verify(arguments: list[str]) -> int:
    """A body."""
    return main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_several_ranks_verify_rounds_that_begin_again_from_step_one(
    num_ranks: int, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    rounds = CotrainConfig(num_epochs=3, warmup_epochs=0, epochs_per_round=1, restart="step_one")
    config = _config(digits_folder, pretrained, tmp_path / "run", exchange="peer")
    config = replace(config, cotrain=rounds)
    run_ranks(train_run, num_ranks, tmp_path, config)
    for words in ([], ["--epoch", "2"], ["--from_start", "--epoch", "1"]):
        arguments = ["verify", str(tmp_path / "run"), *words]
        assert run_ranks(_verify, num_ranks, tmp_path, arguments) == [0] * num_ranks
    assert run_ranks(_verify, 1, tmp_path, ["verify", str(tmp_path / "run")]) == [2]


def test_a_run_that_is_being_trained_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "held"
    shutil.copytree(run, held)
    with FileLock(held / "lock"):
        assert main(["verify", str(held)]) == 2
    assert "is in use by a training that still runs" in capsys.readouterr().err
