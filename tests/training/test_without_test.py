"""Runs without T: every exchange, resume, what chooses the best model, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.reporting.overview import summaries_below


@pytest.fixture(scope="module")
def table(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of 8 images of each of 4 digits; the others have none."""
    file = tmp_path_factory.mktemp("without_test") / "labels.csv"
    lines = ["path,label"]
    for digit in range(4):
        for index in range(20):
            lines.append(f"digit_{digit}/{index:02d}.png,{digit if index < 8 else ''}")
    file.write_text("\n".join(lines) + "\n")
    return file


def config_of(table: Path, root: Path, tmp_path: Path, name: str, **changes: Any) -> Config:
    data = {
        "source": "csv",
        "table": str(table),
        "test_per_class": None,
        "labeled_per_class": None,
        "feature_cache": str(tmp_path / "cache"),
    }
    changes["data"] = data | changes.get("data", {})
    return tiny_config(root, tmp_path / name, **changes)


def heads(starts: dict[str, str]) -> dict[str, Any]:
    return {
        f"model_{role}": {"name": None, "pretrained": start, "train": "head"}
        for role, start in starts.items()
    }


@pytest.mark.parametrize("labels", [pytest.param("shared", marks=pytest.mark.slow), "own"])
def test_heads_are_cross_validated(
    labels: str,
    table: Path,
    digits_folder: Path,
    starts: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(table, digits_folder, tmp_path, "run", labels=labels, **heads(starts))
    train_run(config)
    shown = " ".join(capsys.readouterr().out.split())
    assert "no T: accuracy is estimated by cross-validation on L" in shown
    assert "no random sample of all images" in shown
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    found = run["cross_validation"]
    assert (found["num_images"], found["num_alone"]) == (32, 0)
    assert set(found["of"]) == ({"a", "b", "ensemble"} if labels == "shared" else {"a", "b"})
    for own in found["of"].values():
        assert 0.0 <= own["low"] < own["top1"] <= own["high"] <= 1.0
    best = json.loads((tmp_path / "run" / "models" / "best" / "config.json").read_text())
    notes = best["cotrain_dist"]
    assert notes["chosen_on"] == "cross-validation on L"
    assert notes["top1"] == max(found["of"][name]["top1"] for name in ("a", "b"))
    (summary,) = summaries_below(tmp_path)
    assert summary.best.endswith("% by cross-validation on L")
    assert {line.get("test") for line in history_of(tmp_path / "run")} == {None}
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 2
    assert "--on: T: the run has no labeled image there" in capsys.readouterr().err


@pytest.mark.slow
def test_every_world_estimates_the_same(
    table: Path, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    found = []
    for num_ranks in (1, 2, 3):
        config = config_of(
            table, digits_folder, tmp_path, f"run{num_ranks}", labels="shared", **heads(starts)
        )
        run_ranks(train_run, num_ranks, tmp_path, config)
        run = json.loads((tmp_path / f"run{num_ranks}" / "run.json").read_text())
        found.append(run["cross_validation"])
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["alternate", "none"])
def test_whole_models_train_and_resume(
    exchange: str, table: Path, digits_folder: Path, tmp_path: Path
) -> None:
    config = config_of(table, digits_folder, tmp_path, "run", exchange=exchange)
    run_ranks(train_run, 2, tmp_path, config)
    (tmp_path / "run" / "run.json").write_text(
        json.dumps(json.loads((tmp_path / "run" / "run.json").read_text()) | {"finished": False})
    )
    before = history_of(tmp_path / "run")
    run_ranks(train_run, 2, tmp_path, config, True)
    assert history_of(tmp_path / "run") == before
    best = json.loads((tmp_path / "run" / "models" / "best" / "config.json").read_text())
    assert best["cotrain_dist"]["chosen_on"] == "nothing"
    assert (best["cotrain_dist"]["role"], best["cotrain_dist"]["top1"]) == ("a", None)


def test_with_v_alone_v_chooses(table: Path, digits_folder: Path, tmp_path: Path) -> None:
    config = config_of(table, digits_folder, tmp_path, "run", data={"validation_fraction": 0.25})
    train_run(config)
    best = json.loads((tmp_path / "run" / "models" / "best" / "config.json").read_text())
    assert best["cotrain_dist"]["chosen_on"] == "V"


def test_a_study_needs_a_test_split(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data.root", str(digits_folder), "--data.test_fraction", "0", "--device", "cpu"]
    words += ["--data.image_size", "32", "--output_dir", str(tmp_path / "study")]
    assert cli.main(["reproduce", *words]) == 2
    assert "data.test_fraction: 0: a study measures on T" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_mistake_is_still_one(table: Path, digits_folder: Path, tmp_path: Path) -> None:
    config = config_of(table, digits_folder, tmp_path, "run", data={"labeled_per_class": 30})
    kind, text = complaint(config)
    assert kind == "UserError"
    assert "each class needs an image" in text
