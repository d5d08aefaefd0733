"""With no image selected, an epoch of Step 2 is an epoch on labeled images alone, and says so."""

from pathlib import Path

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run


@pytest.mark.slow
def test_an_empty_r_trains_on_labels_alone_with_a_warning(
    digits_folder: Path, tmp_path: Path
) -> None:
    runs = {}
    for name, changes in (
        ("empty", {"selection": {"threshold": 0.999999}}),
        ("none", {"exchange": "none"}),
    ):
        runs[name] = tmp_path / name
        run_ranks(train_run, 2, tmp_path, tiny_config(digits_folder, runs[name], **changes))
    lines = [line for line in history_of(runs["empty"]) if line["phase"] == "cotrain"]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    for line in lines[1:]:
        assert line["exchange"] == "alternate"
        assert line["agreement_rate"] < 1.0
        assert line["never_selected_fraction"] == 1.0
        for role in ("a", "b"):
            assert line[f"num_selected_{role}"] == 0
            assert line[f"selected_accuracy_{role}"] is None
            assert line[f"selected_class_histogram_{role}"] == [0] * 10
            assert line[f"fit_{role}"]["num_samples"] == 40
    for role in ("a", "b"):
        models = [
            (run / "models" / role / "model.safetensors").read_bytes() for run in runs.values()
        ]
        assert models[0] == models[1]
    log = (runs["empty"] / "logs" / "rank-000.log").read_text()
    for role in ("A", "B"):
        assert log.count(f"WARNING R_{role} is empty") == 2
    assert "WARNING R_" not in (runs["none"] / "logs" / "rank-000.log").read_text()
