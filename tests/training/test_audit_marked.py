"""`data.audit_images`: marked images are learned like all of U, and their labels kept for `labels`.

What holds of the draw itself is in tests/method/test_audit.py.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ranks import history_of, run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.data.sources.listing import BadImage
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.inference.seen import Seen, look_at_pool
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import start_runtime
from cotrain_dist.training.setup import Drawing, split_table_of

NUM = 40


def config_of(root: Path, starts: dict[str, str], folder: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "data": {
            "feature_cache": str(folder / "cache"),
            "labeled_per_class": 3,
            "test_per_class": 2,
            "audit_images": NUM,
        },
        "model_a": {"name": None, "pretrained": starts["a"], "train": "head"},
        "model_b": {"name": None, "pretrained": starts["b"], "train": "head"},
        "cotrain": {"num_epochs": 1},
    }
    for name, values in changes.items():
        settings[name] = settings.get(name, {}) | values
    return tiny_config(root, folder / "run", **settings)


@pytest.fixture(scope="module")
def audited(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """The settings of a finished run of heads. Copy the run where something is written to it."""
    folder = tmp_path_factory.mktemp("audited")
    config = config_of(digits_folder, starts, folder)
    run_ranks(train_run, 1, folder, config)
    return config


def marked_in(table: SplitTable) -> set[str]:
    assert table.is_audit is not None
    assert (table.splits[table.is_audit] == Split.U).all()
    return {table.listing.paths[i] for i in table.is_audit.nonzero().flatten().tolist()}


def column(file: Path, name: str = "path") -> list[str]:
    with file.open(newline="") as opened:
        return [row[name] for row in csv.DictReader(opened)]


def truth_of(table: SplitTable) -> dict[str, str]:
    """The class of each image of U, by path."""
    names = table.class_names
    return {
        table.listing.paths[i]: names[int(table.class_ids[i])]
        for i in table.sample_ids(Split.U).tolist()
    }


def require_equal_bits(plain: Config, marked: Config) -> None:
    """All but settings and marks."""
    runs = [Path(config.output_dir) for config in (plain, marked)]
    for role in "ab":
        files = [run / "models" / role / "model.safetensors" for run in runs]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert history_of(runs[0]) == history_of(runs[1])
    before, after = map(load_split_table, runs)
    assert before.is_audit is None
    assert len(marked_in(after)) == NUM
    assert replace(after, is_audit=None).digest == before.digest


def without_marks(config: Config, folder: Path) -> Config:
    data = replace(config.data, audit_images=0)
    return replace(config, data=data, output_dir=str(folder / "plain"))


def test_marked_images_are_learned_like_all_of_u(audited: Config, tmp_path: Path) -> None:
    plain = without_marks(audited, tmp_path)
    run_ranks(train_run, 1, tmp_path, plain)
    require_equal_bits(plain, audited)


@pytest.mark.slow
def test_whole_models_learn_them_too(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    whole = {"name": "test_resnet", "pretrained": False, "train": "all"}
    marked = config_of(digits_folder, starts, tmp_path, model_a=whole)
    plain = without_marks(marked, tmp_path)
    for config in (plain, marked):
        run_ranks(train_run, 1, tmp_path, config)
    require_equal_bits(plain, marked)


def test_every_world_marks_the_same(
    audited: Config, digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    config = config_of(digits_folder, starts, tmp_path, cotrain={"num_epochs": 0})
    run_ranks(train_run, 2, tmp_path, config)
    found = [load_split_table(Path(own.output_dir)) for own in (config, audited)]
    assert found[0].digest == found[1].digest


@pytest.mark.parametrize("promise", [("--min_precision", "0.7"), ("--max_error", "0.3")])
def test_the_source_answers_for_the_marked_ones(
    promise: tuple[str, str],
    audited: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept, rest = tmp_path / "kept.csv", tmp_path / "rest.csv"
    files = ["--output", str(kept), "--rest", str(rest)]
    assert cli.main(["labels", audited.output_dir, *promise, *files]) == 0
    truth = truth_of(load_split_table(Path(audited.output_dir)))
    told = capsys.readouterr().out.replace("\n", " ")
    assert f"of the {len(truth)} images of U" in told
    assert "with 95% confidence" in told
    given = dict(zip(column(kept), column(kept, "label"), strict=True))
    assert sorted([*given, *column(rest)]) == sorted(truth)
    num_wrong = sum(truth[path] != label for path, label in given.items())
    # This draw keeps its promise, as 19 of 20 do.
    assert num_wrong <= 0.3 * (len(given) if promise[0] == "--min_precision" else len(truth))


def test_too_few_are_told_and_later_draws_go_on_in_u(
    audited: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", ["--output", str(tmp_path / "x.csv")]
    shutil.copytree(audited.output_dir, run)
    assert cli.main(["labels", str(run), "--min_precision", "0.95", *out]) == 2
    error = capsys.readouterr().err
    assert f"{NUM} of the {NUM} images drawn are answered in their order, and 59 are" in error
    assert "queue RUN --audit 19 lists those that are lacking" in error
    assert cli.main(["queue", str(run), "--audit", "19", *out]) == 0
    asked, table = column(tmp_path / "x.csv"), load_split_table(run)
    assert len(set(asked)) == 19
    assert set(asked) <= set(truth_of(table)) - marked_in(table)


def test_a_person_answers_where_the_source_knows_no_label(
    digits_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        **{"source": "csv", "table": str(digits_table), "audit_images": 20},
        **{"labeled_per_class": 8, "test_per_class": 6},
    }
    config = tiny_config(
        Path(), tmp_path / "run", data=data, pretrain={"num_epochs": 1}, cotrain={"num_epochs": 0}
    )
    config = replace(config, data=replace(config.data, root=None))
    run_ranks(train_run, 1, tmp_path, config)
    run, table = str(tmp_path / "run"), load_split_table(tmp_path / "run")
    truth_unknown = {
        table.listing.paths[i] for i in (table.class_ids < 0).nonzero().flatten().tolist()
    }
    is_open = marked_in(table) & truth_unknown
    assert 0 < len(is_open) < 20
    out = ["--output", str(tmp_path / "x.csv")]
    assert cli.main(["labels", run, "--min_precision", "0.86", "--delta", "0.4", *out]) == 2
    error = capsys.readouterr().err
    assert f"{len(is_open)} have no answer" in error
    assert f"queue RUN --audit {len(is_open)} lists those" in error
    answers = tmp_path / "answers.csv"
    asked = ["queue", run, "--audit", str(len(is_open)), "--output", str(answers)]
    assert cli.main(asked) == 0
    assert set(column(answers)) == is_open
    lines = [f"{path},{Path(path).name[0]}" for path in column(answers)]
    answers.write_text("\n".join(["path,label", *lines]) + "\n")
    words = ["labels", run, "--max_error", "0.9", "--delta", "0.4", "--audit", str(answers), *out]
    assert cli.main(words) == 0
    assert "of all images of U have a wrong label" in capsys.readouterr().out.replace("\n", " ")
    # What was answered for the audit is learned by no run that goes on.
    more = ["--recycle", run, "--extra-labels", str(answers), "--output_dir", str(tmp_path / "2")]
    assert cli.main(["train", *more]) == 2
    error = capsys.readouterr().err
    assert "is marked for the audit of the run's labels, so it is not learned" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "2").exists()


def test_after_more_labels_the_audit_is_a_draw_of_the_u_that_is_left(
    audited: Config, tmp_path: Path
) -> None:
    table = load_split_table(Path(audited.output_dir))
    before = marked_in(table)
    truth = {path: own for path, own in truth_of(table).items() if path not in before}
    given = list(truth.items())[:60]
    lines = "".join(f"{path},{own}\n" for path, own in given)
    (tmp_path / "more.csv").write_text("path,label\n" + lines)
    data = replace(audited.data, splits_from=audited.output_dir)
    assert marked_in(split_table_of(replace(audited, data=data))) == before
    data = replace(data, extra_labels=str(tmp_path / "more.csv"))
    after = marked_in(split_table_of(replace(audited, data=data)))
    assert len(after) == NUM
    assert not after & {path for path, _ in given}
    assert before - after
    nothing = split_table_of(replace(audited, data=replace(data, audit_images=0)))
    assert nothing.is_audit is None


def test_of_images_that_cannot_be_used_none_is_marked(audited: Config) -> None:
    data = replace(audited.data, splits_from=audited.output_dir, on_bad_image="skip")
    drawing = Drawing(replace(audited, data=data))
    table = drawing.first()
    assert table.is_audit is not None
    i = int(table.is_audit.nonzero()[0])
    name = table.class_names[int(table.class_ids[i])]
    bad = BadImage(table.listing.sources[i], table.listing.paths[i], name, "is cut short", i)
    left = drawing.without((bad,))
    assert len(marked_in(left)) == NUM
    assert bad.path not in marked_in(left)


def look(config: Config) -> Seen:
    """A body: many images of the gallery."""
    with start_runtime(config) as rt:
        return look_at_pool(config, 100, 8, rt)


def test_nobody_is_asked_for_a_label_of_a_marked_image(
    audited: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = load_split_table(Path(audited.output_dir))
    left = set(truth_of(table)) - marked_in(table)
    words = ["queue", audited.output_dir, "--group", "false", "--output", str(tmp_path / "q.csv")]
    assert cli.main([*words, "--size", str(len(left) + 1)]) == 2
    assert f"{len(left)} different image(s) have no label" in capsys.readouterr().err
    assert cli.main([*words, "--size", str(len(left))]) == 0
    assert set(column(tmp_path / "q.csv")) == left
    (seen,) = run_ranks(look, 1, tmp_path, audited)
    shown = {tile.path for tile in seen.tiles}
    assert len(shown) > NUM
    assert shown <= left


def test_it_is_fixed_once_the_run_exists(
    audited: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--resume", audited.output_dir, "--data.audit_images", "9"]
    assert cli.main([*words, "--allow-config-change"]) == 2
    assert "data.audit_images: 9: cannot change in an existing run" in capsys.readouterr().err
