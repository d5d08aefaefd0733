"""Temperatures: from folds of L for heads, from what it has not seen for a whole model."""

from pathlib import Path

import pytest
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.training import rounds
from cotrain_dist.training.temperature import fit_temperature_of


def _note_temperatures(config: Config) -> list[tuple[str, float]]:
    """A body: the whole training, and what each model was calibrated by in each round."""
    found = []

    def noted(student, images, ctx):  # type: ignore[no-untyped-def]
        found.append((student.role.value, fit_temperature_of(student, images, ctx)))
        return found[-1][1]

    before, rounds.fit_temperature_of = rounds.fit_temperature_of, noted
    try:
        train_run(config)
    finally:
        rounds.fit_temperature_of = before
    return found


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 4])
def test_whole_models_are_calibrated_on_the_peers_labels_in_the_first_round(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        selection={"temperature": "fitted", "threshold": 0.3},
        pretrain={"num_epochs": 2},
        cotrain={"num_epochs": 2},
    )
    found = [
        pair for rank in run_ranks(_note_temperatures, num_ranks, tmp_path, config) for pair in rank
    ]
    assert len(found) == max(2, num_ranks)
    by_role = {role: {value for own, value in found if own == role} for role, _ in found}
    assert set(by_role) == {"a", "b"}
    # Every rank of a role has the same one, and none is the 1 of no calibration.
    assert all(len(values) == 1 and values != {1.0} for values in by_role.values())
    assert len(history_of(tmp_path / "run")) > 2


def test_a_whole_model_on_all_labels_needs_a_validation_split(
    digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        selection={"temperature": "fitted"},
        pretrain={"labels": "shared", "num_epochs": 1},
    )
    ((kind, text),) = run_ranks(complaint, 1, tmp_path, config)
    assert kind == "UserError"
    assert "selection.temperature: fitted: model_a learns all labels, and there is no V" in text
