"""`labels`: all of U in each format and world, and a promise from an audit alone."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config, DataConfig
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.sources.files import folders_of
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.inference import labels
from cotrain_dist.method.audit import least_audit
from cotrain_dist.method.certainty import LEAST_IMAGES, fit_certainty
from cotrain_dist.method.splits import Split
from cotrain_dist.store.dataset_folder import DatasetWriter
from cotrain_dist.store.linked import LinkWriter, require_folder_names
from cotrain_dist.types import PoolLabel


@pytest.fixture(scope="module")
def heads_run(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of two heads. Copy it where something is drawn from it."""
    folder = tmp_path_factory.mktemp("labels")
    config = tiny_config(
        digits_folder,
        folder / "run",
        data={"feature_cache": str(folder / "cache"), "labeled_per_class": 3, "test_per_class": 2},
        model_a={"name": None, "pretrained": starts["a"], "train": "head"},
        model_b={"name": None, "pretrained": starts["b"], "train": "head"},
        cotrain={"num_epochs": 1},
    )
    run_ranks(train_run, 1, folder, config)
    return folder / "run"


@pytest.fixture
def run(heads_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(heads_run, tmp_path / "run")
    return tmp_path / "run"


def truth_of(run: Path) -> dict[str, str]:
    """The class of each image of U, by path."""
    rows = pq.read_table(run / "splits.parquet").to_pylist()
    return {row["path"]: row["class"] for row in rows if row["split"] == "U"}


def label(arguments: list[str]) -> int:
    """A body: the command."""
    return cli.main(["labels", *arguments])


def audit(run: Path, num: int, answer: Callable[[str, str], str] = lambda path, own: own) -> Path:
    """A draw of so many images, answered by their true classes, or by what `answer` says."""
    file, truth = run.parent / f"audit-{num}.csv", truth_of(run)
    assert cli.main(["queue", str(run), "--audit", str(num), "--output", str(file)]) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ["path", "label"])
        writer.writeheader()
        for row in rows:
            own = answer(row["path"], truth[row["path"]])
            writer.writerow({"path": row["path"], "label": own})
    return file


def test_every_format_has_all_of_u(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for ending in ("csv", "jsonl", "parquet"):
        file = tmp_path / f"all.{ending}"
        assert label([str(run), "--output", str(file)]) == 0
        assert "no promise is made of them" in capsys.readouterr().out
        match ending:
            case "csv":
                found[ending] = [
                    (row["path"], row["label"], row["agree"] == "True")
                    for row in csv.DictReader(file.open(newline=""))
                ]
            case "jsonl":
                rows = [json.loads(line) for line in file.read_text().splitlines()]
                found[ending] = [(row["path"], row["label"], row["agree"]) for row in rows]
            case "parquet":
                rows = pq.read_table(file).to_pylist()
                found[ending] = [(row["path"], row["label"], row["agree"]) for row in rows]
                assert all(
                    row["agree"] == (row["label_a"] == row["label_b"]) and row["confidence"] > 0
                    for row in rows
                )
    assert found["csv"] == found["jsonl"] == found["parquet"]
    truth = truth_of(run)
    assert [path for path, *_ in found["csv"]] == list(truth)
    assert sum(own == truth[path] for path, own, _ in found["csv"]) > 0.5 * len(truth)


def test_a_folder_of_links_is_one_that_others_read(
    run: Path, digits_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "linked"
    assert label([str(run), "--output", str(folder)]) == 0
    assert label([str(run), "--output", str(tmp_path / "all.csv")]) == 0
    expected = {row["path"]: row for row in csv.DictReader((tmp_path / "all.csv").open(newline=""))}
    from datasets import load_dataset
    from torchvision.datasets import ImageFolder

    seen = ImageFolder(str(folder))
    own = {Path(file).resolve(): seen.classes[class_id] for file, class_id in seen.samples}
    assert own == {(digits_folder / path).resolve(): row["label"] for path, row in expected.items()}
    rows = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=tmp_path / "c"
    )
    assert {row["path"]: row["label"] for row in rows} == {
        path: row["label"] for path, row in expected.items()
    }
    assert rows[0]["image"].size == (8, 8)
    assert not list(tmp_path.glob("*.tmp"))
    assert label([str(run), "--output", str(folder)]) == 2
    # And this package itself, where it is to follow links.
    data = DataConfig(source="imagefolder", root=str(folder), follow_links=True)
    listing = list_images(data)
    named = {path: listing.class_names[c] for path, c in zip(listing.paths, listing.class_ids)}  # noqa: B905
    assert named == {str(file.relative_to(folder)): file.parent.name for file in folder.glob("*/*")}
    assert len(named) == len(expected)


def test_a_folder_of_datasets_is_the_table_with_images(
    run: Path,
    digits_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from datasets import ClassLabel, Image, are_progress_bars_disabled, load_from_disk

    folder, table = tmp_path / "saved.v1", tmp_path / "all.parquet"
    words = [str(run), "--format", "datasets", "--output", str(folder)]
    assert label(words) == 0
    assert not are_progress_bars_disabled()
    assert label([str(run), "--output", str(table)]) == 0
    rows = load_from_disk(str(folder))
    names = list(load_split_table(run).class_names)
    assert rows.features["image"] == Image()
    for name in ("label", "label_a", "label_b"):
        assert rows.features[name] == ClassLabel(names=names)
    assert rows[0]["image"].size == (8, 8)
    found = []
    for row in rows.cast_column("image", Image(decode=False)):
        image = row.pop("image")
        assert image["path"] == str((digits_folder / row["path"]).absolute())
        assert image["bytes"] is None  # no copy
        found.append({k: names[v] if k.startswith("label") else v for k, v in row.items()})
    assert found == pq.read_table(table).to_pylist()
    # This package reads it as a source, too.
    listing = list_images(DataConfig(source="hub", name=str(folder)))
    classes = [listing.class_names[c] for c in listing.class_ids.tolist()]
    assert classes == [row["label"] for row in found]
    capsys.readouterr()
    assert label(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_of_datasets_without_files_or_without_rows(tmp_path: Path) -> None:
    from datasets import load_from_disk

    with DatasetWriter(tmp_path / "some", {"b": tmp_path / "b.png"}, ["cat", "x/y"]) as writer:
        writer.write([_row("a", "cat"), _row("b", "x/y")])
        assert not (tmp_path / "some").exists()
    rows = load_from_disk(str(tmp_path / "some"))
    assert rows.features["label"].int2str(rows["label"][:]) == ["cat", "x/y"]
    images = rows.with_format("arrow")["image"][:].to_pylist()
    assert images == [None, {"bytes": None, "path": str(tmp_path / "b.png")}]
    with DatasetWriter(tmp_path / "none", {}, ["cat"]) as writer:
        writer.write([])
    empty = load_from_disk(str(tmp_path / "none"))
    assert len(empty) == 0
    assert empty.column_names == [field.name for field in fields(PoolLabel)]
    with suppress(ValueError), DatasetWriter(tmp_path / "half", {}, ["cat"]) as writer:
        writer.write([_row("a", "cat"), _row("a", "dog")])
    assert not list(tmp_path.glob("half*"))


def test_an_end_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinkWriter, "finish", mock.Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"), LinkWriter(tmp_path / "out", {}):
        pass
    assert not list(tmp_path.glob("out*"))


def give_v(run: Path, num: int) -> None:
    """The first images of U become V; the models have learned the labels of neither."""
    table = load_split_table(run)
    splits = table.splits.clone()
    splits[table.sample_ids(Split.U)[:num]] = Split.V
    (run / "splits.parquet").write_bytes(replace(table, splits=splits).to_parquet())


def test_the_probability_of_being_right_comes_from_v_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, files = truth_of(run), [tmp_path / f"{name}.parquet" for name in ("all", "v", "kept")]
    assert label([str(run), "--output", str(files[0])]) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "probability_right is empty: the run has no V and no folds of L" in told
    rows = pq.read_table(files[0]).to_pylist()
    assert {row["probability_right"] for row in rows} == {None}
    assert pq.read_schema(files[0]).field("probability_right").type == pa.float64()

    give_v(run, 30)
    assert label([str(run), "--output", str(files[1])]) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "probability_right: an estimate from the 30 images of V" in told
    in_v = rows[:30]
    expected = fit_certainty(
        torch.tensor([row["confidence"] for row in in_v]),
        torch.tensor([row["label"] == truth[row["path"]] for row in in_v]),
    )
    assert expected is not None
    found = pq.read_table(files[1]).to_pylist()
    assert [row["path"] for row in found] == [row["path"] for row in rows[30:]]
    own = expected.of(torch.tensor([row["confidence"] for row in found])).tolist()
    assert [row["probability_right"] for row in found] == pytest.approx(own, abs=1e-5)

    # An audit changes nothing of it.
    answers = audit(run, 40)
    words = ["--audit", str(answers), "--min_precision", "0.6", "--output", str(files[2])]
    assert label([str(run), *words]) == 0
    kept = pq.read_table(files[2]).to_pylist()
    assert kept
    assert all(row in found for row in kept)


def test_a_v_of_few_images_makes_no_estimate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_v(run, LEAST_IMAGES - 1)
    file = tmp_path / "all.jsonl"
    assert label([str(run), "--output", str(file)]) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "probability_right is empty: V has 19 images, 20 are needed" in told
    found = [json.loads(line)["probability_right"] for line in file.read_text().splitlines()]
    assert set(found) == {None}


def _row(path: str, label: str) -> PoolLabel:
    row = PoolLabel(path, label, 0.5, label, 0.5, label, 0.5, agree=True, probability_right=None)
    return row


@pytest.mark.parametrize("name", ["", "..", ".git", "_x", "x/y", "a\0b", "metadata.csv", "甲" * 86])
def test_classes_that_can_be_no_folders(name: str) -> None:
    require_folder_names(["cat", "甲" * 85, "a b", "con."])
    with pytest.raises(UserError, match="can be no folder's name; --format datasets"):
        require_folder_names(["cat", name])


def test_links_of_one_name(tmp_path: Path) -> None:
    for name in ("a/b.png", "a__b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files = {name: tmp_path / name for name in ("a/b.png", "a__b.png")}
    writer = LinkWriter(tmp_path / "out", files)
    writer.write([_row("a/b.png", "cat"), _row("a__b.png", "cat")])
    with pytest.raises(UserError, match=r"out.tmp: exists already"):
        LinkWriter(tmp_path / "out", files)
    with suppress(KeyError), LinkWriter(tmp_path / "none", files) as half:
        half.write([_row("a/b.png", "cat"), _row("lost.png", "cat")])
    assert not list(tmp_path.glob("none*"))
    assert not (tmp_path / "out").exists()
    writer.close()
    links = sorted((tmp_path / "out" / "cat").iterdir())
    assert [link.name for link in links] == ["1__a__b.png", "a__b.png"]
    assert {link.read_text() for link in links} == set(files)


def test_paths_that_are_too_long_for_one_name(tmp_path: Path) -> None:
    """Each part may have 255 bytes, so the whole path as one name may not."""
    paths = [f"{'甲' * 80}/{letter}{'乙' * 70}.png" for letter in "ab"]
    with LinkWriter(tmp_path / "out", {path: tmp_path / path for path in paths}) as writer:
        writer.write([_row(path, "cat") for path in paths])
    names = [link.name for link in (tmp_path / "out" / "cat").iterdir()]
    assert len(names) == 2
    assert all(name.endswith("乙.png") for name in names)


def test_no_link_has_a_name_that_is_passed_over(tmp_path: Path) -> None:
    paths = ["_a.png", ".b.png", f"x/{'c' * 194}.png"]
    with LinkWriter(tmp_path / "out", {path: tmp_path / path for path in paths}) as writer:
        writer.write([_row(path, "cat") for path in paths])
    names = {link.name for link in (tmp_path / "out" / "cat").iterdir()}
    assert names == {"0_a.png", "0.b.png", f"0__{'c' * 194}.png"}


def test_other_images_are_labeled_without_a_promise(
    run: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same models: what a run says of its own images it says of them in another folder."""
    others = tmp_path / "others" / "deep"
    others.mkdir(parents=True)
    assert label([str(run), "--output", str(tmp_path / "all.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    expected = {}
    for number, row in enumerate(rows[:12]):
        name = f"{number}{Path(row['path']).suffix}"
        shutil.copy(digits_folder / row["path"], others / name)
        expected[f"deep/{name}"] = (row["label"], row["label_a"], row["label_b"])
    capsys.readouterr()
    words = [str(run), str(others.parent)]
    assert label([*words, "--output", str(tmp_path / "others.csv")]) == 0
    told = capsys.readouterr().out.replace("\n", "")
    assert "labels of 12 of the 12 images of " in told
    assert "an audit is of a run's own images" in told
    found = list(csv.DictReader((tmp_path / "others.csv").open(newline="")))
    named = {row["path"]: (row["label"], row["label_a"], row["label_b"]) for row in found}
    assert named == expected
    assert {row["probability_right"] for row in found} == {""}
    assert label([*words, "--output", str(tmp_path / "linked")]) == 0
    assert sum(link.is_symlink() for link in (tmp_path / "linked").rglob("*")) == 12

    (others / "cut.png").write_bytes(b"no image")
    assert label([*words, "--output", str(tmp_path / "k.csv")]) == 0
    assert "left out: deep/cut.png" in capsys.readouterr().out
    assert len((tmp_path / "k.csv").read_text().splitlines()) == 13
    assert label([*words, "--min_precision", "0.5", "--output", str(tmp_path / "not.csv")]) == 2
    assert "is promised of a run's own U alone" in capsys.readouterr().err
    assert label([str(run), str(tmp_path / "no"), "--output", str(tmp_path / "not.csv")]) == 2
    assert "FOLDER: " in capsys.readouterr().err
    assert not (tmp_path / "not.csv").exists()


def test_images_that_are_no_files_are_linked_nowhere(tmp_path: Path) -> None:
    config = Config(output_dir=str(tmp_path))
    listing = list_images(config.data)
    table = SplitTable(listing, torch.full((len(listing.paths),), Split.U))
    with pytest.raises(UserError, match="the images of digits are no files"):
        labels.files_of_pool(table, folders_of(config.data), to_link=True)
    assert labels.files_of_pool(table, folders_of(config.data), to_link=False) == {}


@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_world_keeps_the_same(num_ranks: int, run: Path, tmp_path: Path) -> None:
    answers = audit(run, 60)
    for name, ranks in (("one", 1), ("several", num_ranks)):
        words = [str(run), "--audit", str(answers), "--min_precision", "0.7"]
        words += ["--output", str(tmp_path / f"{name}.csv")]
        run_ranks(label, ranks, tmp_path, words)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "several.csv").read_bytes()


@pytest.mark.parametrize("promise", [("--min_precision", "0.7"), ("--max_error", "0.3")])
def test_what_is_promised_is_written_and_the_rest_is_left_for_a_person(
    promise: tuple[str, str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = audit(run, 60)
    kept, rest = tmp_path / "kept.csv", tmp_path / "rest.csv"
    words = ["--audit", str(answers), *promise, "--output", str(kept), "--rest", str(rest)]
    assert label([str(run), *words]) == 0
    told = capsys.readouterr().out
    assert "with 95% confidence" in told.replace("\n", " ")
    truth = truth_of(run)
    rows = {row["path"]: row for row in csv.DictReader(kept.open(newline=""))}
    left = [row["path"] for row in csv.DictReader(rest.open(newline=""))]
    assert sorted([*rows, *left]) == sorted(truth)
    assert rows
    num_wrong = sum(row["label"] != truth[path] for path, row in rows.items())
    # This draw keeps its promise, as 19 of 20 do.
    assert num_wrong <= 0.3 * (len(rows) if promise[0] == "--min_precision" else len(truth))
    least = min(float(row["confidence"]) for row in rows.values())
    assert label([str(run), "--output", str(tmp_path / "all.csv")]) == 0
    for row in csv.DictReader((tmp_path / "all.csv").open(newline="")):
        assert (row["path"] in rows) == (float(row["confidence"]) >= least)


def test_draws_go_on_where_the_last_one_ended_and_hold_each_image_once(run: Path) -> None:
    first, second = audit(run, 20), audit(run, 25)
    paths = [
        row["path"] for file in (first, second) for row in csv.DictReader(file.open(newline=""))
    ]
    assert len(set(paths)) == 45
    assert set(paths) <= set(truth_of(run))
    assert json.loads((run / "audit.json").read_text()) == {"num_drawn": 45}


def test_a_draw_that_is_answered_in_part_counts_up_to_the_first_gap(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who leaves out what is hard to tell would else be promised too much."""
    least = least_audit(0.7, 0.05)
    seen: list[str] = []

    def all_but_the_third(path: str, own: str) -> str:
        seen.append(path)
        return "" if len(seen) == 3 else own

    answers = audit(run, 40, all_but_the_third)
    words = ["--audit", str(answers), "--min_precision", "0.7", "--output", str(tmp_path / "x.csv")]
    assert label([str(run), *words]) == 2
    error = capsys.readouterr().err
    assert f"2 of the 40 images drawn are answered in their order, and {least} are needed" in error
    assert not (tmp_path / "x.csv").exists()


def test_where_nobody_can_tell_counts_as_wrong(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = audit(run, 40, lambda path, own: "?")
    words = ["--audit", str(answers), "--min_precision", "0.7", "--output", str(tmp_path / "x.csv")]
    assert label([str(run), *words]) == 2
    least = least_audit(0.7, 0.05)
    error = capsys.readouterr().err
    assert f"of the {least} surest of 40 audited images {least} are labeled wrongly" in error
    assert "nothing is written; audit" in error
    assert not (tmp_path / "x.csv").exists()


OUT = ["--output", "x.csv"]


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--min_precision", "0.9", *OUT], "--min_precision: 0.9: is promised from images that a"),
        (["--max_error", "0.1", *OUT], "--max_error: 0.1: is promised from images that a person"),
        (["--audit", "a.csv", *OUT], "--audit: a.csv: belongs to a promise"),
        (["--rest", "r.csv", *OUT], "--rest: r.csv: belongs to a promise"),
        (["--min_precision", "1.5", "--audit", "a.csv", *OUT], "1.5: must lie between 0 and 1"),
        (["--max_error", "0", "--audit", "a.csv", *OUT], "--max_error: 0.0: must lie between"),
        (
            ["--max_error", "0.1", "--min_precision", "0.9", "--audit", "a.csv", *OUT],
            "--min_precision: 0.9: is another promise than --max_error",
        ),
        (
            ["--min_precision", "0.9", "--audit", "a.csv", "--delta", "2", *OUT],
            "--delta: 2.0: must lie between 0 and 1",
        ),
        (
            ["--min_precision", "0.9", "--audit", "a.csv", *OUT],
            "no image of this run's U was drawn",
        ),
        (["--output", "x.txt"], "must end in .csv or .jsonl or .parquet"),
        (["--format", "webdataset", "--output", "x"], "--format: webdataset: is no format of a"),
        (["--format", "datasets", *OUT], "--format: datasets: is a folder, and x.csv would be a"),
    ],
)
def test_mistakes(
    words: list[str],
    fragment: str,
    heads_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert label([str(heads_run), *words]) == 2
    error = capsys.readouterr().err
    assert fragment in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda text: text.replace("digit_", "number_"), "this run has no such class"),
        (lambda text: f"{text}{text.splitlines()[1].split(',')[0]},?\n", "has two answers"),
        (lambda text: "", "(no rows)"),
    ],
)
def test_answers_that_cannot_be_read(
    change: Callable[[str], str],
    fragment: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = audit(run, 30)
    lines = change(answers.read_text())
    answers.write_text(lines)
    words = ["--audit", str(answers), "--min_precision", "0.7", "--output", str(tmp_path / "x.csv")]
    assert label([str(run), *words]) == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["RUN", "--audit", "0"], "--audit: 0: must be at least 1"),
        (["--audit", "5"], "--audit: 5: images are audited for the labels of a run"),
        (["RUN", "--audit", "5", "--strategy", "margin"], "--strategy: margin: an audit is drawn"),
        (["RUN", "--audit", "100000"], "were not drawn yet"),
    ],
)
def test_mistakes_of_a_draw(
    words: list[str],
    fragment: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(run) if word == "RUN" else word for word in words]
    assert cli.main(["queue", *words, "--output", str(tmp_path / "x.csv")]) == 2
    assert fragment in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
    assert not (run / "audit.json").exists()


def test_a_launcher_draws_no_audit(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["queue", str(run), "--audit", "5", "--output", str(tmp_path / "x.csv")]
    assert cli.main(words) == 2
    assert "--audit: 5: an audit is drawn by one process" in capsys.readouterr().err


def test_a_run_without_u_has_nothing_to_label() -> None:
    with pytest.raises(UserError, match="U: holds no image; predict RUN FOLDER"):
        labels.require_pool(torch.empty(0, dtype=torch.int64))


def test_two_images_of_one_path_are_told_apart_by_nobody(run: Path) -> None:
    table = load_split_table(run)
    labels.require_own_names(table)
    first, second = table.sample_ids(Split.U)[:2].tolist()
    paths = list(table.listing.paths)
    paths[second] = paths[first]
    with pytest.raises(UserError, match="is the path of 2 images of U"):
        labels.require_own_names(replace(table, listing=replace(table.listing, paths=paths)))
