"""From a run to the next one: `queue RUN`, labels by a person, `train --recycle --extra-labels`."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from PIL import Image
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split


@pytest.fixture(scope="module")
def run(
    digits_folder: Path,
    digits_table: Path,
    starts: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished run of heads on a table with T."""
    folder = tmp_path_factory.mktemp("recycle")
    start = {"name": None, "pretrained": starts["a"], "train": "head"}
    config = tiny_config(
        digits_folder,
        folder / "run",
        data={
            **{"source": "csv", "root": None, "table": str(digits_table)},
            **{"feature_cache": str(folder / "cache"), "labeled_per_class": None},
            **{"test_per_class": 6, "image_size": 32},
        },
        model_a=start,
        model_b=start,
        labels="shared",
        pretrain={"num_epochs": 1, "labels": "shared"},
        cotrain={"num_epochs": 1},
    )
    train_run(config)
    return folder / "run"


def fill_in(file: Path) -> int:
    """As a person would, by the first letter of a name; the last row is left open."""
    rows = list(csv.DictReader(file.open()))
    lines = [f"{row['path']},{Path(row['path']).name[0]}" for row in rows[:-1]]
    lines.append(f"{rows[-1]['path']},")
    file.write_text("\n".join(["path,label", *lines]) + "\n")
    return len(lines) - 1


def test_a_run_is_asked_labeled_and_recycled(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, again = tmp_path / "more.csv", tmp_path / "again"
    assert cli.main(["queue", str(run), "--size", "9", "--output", str(file), "--near", "0"]) == 0
    assert fill_in(file) == 8
    words = ["--recycle", str(run), "--extra-labels", str(file), "--output_dir", str(again)]
    assert cli.main(["train", *words]) == 0
    before, after = load_split_table(run), load_split_table(again)
    assert torch.equal(after.sample_ids(Split.T), before.sample_ids(Split.T))
    learned = [len(table.labeled(role, "shared")) for table in (before, after) for role in "a"]
    assert learned[1] == learned[0] + 8
    asked = {row["path"]: row["label"] for row in csv.DictReader(file.open()) if row["label"]}
    for i, path in enumerate(after.listing.paths):
        if path in asked:
            assert after.class_names[after.class_ids[i]] == asked[path]
            assert before.splits[i] == Split.U
            assert after.splits[i] in (Split.L_A, Split.L_B)
    assert abs(len(after.sample_ids(Split.L_A)) - len(after.sample_ids(Split.L_B))) <= 1
    assert json.loads((again / "run.json").read_text())["finished"]
    assert "features" not in capsys.readouterr().out.split("attempt 1")[-1]  # all were kept

    # What was asked for is not asked again, and the third run has both lots of labels.
    third = tmp_path / "third.csv"
    assert cli.main(["queue", str(again), "--size", "5", "--output", str(third)]) == 0
    assert not {row["path"] for row in csv.DictReader(third.open())} & set(asked)
    num = fill_in(third)
    words = ["--recycle", str(again), "--extra_labels", str(third)]
    assert cli.main(["train", *words, "--output_dir", str(tmp_path / "third")]) == 0
    assert len(load_split_table(tmp_path / "third").labeled("a", "shared")) == learned[1] + num


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recycle", "RUN"], "output_dir: (none): RUN is never written over; give --output_dir"),
        (["--recycle", "RUN", "--output_dir", "RUN"], "output_dir: RUN: exists already"),
        (["--recycle", "NOWHERE"], "RUN: NOWHERE: is no run directory"),
        (["--recycle"], "--recycle: : takes one run directory"),
        (["--recycle", "RUN", "--config", "x.yaml"], "--config: : does not go with a run"),
        (["--resume", "RUN", "--extra-labels", "x.csv"], "--extra_labels: x.csv: a run that goes"),
        (["--resume", "RUN", "--recycle", "RUN"], "--recycle: RUN: a run that goes on keeps"),
        (["--extra-labels"], "--extra_labels: : takes one file"),
        (
            ["--recycle", "RUN", "--output_dir", "NEW", "--extra-labels", "x.csv"],
            "data.extra_labels: x.csv: is no file",
        ),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"RUN": str(run), "NEW": str(tmp_path / "new"), "NOWHERE": str(tmp_path / "none")}
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
        message = message.replace(name, path) if name != "RUN" else message
    message = message.replace("RUN is", f"{run} is").replace(": RUN:", f": {run}:")
    assert cli.main(["train", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_labels_for_the_rest_come_from_kept_features(
    num_ranks: int, run: Path, digits_table: Path, tmp_path: Path
) -> None:
    """As from pixels; a new image and a broken file among them take their own way."""
    folder = tmp_path / "images"
    shutil.copytree(digits_table.parent / "images", folder)
    (folder / "0_broken.png").write_text("no image")
    Image.new("RGB", (8, 8), "red").save(folder / "1_new.png")
    outputs = []
    for name, cache in (("kept", run.parent / "cache"), ("none", tmp_path / "empty")):
        output = tmp_path / f"{name}.csv"
        words = ["predict", str(run), str(folder), "--output", str(output)]
        words += ["--data.feature_cache", str(cache)]
        passed = run_ranks(count_passes, num_ranks, tmp_path, words)
        # One more of each model tries it after it was built.
        assert sum(passed) == 2 * (1 + (2 if name == "kept" else 146))
        outputs.append(list(csv.DictReader(output.open())))
    assert len(outputs[0]) == len(outputs[1]) == 145
    for kept, passed in zip(*outputs, strict=True):
        for key, value in kept.items():
            if key.startswith("confidence"):
                assert float(value) == pytest.approx(float(passed[key]), abs=1e-5)
            else:
                assert value == passed[key]


def count_passes(words: list[str]) -> int:
    """A body: a command; how many images passed through a whole model."""
    kind = type(timm.create_model("test_resnet"))
    forward, seen = kind.forward, []

    def counted(model: Any, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(model, images)

    with mock.patch.object(kind, "forward", counted):
        assert cli.main(words) == 0
    return sum(seen)
