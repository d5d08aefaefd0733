"""models/best: chosen on V or, without one, on T; loads in timm without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ranks import history_of, run_ranks, tiny_config, train_run

pytestmark = pytest.mark.slow
"""`test_guards.py` and `test_without_test.py` look at models/best of smaller runs."""

NUM_EPOCHS = 3
FRESH_PROCESS = """
import json, sys
import timm, torch
from PIL import Image

torch.set_num_threads(1)
torch.manual_seed(0)
counts = []
for job in json.load(sys.stdin):
    model = timm.create_model("local-dir:" + job["folder"], pretrained=job["pretrained"]).eval()
    settings = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**settings, is_training=False)
    names = json.load(open(job["folder"] + "/config.json"))["label_names"]
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file, _ in job["images"]])
    with torch.no_grad():
        labels = model(images).argmax(dim=1).tolist()
    right = [names[label] == name for label, (_, name) in zip(labels, job["images"])]
    counts.append([sum(right), len(right), settings["input_size"], settings["crop_pct"]])
assert "cotrain_dist" not in sys.modules
print(json.dumps(counts))
"""


def _test_images(run: Path, root: Path) -> list[tuple[str, str]]:
    """File and class of every image of T."""
    rows = pq.read_table(run / "splits.parquet").to_pylist()
    return [(str(root / row["path"]), row["class"]) for row in rows if row["split"] == "T"]


@pytest.fixture(scope="module")
def runs(
    digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Chosen on T in one process; chosen on V in two."""
    tmp_path = tmp_path_factory.mktemp("best")
    model = {"name": "test_efficientnet"}
    for name, num_ranks, fraction in (("T", 1, 0.0), ("V", 2, 0.15)):
        config = tiny_config(
            digits_folder,
            tmp_path / name,
            data={"validation_fraction": fraction, "center_crop_fraction": 0.9},
            model_a=model | {"init_from": str(pretrained / "a")},
            model_b=model | {"init_from": str(pretrained / "b")},
            pretrain={"num_epochs": 1},
            cotrain={"num_epochs": NUM_EPOCHS},
        )
        run_ranks(train_run, num_ranks, tmp_path, config)
    return {name: tmp_path / name for name in ("T", "V")}


def _notes(run: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((run / "models/best/config.json").read_text())[
        "cotrain_dist"
    ]
    return notes


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = [line for line in history_of(run) if line["phase"] == "cotrain"]
    assert [line["epoch"] for line in lines] == list(range(NUM_EPOCHS + 1))
    return lines


def test_with_v_the_best_of_all_epochs_is_chosen_on_it(runs: dict[str, Path]) -> None:
    figures = [
        (line["validation"][role]["top1"], -line["epoch"], role)
        for line in _lines(runs["V"])
        for role in ("b", "a")
    ]
    top1 = max(figures)[0]
    candidates = [(-epoch, role) for value, epoch, role in figures if value == top1]
    notes = _notes(runs["V"])
    assert (notes["epoch"], notes["role"]) == min(candidates)  # the earliest, A before B
    assert (notes["top1"], notes["chosen_on"]) == (top1, "V")
    assert notes["run_id"] == json.loads((runs["V"] / "run.json").read_text())["run_id"]


def test_without_v_the_better_of_the_last_epoch_is_chosen_on_t(runs: dict[str, Path]) -> None:
    line = _lines(runs["T"])[-1]
    assert "validation" not in line
    notes = _notes(runs["T"])
    top1 = {role: line["test"][role]["top1"] for role in ("a", "b")}
    assert notes["role"] == max(top1, key=lambda role: top1[role])
    assert (notes["epoch"], notes["chosen_on"]) == (NUM_EPOCHS, "T")
    assert notes["top1"] == max(top1.values())
    assert "optimistic" in notes["note"]
    best, same = (runs["T"] / "models" / name for name in ("best", notes["role"]))
    assert (best / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()


def test_a_fresh_process_with_timm_alone_counts_as_many_right(
    runs: dict[str, Path], digits_folder: Path, tmp_path: Path
) -> None:
    jobs = [
        {
            "folder": str(run / "models" / "best"),
            "pretrained": is_loaded,
            "images": _test_images(run, digits_folder),
        }
        for run in runs.values()
        for is_loaded in (True, False)
    ]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS],
        input=json.dumps(jobs),
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    for index, run in enumerate(runs.values()):
        notes = _notes(run)
        top1 = _lines(run)[notes["epoch"]]["test"][notes["role"]]["top1"]
        loaded, random = counts[2 * index : 2 * index + 2]
        num_right, num_images, input_size, crop_fraction = loaded
        assert (num_images, input_size, crop_fraction) == (50, [3, 32, 32], 0.9)
        assert num_right == pytest.approx(top1 * num_images, abs=1e-6)
        assert num_right > num_images / 5
        assert random[0] != num_right  # the weights were loaded, and they matter
