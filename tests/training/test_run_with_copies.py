"""A run on a folder with copies: its first lines say so, and nothing uses them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split
from cotrain_dist.study.labels import pool_of
from cotrain_dist.study.labels_by import with_labels
from cotrain_dist.training.heads import scaling_of_images

COPIES = (("digit_3/04.png", "digit_3/z.png"), ("digit_5/06.png", "digit_5/z.png"))
CONTRADICTING = ("digit_7/08.png", "digit_9/z.png")
LINES = (
    "warning: left out: 2 copies of other images, 2 images whose copies have another label",
    "warning: 1 image(s) with different labels: digit_7/08.png (digit_7) = digit_9/z.png (digit_9)",
)
OUT = {copy for _, copy in COPIES} | {*CONTRADICTING}


@pytest.fixture(scope="module")
def settings(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The settings of a run of heads on digits, some of which are there twice."""
    folder = tmp_path_factory.mktemp("run_with_copies")
    shutil.copytree(digits_folder, folder / "images")
    for first, second in (*COPIES, CONTRADICTING):
        shutil.copy(folder / "images" / first, folder / "images" / second)
    start = {"name": None, "pretrained": starts["a"], "train": "head"}
    config = tiny_config(
        folder / "images",
        folder / "run",
        data={"feature_cache": str(folder / "cache")},
        model_a=start,
        model_b=start,
        cotrain={"num_epochs": 1},
    )
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    return folder / "settings.yaml"


def test_a_plan_tells_of_copies(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--config", str(settings)]) == 0
    assert tuple(capsys.readouterr().out.splitlines()[:2]) == LINES


def test_a_run_tells_of_copies_and_uses_none(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = settings.parent / "run"
    assert cli.main(["train", "--config", str(settings)]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = "10 classes, T 48, V 0, L_A 40, L_B 40, U 71 (71 with hidden labels, which nobody "
    assert sizes in lines[1]
    assert tuple(lines[2:4]) == LINES
    assert LINES[1].removeprefix("warning: ") in (run / "logs" / "rank-000.log").read_text()
    table = load_split_table(run)
    assert {table.listing.paths[i] for i in table.sample_ids(Split.OUT).tolist()} == OUT
    # Nor is one of them asked for: 71 images of U are all that there is.
    options = [str(run), "--near", "0", "--output", str(run.parent / "labels.csv")]
    assert cli.main(["queue", *options, "--size", "72"]) == 2
    assert "--size: 72: 71 different image(s) have no label" in capsys.readouterr().err
    assert cli.main(["queue", *options, "--size", "71"]) == 0
    listed = (run.parent / "labels.csv").read_text()
    assert not any(path in listed for path in OUT)
    assert cli.main(["evaluate", str(run), "--on", "OUT"]) == 2
    assert "--on: OUT: is neither a split nor a folder" in capsys.readouterr().err
    assert_only_what_is_learned_counts(run)


def assert_only_what_is_learned_counts(run: Path) -> None:
    """For the centers and scales of heads, and for a study of labels."""
    table, asked = load_split_table(run), []

    def read(sample_ids: torch.Tensor) -> torch.Tensor:
        asked.extend(sample_ids.tolist())
        return torch.rand(len(sample_ids), 3)

    scaling_of_images(SimpleNamespace(read=read), SimpleNamespace(table=table))  # type: ignore[arg-type]
    learned = (table.splits != Split.T) & (table.splits != Split.OUT)
    assert asked == learned.nonzero().flatten().tolist()
    assert pool_of(table).tolist() == asked
    chosen = with_labels(table, asked[:4])
    assert torch.equal(chosen.sample_ids(Split.OUT), table.sample_ids(Split.OUT))
    assert len(chosen.sample_ids(Split.L_A)) == len(chosen.sample_ids(Split.L_B)) == 2


def test_a_folder_s_queue_has_no_copies(
    settings: Path,
    starts: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a table: images with two labels are no labeled ones, and nobody is asked for a third."""
    images = settings.parent / "images"
    shutil.copy(images / CONTRADICTING[0], images / "digit_1" / "z.png")
    rows = ["path,label", f"{CONTRADICTING[0]},7", f"{CONTRADICTING[1]},9", "digit_1/z.png,"]
    rows += ["digit_3/04.png,3", "digit_3/z.png,", "digit_2/00.png,", "digit_2/01.png,"]
    (images / "table.csv").write_text("\n".join(rows))
    options = ["--data.table", str(images / "table.csv"), "--near", "0", "--data.image_size", "32"]
    options += ["--model_a.pretrained", starts["a"], "--model_b.pretrained", starts["a"]]
    options += ["--device", "cpu"]
    options += ["--data.feature_cache", str(tmp_path / "cache")]
    assert cli.main(["queue", *options, "--size", "2", "--output", str(tmp_path / "2.csv")]) == 0
    assert "2 of 2 images to label" in capsys.readouterr().out
    listed = (tmp_path / "2.csv").read_text().split()
    assert sorted(listed[1:]) == ["digit_2/00.png,", "digit_2/01.png,"]
