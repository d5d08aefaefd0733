"""`calibrate` with real trainings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ranks import run_ranks, tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.calibration import Goal, Trial
from cotrain_dist.method.splits import Split
from cotrain_dist.study.calibrate import Calibration, _Search, describe


def _calibrate(config: Config, goal: Goal) -> bool:
    """A body."""
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.study.calibrate import calibrate

    rt = start_runtime(config)
    found = calibrate(config, goal, rt)
    rt.close()
    return found


def settings(root: Path, output_dir: Path) -> Config:
    config = tiny_config(
        root, output_dir, pretrain={"num_epochs": 8, "learning_rate": 3e-3}, seed=5
    )
    return replace(config, data=replace(config.data, labeled_per_class=2))


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_fraction_is_found_and_trains_on(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    config = settings(digits_folder, tmp_path / "study")
    goal = Goal(target=0.55, tolerance=0.05, num_draws=2, max_trials=5)
    assert run_ranks(_calibrate, num_ranks, tmp_path, config, goal) == [True] * num_ranks
    found = json.loads((tmp_path / "study" / "calibration.json").read_text())
    fractions = [trial["fraction"] for trial in found["trials"]]
    assert fractions[0] == 0.1  # two of 20
    assert all(trial["num_models"] == 4 for trial in found["trials"])
    distances = [abs(trial["mean"] - 0.55) for trial in found["trials"]]
    assert abs(found["chosen"]["mean"] - 0.55) == min(distances)
    below, above = found["bracket"]["below"], found["bracket"]["above"]
    assert min(distances) <= 0.05 or (below["mean"] < 0.55 <= above["mean"])
    for name in ("calibration.png", "calibration.svg", "calibration.md"):
        assert (tmp_path / "study" / name).stat().st_size > 50
    calibrated = parse_config(["--config", str(tmp_path / "study" / "calibrated.yaml")], "train")
    assert calibrated.data.labeled_fraction == found["chosen"]["fraction"]
    assert calibrated.cotrain.num_epochs == config.cotrain.num_epochs

    parts = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("history.jsonl")}
    assert len(parts) == 2 * len(fractions)
    assert run_ranks(_calibrate, num_ranks, tmp_path, config, goal) == [True] * num_ranks
    assert parts == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("history.jsonl")}


@pytest.mark.slow
def test_larger_shares_hold_smaller_ones(digits_folder: Path, tmp_path: Path) -> None:
    config = settings(digits_folder, tmp_path / "study")
    goal = Goal(target=0.99, tolerance=0.0, num_draws=1, max_trials=2)
    assert run_ranks(_calibrate, 1, tmp_path, config, goal) == [False]
    first, second = (
        load_split_table(folder / "draw-5")
        for folder in sorted((tmp_path / "study").glob("fraction-*"))
    )
    assert first.sample_ids(Split.T).tolist() == second.sample_ids(Split.T).tolist()
    for group in (Split.L_A, Split.L_B):
        small, large = (set(table.sample_ids(group).tolist()) for table in (first, second))
        assert small < large
    assert not (tmp_path / "study" / "calibrated.yaml").exists()


@pytest.mark.slow
def test_a_target_out_of_reach_is_told(digits_folder: Path, tmp_path: Path) -> None:
    config = settings(digits_folder, tmp_path / "study")
    config = replace(config, pretrain=replace(config.pretrain, num_epochs=1))
    goal = Goal(target=0.99, tolerance=0.0, num_draws=1, max_trials=9)
    assert run_ranks(_calibrate, 1, tmp_path, config, goal) == [False]
    found = json.loads((tmp_path / "study" / "calibration.json").read_text())
    assert found["ending"].startswith("out of reach")
    assert found["trials"][-1]["fraction"] == 0.3749  # of 20: 7 each beside 5 of T, one for U
    text = (tmp_path / "study" / "calibration.md").read_text()
    nearest = found["chosen"]["fraction"]
    assert f"all trials lie below the target, the nearest is {nearest:.4f} (" in text


@pytest.mark.parametrize(
    ("target", "tried", "expected"),
    [
        (0.7, [(0.05, 0.474), (0.08, 0.651)], (3, "")),  # 1 and 2 of 20 images
        (0.3, [(0.05, 0.474)], (None, "out of reach")),
        (0.5, [(0.05, 0.474), (0.2, 0.9)], (2, "")),  # not 1 again
        (0.5, [(0.05, 0.474), (0.1, 0.651)], (None, "the next fraction would label as many")),
    ],
)
def test_where_a_larger_share_may_label_no_more_images(
    target: float,
    tried: list[tuple[float, float]],
    expected: tuple[int | None, str],
    digits_folder: Path,
    tmp_path: Path,
) -> None:
    """The search skips such fractions, and tells an end of the fractions from one of patience."""
    config = settings(digits_folder, tmp_path / "study")
    search = _Search(config, Goal(target, 0.01, 1, 9))
    for fraction, mean in tried:
        search._trials.append(Trial(fraction, mean, 0.01, 2))
        search._sizes.add(search._num_labeled(fraction))
    fraction = search.next_fraction()
    assert (None if fraction is None else round(20 * fraction)) == expected[0]
    assert search._ending.partition(":")[0].startswith(expected[1])
    assert bool(search._ending) == (fraction is None)


@pytest.mark.slow
def test_other_images_are_no_trial_of_the_same_study(digits_folder: Path, tmp_path: Path) -> None:
    config = replace(settings(digits_folder, tmp_path / "study"), precision="fp32")
    config = replace(config, pretrain=replace(config.pretrain, num_epochs=1))
    goal = Goal(target=0.99, tolerance=0.0, num_draws=1, max_trials=1)
    assert run_ranks(_calibrate, 1, tmp_path, config, goal) == [False]
    fewer = tmp_path / "fewer"
    shutil.copytree(digits_folder, fewer)
    next(fewer.rglob("*.png")).unlink()
    other = replace(config, data=replace(config.data, root=str(fewer)))
    with pytest.raises(
        UserError, match=r"holds other images or labels than .*draw-5 was drawn from; give"
    ):
        _Search(other, goal)
    moved = replace(
        config, data=replace(config.data, root=shutil.copytree(digits_folder, tmp_path / "moved"))
    )
    _Search(moved, goal)
    in_halves = replace(config, precision="bf16")
    with pytest.raises(UserError, match=r"precision: bf16: the study in .* was begun with fp32"):
        _Search(in_halves, goal)


def test_a_single_trial_names_the_side_without_neighbor() -> None:
    found = Calibration(Goal(0.5, 0.05, 1, 1), (Trial(0.1, 0.48, 0.01, 2),), "near", True)
    assert describe(found).endswith(
        "Neighbors of the target: 0.1000 (48.0 %) and none tried above."
    )
    out = Calibration(Goal(0.3, 0.05, 1, 1), (Trial(0.1, 0.48, 0.01, 2),), "out of reach", False)
    assert describe(out).startswith(
        "out of reach: the smallest fraction tried lies above the target"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target_accuracy", "50"], "--target_accuracy: 50.0: must lie between 0 and 1"),
        (["--tolerance", "-1"], "--tolerance: -1.0: must be 0 or more, below 1"),
        (["--draws", "0"], "--draws: 0: must be at least 1"),
        (["--max_trials", "0"], "--max_trials: 0: must be at least 1"),
        (["--max_trials", "x"], "command line: cotrain-dist calibrate: argument --max_trials"),
        (["--target-accuracy", "50"], "--target_accuracy: 50.0: must lie between 0 and 1"),
        (["--target_acuracy=0.5"], "command line: --target_acuracy: no such option; did you mean"),
        (["--sead", "1"], "sead: 1: no such key; did you mean seed."),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err
