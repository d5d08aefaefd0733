"""A table that is labeled answer by answer."""

from pathlib import Path

import pytest

from cotrain_dist.config import DataConfig
from cotrain_dist.data.answers import Answers, ChangedError
from cotrain_dist.data.same_as import fill_same
from cotrain_dist.errors import UserError

DATA = DataConfig(source="digits")


def test_an_answer_is_on_the_disk_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("note,path,label\nkeep,b.png,\n'=odd,a.png,cat\n")
    answers = Answers(file, DATA)
    assert answers.paths == ["b.png", "a.png"]
    answers.put(0, "=dog")
    assert file.read_text() == "note,path,label\nkeep,b.png,'=dog\n'=odd,a.png,cat\n"
    assert answers.labels == ["=dog", "cat"]
    answers.put(1, "")
    assert Answers(file, DATA).labels == ["=dog", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_names_with_line_ends_stay_names(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b'"path","label"\n"a\r.png",""\n')
    answers = Answers(file, DATA)
    answers.put(0, "x, y")
    assert Answers(file, DATA).paths == ["a\r.png"]
    assert Answers(file, DATA).labels == ["x, y"]


def test_what_another_program_has_written_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("path,label\na.png,\n")
    answers = Answers(file, DATA)
    file.write_text("path,label\na.png,by an editor\n")
    with pytest.raises(ChangedError):
        answers.put(0, "dog")
    assert file.read_text() == "path,label\na.png,by an editor\n"


def test_an_answer_that_cannot_be_saved_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("path,label\na.png,\n")
    answers = Answers(file, DATA)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cotrain_dist.store.atomic.write_bytes", refuse)
    with pytest.raises(OSError, match="No space left"):
        answers.put(0, "dog")
    assert answers.labels == [""]


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"FILE: .*none\.csv: cannot be read"):
        Answers(tmp_path / "none.csv", DATA)


def test_one_answer_serves_the_images_that_are_alike(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    head, own = "path,label,same_as\n", "c.png,cow,a.png\nd.png,,gone.png\n"
    file.write_text(f"{head}b.png,,a.png\na.png,,\n{own}")
    answers = Answers(file, DATA)
    assert answers.paths == ["a.png", "c.png", "d.png"]
    assert answers.num_same == [1, 0, 0]
    answers.put(0, "cow")
    assert file.read_text() == f"{head}b.png,cow,a.png\na.png,cow,\n{own}"
    answers.put(0, "")  # the own label of c.png is not taken back
    assert file.read_text() == f"{head}b.png,,a.png\na.png,,\n{own}"


def test_what_is_added_is_asked_about_whatever_it_waits_for(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("path,label,same_as\na.png,,\nb.png,,a.png\n")
    answers = Answers(file, DATA)
    answers.add(["b.png", "c.png"])
    assert answers.paths == ["a.png", "b.png", "c.png"]
    answers.put(1, "cat")
    assert file.read_text() == "path,label,same_as\na.png,,\nb.png,cat,a.png\nc.png,,\n"


def test_a_hand_filled_row_serves_them_too() -> None:
    names = ("path", "label", "same_as")
    lines = [("b", "", "a"), ("a", "cat", ""), ("c", "dog", "a"), ("d", "", "b"), ("e", "", "e")]
    rows = [dict(zip(names, line, strict=True)) for line in lines]
    assert [row["label"] for row in fill_same(rows, DATA)] == ["cat", "cat", "dog", "", ""]
    assert fill_same([{"path": "a", "label": ""}], DATA) == [{"path": "a", "label": ""}]
    odd = DataConfig(source="digits", label_column="same_as")
    assert fill_same(rows, odd) == rows
