"""history.jsonl: appended, read and cut back to what was committed."""

from pathlib import Path

import pytest

from cotrain_dist.store.history import History

RECORDS = [{"phase": "cotrain", "epoch": epoch, "test": {"a": 0.5}} for epoch in range(3)]


def history_of(tmp_path: Path, num_lines: int = 3) -> History:
    history = History(tmp_path / "history.jsonl")
    for record in RECORDS[:num_lines]:
        history.append(record)
    return history


def test_lines_are_read_in_the_order_written(tmp_path: Path) -> None:
    assert history_of(tmp_path).read() == RECORDS
    assert History(tmp_path / "history.jsonl").read() == RECORDS
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 3


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.cut_after(2)
    assert history.read() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_lines", [0, 1, 2, 3, 9])
def test_cut_keeps_the_first_lines(tmp_path: Path, num_lines: int) -> None:
    history = history_of(tmp_path)
    history.cut_after(num_lines)
    assert history.read() == RECORDS[:num_lines]
    history.append({"epoch": 9})
    assert history.read() == [*RECORDS[:num_lines], {"epoch": 9}]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_cut_removes_a_line_that_was_never_finished(tmp_path: Path) -> None:
    history = history_of(tmp_path, num_lines=2)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"phase": "cotr')
    history.cut_after(2)
    history.append(RECORDS[2])
    assert history.read() == RECORDS


def test_text_with_line_separators_stays_one_line(tmp_path: Path) -> None:
    record = {"class": "a\nb\u2028c\x1cd é"}
    history = History(tmp_path / "history.jsonl")
    history.append(record)
    history.append(record)
    assert history.read() == [record, record]
