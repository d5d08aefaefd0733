"""Step 1 that stops once V has not risen for some epochs: the rule by hand, and a run."""

from pathlib import Path

import pytest
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.training.pretrain import has_stalled


@pytest.mark.parametrize(
    ("values", "patience_epochs", "expected"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),  # as good is no rise
        ([0.5, 0.4, 0.6], 1, False),
        ([0.5, 0.4, 0.5], 2, True),
        ([0.5, 0.4], 2, False),  # too early to say
        ([0.6, 0.4, 0.5, 0.61], 3, False),
        ([0.2, 0.6, 0.4, 0.5, 0.6], 3, True),
    ],
)
def test_v_has_stalled(values: list[float], patience_epochs: int, expected: bool) -> None:
    assert has_stalled(values, patience_epochs) == expected


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_step_one_stops_and_says_what_v_was(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        data={"validation_fraction": 0.15},
        # At such a rate nothing is learned, so V stands still.
        pretrain={"num_epochs": 9, "patience_epochs": 2, "learning_rate": 1e-9}
        | {"min_learning_rate": 0.0, "eval_every_epochs": 5},
        cotrain={"num_epochs": 0},
    )
    run_ranks(train_run, num_ranks, tmp_path, config)
    for role in "ab":
        lines = [line for line in history_of(tmp_path / "run") if line.get("role") == role]
        values = [line["validation"]["top1"] for line in lines]
        assert 3 <= len(values) < 9
        assert has_stalled(values, 2)
        assert not has_stalled(values[:-1], 2)
        # What the last epoch of Step 1 measures is measured here, too.
        assert lines[-1]["test"] is not None
        assert lines[-1]["train_accuracy"] is not None
        assert lines[-2]["train_accuracy"] is None
    assert ", V " in (tmp_path / "run" / "logs" / "rank-000.log").read_text()


def test_without_v_there_is_nothing_to_wait_for(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", pretrain={"patience_epochs": 2})
    kind, text = complaint(config)
    assert kind == "UserError"
    assert text.startswith("pretrain.patience_epochs: 2: there is no V that could stop rising")
    assert not (tmp_path / "run").exists()
