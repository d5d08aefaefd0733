"""U's labels are hidden: they measure R; nothing that is trained or selected depends on them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config

MEASURED_WITH_TRUE_LABELS = (
    *("selected_accuracy_a", "selected_accuracy_b", "pool"),
    *("selected_right_histogram_a", "selected_right_histogram_b"),
)


def _config(root: Path, pretrained: Path, output_dir: Path, splits_from: Path | None) -> Config:
    model = {"name": "test_efficientnet"}
    return tiny_config(
        root,
        output_dir,
        data={"splits_from": splits_from and str(splits_from)},
        model_a=model | {"init_from": str(pretrained / "a")},
        model_b=model | {"init_from": str(pretrained / "b")},
        pretrain={"num_epochs": 1},
    )


def _with_shuffled_classes(groups: Path, of_split: str, to: Path) -> None:
    """The same table with the classes of one group's images dealt out anew among them."""
    table = pq.read_table(groups)
    classes = table.column("class").to_pylist()
    rows = [row for row, name in enumerate(table.column("split").to_pylist()) if name == of_split]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    dealt = [classes[rows[position]] for position in order]
    for row, name in zip(rows, dealt, strict=True):
        classes[row] = name
    index = table.schema.get_field_index("class")
    pq.write_table(table.set_column(index, "class", pa.array(classes)), to)


def _without(line: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in keys}


@pytest.fixture(scope="module")
def usual(digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("usual")
    config = _config(digits_folder, pretrained, tmp_path / "run", None)
    run_ranks(train_run, 1, tmp_path, config)
    return tmp_path / "run"


def _train_on_shuffled(
    of_split: str, usual: Path, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> Path:
    groups = tmp_path / "shuffled.parquet"
    _with_shuffled_classes(usual / "splits.parquet", of_split, groups)
    config = _config(digits_folder, pretrained, tmp_path / "run", groups)
    run_ranks(train_run, 1, tmp_path, config)
    return tmp_path / "run"


def _models(run: Path) -> list[bytes]:
    return [(run / "models" / role / "model.safetensors").read_bytes() for role in ("a", "b")]


def test_the_true_labels_of_u_are_measured_with_and_nothing_else(
    usual: Path, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = _train_on_shuffled("U", usual, digits_folder, pretrained, tmp_path)
    assert _models(run) == _models(usual)
    lines, expected = history_of(run), history_of(usual)
    keys = MEASURED_WITH_TRUE_LABELS
    assert [_without(line, keys) for line in lines] == [_without(line, keys) for line in expected]
    for name in ("a", "b"):
        assert any(line.get(f"num_selected_{name}") for line in lines)
        accuracies = [line.get(f"selected_accuracy_{name}") for line in lines]
        assert accuracies != [line.get(f"selected_accuracy_{name}") for line in expected]


@pytest.mark.slow
def test_the_labels_of_l_do_matter(
    usual: Path, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The test above would notice: dealing out other labels than U's changes their model alone."""
    run = _train_on_shuffled("L_A", usual, digits_folder, pretrained, tmp_path)
    assert _models(run)[0] != _models(usual)[0]
