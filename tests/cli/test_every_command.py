"""Every command once, on one run, in the order in which a user meets them."""

import json
from pathlib import Path

import pytest
from ranks import tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.reporting.annotator import Annotator


def test_every_command_once(
    digits_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its page would wait for a person.
    monkeypatch.setattr(Annotator, "serve_forever", lambda self, poll_interval: None)
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 1},
    )
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    settings = ["--config", str(tmp_path / "settings.yaml")]
    run, image = str(tmp_path / "run"), str(digits_folder / "digit_7")
    cache = ["--data.feature_cache", str(tmp_path / "cache")]
    studies = [tmp_path / name for name in ("study", "calibration")]
    commands = [
        (["env"], "torch: "),
        (["plan", *settings], "Models"),
        (["submit", "--dry-run", *settings], "sbatch --nodes 1"),
        (["train", *settings], "Accuracy on T in %, before and after 1 epochs of Step 2"),
        (["evaluate", run], f"{run} on T, in %"),
        (["predict", run, image, "--output", str(tmp_path / "labels.csv")], ""),
        (
            [
                *("queue", run, "--strategy", "margin", "--size", "5"),
                *("--output", str(tmp_path / "queue.csv"), *cache),
            ],
            "5 of ",
        ),
        (
            ["annotate", str(tmp_path / "queue.csv"), "--images", str(digits_folder)],
            "0 of 5 images are answered",
        ),
        (["annotate", run, "--output", str(tmp_path / "answers.csv")], "answers.csv: 0 answers"),
        (["labels", run, "--output", str(tmp_path / "pool.parquet")], "pool.parquet: labels of "),
        (["push", run, "me/digits", "--dry-run"], "nothing was sent"),
        (["export", run, "--output", str(tmp_path / "model.onnx")], "model.onnx: best of "),
        (["report", run, "--output", str(tmp_path / "report.html")], "open it in a browser"),
        (["runs", str(tmp_path)], "finished"),
        (["watch", run], "finished"),
        (["verify", run], "all equal"),
        (
            ["reproduce", *settings, "--arms", "none-own", "--output_dir", str(studies[0])],
            "report.md",
        ),
        (
            [
                *("calibrate", *settings, "--draws", "1", "--max_trials", "1"),
                *("--tolerance", "0.99", "--output_dir", str(studies[1])),
            ],
            "a trial stands within the tolerance",
        ),
    ]
    for arguments, shown in commands:
        assert cli.main(arguments) == 0, arguments
        assert shown in capsys.readouterr().out, arguments
    assert sorted({arguments[0] for arguments, _ in commands}) == sorted(cli.command_names())
    assert (tmp_path / "labels.csv").read_text().count("\n") == 1 + len(list(Path(image).iterdir()))
    assert json.loads((studies[0] / "results.json").read_text())["verdicts"]
    assert (studies[1] / "calibrated.yaml").is_file()
