"""The Python API: what it refuses, what a run gives back, and what importing costs."""

import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FinishedRun, two_models_config
from PIL import Image
from ranks import run_ranks

import cotrain_dist
from cotrain_dist import Config, DataConfig, PretrainConfig, UserError, load_run
from cotrain_dist.method.splits import Split
from cotrain_dist.reporting.notebook import html_of_run

REPOSITORY = Path(__file__).parents[1]


def cotrain_again(config: Config) -> str:
    """A body: the error that training ends with."""
    from cotrain_dist import cotrain

    try:
        cotrain(config, quiet=True)
    except UserError as error:
        return str(error)
    return ""


def test_a_missing_run(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, str(tmp_path)):
        with pytest.raises(UserError, match=rf"RUN: {path}: is no run directory"):
            load_run(path)


def test_a_run_knows_its_settings_history_and_groups(finished_run: FinishedRun) -> None:
    run = load_run(finished_run.path)
    assert run.path == finished_run.path
    assert run.config == finished_run.config
    assert run.pretrain_history == finished_run.pretrain
    assert run.cotrain_history == finished_run.cotrain
    assert len(run.splits.sample_ids(Split.T)) == 24


def test_a_notebook_shows_what_was_measured(finished_run: FinishedRun) -> None:
    run = load_run(finished_run.path)
    assert repr(run) == f"Run('{finished_run.path}')"
    shown = run._repr_html_()
    best = json.loads((run.path / "models" / "best" / "config.json").read_text())["cotrain_dist"]
    last = run.cotrain_history[-1]
    cells = re.findall(r"<td>([^<]*)</td>", shown)
    rows = {title: [on_t, on_v] for title, on_t, on_v in zip(*[iter(cells)] * 3, strict=True)}
    titles = {"A": "a", "B": "b", "A and B together": "ensemble"}
    best_title = f"models/best: {best['role'].upper()} of epoch {best['epoch']}"
    assert list(rows) == [*titles, best_title]
    for title, name in titles.items():
        assert rows[title][0].startswith(f"{100 * last.on_test[name].top1:.1f} (")
        assert rows[title][1].startswith(f"{100 * last.judged[name].top1:.1f} (")
    assert rows[best_title][1].startswith(f"{100 * best['top1']:.1f} (")
    assert "top-1 on T, 24 images, %" in shown


def test_a_notebook_takes_no_path_for_html(finished_run: FinishedRun, tmp_path: Path) -> None:
    link = tmp_path / "<script>alert(1)<"
    link.symlink_to(finished_run.path)
    shown = load_run(link)._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;" in shown
    assert "<script" not in shown


def test_a_notebook_says_what_was_not_measured(finished_run: FinishedRun) -> None:
    run = load_run(finished_run.path)
    of = partial(html_of_run, Path("runs/1"), table=run.splits)
    assert of([], best=None) == "<p>Run <code>runs/1</code>: no epoch of Step 2 yet.</p>"
    blind = [replace(run.cotrain_history[-1], test=None, validation=None)]
    assert "epoch 2 of Step 2; there is no T and no V" in of(blind, best=None)
    without_v = [replace(run.cotrain_history[-1], validation=None)]
    assert "on V" not in of(without_v, best=None)
    assert "models/best" not in of(without_v, best=None)


def test_a_moved_run_is_where_it_lies(finished_run: FinishedRun, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(finished_run.path)
    assert load_run(str(link)).config.output_dir == str(link)


@pytest.mark.parametrize("name", ["a", "b", "best"])
def test_models_have_the_accuracy_that_was_measured(finished_run: FinishedRun, name: Any) -> None:
    import timm

    run = load_run(finished_run.path)
    model = run.load_model(name)
    assert not model.training
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    ids = run.splits.sample_ids(Split.V)
    folder = Path(str(run.config.data.table)).parent
    images = [Image.open(folder / run.splits.listing.paths[i]).convert("RGB") for i in ids.tolist()]
    with torch.no_grad():
        labels = model(torch.stack([transform(image) for image in images])).argmax(dim=1)
    top1 = (labels == run.splits.class_ids[ids]).double().mean().item()
    measured = [record.validation for record in run.cotrain_history]
    if name == "best":
        expected = max(figures[role].top1 for figures in measured for role in ("a", "b"))
    else:
        expected = measured[-1][name].top1
    assert top1 == pytest.approx(expected)
    assert top1 > 0.3, "four classes: it has learned something"


def test_a_model_that_was_not_saved(finished_run: FinishedRun) -> None:
    run = load_run(finished_run.path)
    with pytest.raises(UserError, match=r"models: .*/models/c: holds no saved model; name a fold"):
        run.load_model("c")  # type: ignore[arg-type]


def test_a_directory_is_used_once(finished_run: FinishedRun, tmp_path: Path) -> None:
    def times() -> dict[Path, int]:
        # Without the log: the process that wrote it is the one that is refused.
        files = [f for f in finished_run.path.rglob("*") if f.is_file() and f.suffix != ".log"]
        return {file: file.stat().st_mtime_ns for file in files}

    before = times()
    (error,) = run_ranks(cotrain_again, 1, tmp_path, finished_run.config)
    assert error.startswith(f"output_dir: {finished_run.path}: exists already and is never written")
    assert times() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"data": DataConfig(source="nonsense")},  # type: ignore[arg-type]
        {"exchange": "peers"},
        {"precision": "float16"},
    ],
    ids=["source", "exchange", "precision"],
)
def test_a_word_that_is_no_choice_is_refused_before_training(
    digits_table: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The command line refuses it; a Config built in Python must not train and then fail."""
    short = {"tracking": "none", "pretrain": PretrainConfig(num_epochs=1, warmup_epochs=0)}
    config = two_models_config(digits_table, tmp_path / "run", **short, **changes)
    (error,) = run_ranks(cotrain_again, 1, tmp_path, config)
    assert any(word in error for word in ("nonsense", "peers", "float16"))
    assert not (tmp_path / "run").exists()


def train_and_count_log_files(config: Config) -> int:
    """A body: how many files the package's logger still writes after a training in Python."""
    from cotrain_dist import cotrain

    cotrain(config, quiet=True)
    handlers = logging.getLogger("cotrain_dist").handlers
    return sum(isinstance(handler, logging.FileHandler) for handler in handlers)


def test_the_log_is_closed_after_a_training(digits_table: Path, tmp_path: Path) -> None:
    short = {"tracking": "none", "pretrain": PretrainConfig(num_epochs=1, warmup_epochs=0)}
    config = two_models_config(digits_table, tmp_path / "run", **short)
    assert run_ranks(train_and_count_log_files, 1, tmp_path, config) == [0]
    assert "cotrain" in (tmp_path / "run" / "logs" / "rank-000.log").read_text()


def test_every_public_name_is_there() -> None:
    assert len(cotrain_dist.__all__) > 10
    assert dir(cotrain_dist) == sorted(cotrain_dist.__all__)
    for name in set(cotrain_dist.__all__) - {"__version__"}:
        assert getattr(cotrain_dist, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute nonsense"):
        _ = cotrain_dist.nonsense


def test_importing_the_package_imports_no_torch() -> None:
    script = (
        "import sys, cotrain_dist; from cotrain_dist import Config, UserError; Config();"
        "print(sorted({'torch', 'timm', 'datasets', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_cotrain_takes_a_config_or_a_run() -> None:
    for arguments in ({}, {"config": Config(), "resume": "runs/one"}):
        with pytest.raises(
            UserError, match="config and resume: one of the two is needed; give a Con"
        ):
            cotrain_dist.cotrain(**arguments)
