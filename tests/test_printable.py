"""Names of files and classes that mean something to a terminal or a spreadsheet do nothing."""

import csv
import io
import logging
import shutil
from pathlib import Path

import pytest
from rich.table import Table

from cotrain_dist.config import DataConfig
from cotrain_dist.data.extra_labels import add_labels
from cotrain_dist.data.sources.files import list_class_folders, list_table
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.inference.queue import Asked, write_queue
from cotrain_dist.method.splits import Split
from cotrain_dist.printable import from_cell, printable, to_cell
from cotrain_dist.reporting.grid import Grid
from cotrain_dist.runtime.progress import Reporter, build_console
from cotrain_dist.store.predictions import open_writer
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.types import Prediction

HOSTILE = ["\x1b[2Jgone", "a\rb", "bell\x07", "\x9b31m", "two\nlines", "\u202egnp.exe", "x\x7f"]
FORMULAS = ["=cmd|'/c calc'!A1", "+1+cmd", "-2+3", "@SUM(1)", "\tx", "\rx", "'=1", "''@x"]
HARMLESS = ["-0.5", "+1e-3", "-7", "a-b", "cat", "'quoted'", "", "Käfer", "甲虫"]


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_acts_on_a_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(title=f"of {name}")
    table.add_column(f"column {name}")
    table.add_row(name)
    reporter = Reporter(show=True)
    reporter.say(f"say {name}")
    reporter.warn(f"warn {name}")
    reporter.print(table)
    build_console().print(Grid(name, ["a"], [[name]]).to_rich())
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n")), shown
    assert f"say {printable(name)}\n" in shown
    assert all(line.isprintable() for line in Grid("t", [name], [[name]]).to_markdown().split("\n"))
    assert str(UserError("data.root", name, f"is {name}", "rename it")).isprintable()


def test_brackets_and_colons_in_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="[bold]t[/bold]")
    table.add_column(":smile:")
    table.add_row("[red]cat")
    build_console().print(table)
    shown = capsys.readouterr().out
    assert "[red]cat" in shown
    assert ":smile:" in shown
    assert "[bold]t[/bold]" in shown


def test_a_line_of_the_log_is_one_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.start_log(0)
    logging.getLogger("cotrain_dist").info("class %s", HOSTILE[0] + "\n2026 ERROR forged")
    run.close()
    text = (tmp_path / "logs" / "rank-000.log").read_text()
    assert text.count("\n") == 1
    assert "\x1b" not in text


@pytest.mark.parametrize("text", [*FORMULAS, *HARMLESS])
def test_a_cell_is_no_formula_and_comes_back(text: str) -> None:
    cell = to_cell(text)
    assert from_cell(cell) == text
    assert (cell == text) == (text in HARMLESS)
    assert not cell.startswith(("=", "@", "\t", "\r"))


def test_predictions_are_no_formulas(tmp_path: Path) -> None:
    label = FORMULAS[0]
    prediction = Prediction("=a\r.png", label, 0.25, "-1", 0.5, label, 0.75)
    writer = open_writer(tmp_path / "x.csv", [".csv"])
    writer.write([prediction])
    writer.close()
    (row,) = csv.DictReader(io.StringIO((tmp_path / "x.csv").open(newline="").read(), newline=""))
    assert row["path"] == "'=a\r.png"
    assert (row["label"], row["label_b"], row["confidence_a"]) == (f"'{label}", "-1", "0.25")


def _split_table(images: Path) -> SplitTable:
    listing = list_class_folders(images, "data.root")
    import torch

    splits = torch.full((len(listing.paths),), int(Split.U), dtype=torch.int64)
    return SplitTable(listing, splits)


@pytest.fixture
def images(digits_folder: Path, tmp_path: Path) -> Path:
    """Two classes and files whose names are formulas, or look like quoted ones."""
    source = sorted((digits_folder / "digit_0").iterdir())
    for folder in ("=one", "-two"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for index, name in enumerate(("=a.png", "'=a.png", "@b\r.png", "c.png")):
            shutil.copy(source[index], tmp_path / "images" / folder / name)
    return tmp_path / "images"


def test_what_queue_writes_is_found_again(images: Path, tmp_path: Path) -> None:
    """As a table of its own, and as further labels of a run."""
    begun = DataConfig(source="imagefolder", root=str(images))
    table = _split_table(images)
    paths = list(table.listing.paths)
    from cotrain_dist.config import Config

    write_queue(Asked(paths, len(paths)), Config(data=begun), tmp_path / "queue.csv")
    rows = list(csv.reader((tmp_path / "queue.csv").open(newline="")))[1:]
    assert not any(path.startswith("=") for path, _ in rows)
    with (tmp_path / "filled.csv").open("w", newline="") as file:
        labels = [to_cell(from_cell(path).split("/")[0]) for path, _ in rows]
        filled = [[path, label] for (path, _), label in zip(rows, labels, strict=True)]
        csv.writer(file).writerows([["path", "label"], *filled])
    listed = list_table(
        DataConfig(source="csv", table=str(tmp_path / "filled.csv"), root=str(images))
    )
    assert list(listed.paths) == paths
    assert listed.class_names == ("-two", "=one")
    config = DataConfig(
        source="imagefolder", root=str(images), extra_labels=str(tmp_path / "filled.csv")
    )
    added = add_labels(table, config)
    assert added.class_ids.tolist() == table.class_ids.tolist()
    assert set(added.splits.tolist()) == {int(Split.L_A), int(Split.L_B)}


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "a/../../x.png", ".."])
def test_a_path_in_splits_cannot_leave_its_folder(path: str, images: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    table = _split_table(images)
    listing = replace(table.listing, paths=(path, *table.listing.paths[1:]))
    content = SplitTable(listing, table.splits).to_parquet()
    (tmp_path / "splits.parquet").write_bytes(content)
    with pytest.raises(UserError, match="a path leads out of the folder of its images"):
        load_split_table(tmp_path / "splits.parquet")
