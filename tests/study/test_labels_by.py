"""`reproduce --labels_by`: the same curves in every world, continued after a kill, and the gap."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks, tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.method.statistics import gap_closed
from cotrain_dist.study.labels import balanced_order


@pytest.fixture(scope="module")
def options(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Arguments of a study of seconds: heads on two small backbones."""
    folder = tmp_path_factory.mktemp("labels_by")
    heads = {"name": None, "train": "head"}
    config = tiny_config(
        digits_folder,
        folder / "unused",
        data={"feature_cache": str(folder / "cache"), "test_fraction": 0.4},
        model_a=heads | {"pretrained": starts["a"]},
        model_b=heads | {"pretrained": starts["b"]},
        cotrain={"num_epochs": 1},
    )
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    return ["--config", str(folder / "settings.yaml"), "--num_labels", "20", "10"]


def run_study(arguments: list[str]) -> int:
    """A body: the command."""
    return cli.main(["reproduce", *arguments])


def figures_of(folder: Path) -> dict[str, Any]:
    """All that was measured, without what clocks say."""
    found = {}
    for file in sorted((folder / "labels").glob("seed-*.json")):
        curves = json.loads(file.read_text())
        found[file.name] = {
            name: [{k: v for k, v in point.items() if k != "seconds"} for point in points]
            for name, points in curves.items()
        }
    return found


@pytest.mark.slow
def test_every_world_measures_the_same_and_goes_on_where_it_was(
    options: list[str], tmp_path: Path
) -> None:
    strategies = ["random", "balanced", "margin", "committee", "herding", "herding_rounds"]
    studies = []
    for num_ranks in (1, 2, 3):
        folder = tmp_path / str(num_ranks)
        words = [*options, "--labels_by", *strategies, "--output_dir", str(folder)]
        assert run_ranks(run_study, num_ranks, tmp_path, [*words, "--seeds", "0", "1"])[0] == 0
        studies.append(figures_of(folder))
    assert studies[0] == studies[1] == studies[2]
    assert [p["num_labels"] for p in studies[0]["seed-1.json"]["margin"]] == [10, 20]

    file = tmp_path / "1" / "labels" / "seed-1.json"
    kept = json.loads(file.read_text())
    del kept["committee"]
    kept["random"][0]["vote"] = 0.5  # would be seen if it were measured again
    file.write_text(json.dumps(kept))
    words = [*options, "--labels_by", *strategies, "--output_dir", str(tmp_path / "1")]
    assert run_study([*words, "--seeds", "0", "1"]) == 0
    again = figures_of(tmp_path / "1")["seed-1.json"]
    assert again["committee"] == studies[0]["seed-1.json"]["committee"]
    assert again["random"][0]["vote"] == 0.5


@pytest.mark.slow
def test_the_report_has_votes_gaps_and_trained_arms(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*options, "--output_dir", str(tmp_path / "study"), "--seeds", "0", "1"]
    words += ["--labels_by", "random", "herding", "--arms", "vote", "labels-only", "ceiling"]
    assert run_study(words) == 0
    assert "report.md" in capsys.readouterr().out
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    votes = [results["labels_by"][name]["vote"] for name in ("random", "herding")]
    assert all(vote["low"] <= vote["mean"] <= vote["high"] for vote in votes)
    assert all(0.1 < vote["mean"] <= 1.0 for vote in votes)
    assert set(results["arms"]) >= {"vote", "labels-only", "ceiling"}
    # An arm that is trained as a run comes to what the heads of the curves came to.
    assert results["arms"]["vote"]["accuracy"] == pytest.approx(votes[1])
    assert results["arms"]["ceiling"]["accuracy"] == pytest.approx(results["ceiling"])
    assert (tmp_path / "study" / "labels.png").is_file()
    assert "no random sample" in (tmp_path / "study" / "report.md").read_text()


def test_the_gap_closed_by_hand() -> None:
    base, ceiling = [0.6, 0.7, 0.65], [0.8, 0.9, 0.86]
    half = gap_closed([0.7, 0.8, 0.75], base, ceiling)
    assert half is not None
    assert half.mean == pytest.approx(0.3 / 0.61)
    assert half.low <= half.mean <= half.high
    assert gap_closed(ceiling, base, ceiling).mean == pytest.approx(1.0)  # type: ignore[union-attr]
    assert gap_closed([0.7], [0.6], [0.8]) is None  # one seed shows no difference
    assert gap_closed([0.7, 0.7, 0.7], base, [0.5, 0.9, 0.6]) is None


def test_balanced_labels_come_class_by_class() -> None:
    class_ids = torch.tensor([0] * 50 + [1] * 3 + [2] * 10)
    order = balanced_order(class_ids, seed=0)
    assert sorted(order.tolist()) == list(range(63))
    classes = class_ids[order].tolist()
    assert [sorted(classes[start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert 1 not in classes[9:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels_by", "random"], "--num_labels: (alone): needs --labels_by"),
        (["--labels_by", "luck", "--num_labels", "9"], "--labels_by: luck: is no way to choose"),
        (["--labels_by", "random", "--num_labels", "0"], "--num_labels: 0: must be at least 1"),
        (["--labels_by", "random", "--num_labels", "999"], "only 150 images are not held out"),
        (["--arms", "luck"], "--arms: luck: is no arm"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = options[:2] if "--num_labels" in words or "--arms" in words else options
    if words == ["--labels_by", "random"]:
        given, words = options, []
    assert run_study([*given, *words, "--output_dir", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("role", "other"), [("a", "b"), ("b", "a")])
def test_models_without_weights_are_refused(
    role: str,
    other: str,
    digits_folder: Path,
    starts: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--data.root", str(digits_folder), f"--model_{role}.name", "test_resnet"]
    words += [f"--model_{other}.pretrained", starts[other], "--labels_by", "random"]
    words += ["--num_labels", "10", "--device", "cpu", "--output_dir", str(tmp_path / "study")]
    assert run_study(words) == 2
    told = capsys.readouterr().err
    assert f"model_{role}.pretrained: false: --labels_by fits last layers" in told
    assert f"give --model_{role}.pretrained true or FOLDER" in told
    assert not (tmp_path / "study").exists()
