"""history.jsonl: typed records, appended, read and cut back to what was committed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from histories import accuracy, cotrain_record, fit, pretrain_record

from cotrain_dist.errors import UserError
from cotrain_dist.store.history import History
from cotrain_dist.store.records import CotrainRecord, PretrainRecord, record_from_json

TEST = {name: accuracy(0.5) for name in ("a", "b", "ensemble")}
RECORDS = [
    pretrain_record("b", 3, test=accuracy(0.25), train_accuracy=0.75),
    cotrain_record(0, TEST),
    cotrain_record(1, TEST, {"teacher": "a", "num_selected": 2}, validation=TEST, exchange="peer"),
]


def history_of(tmp_path: Path, num_lines: int = 3) -> History:
    history = History(tmp_path / "history.jsonl")
    for record in RECORDS[:num_lines]:
        history.append(record)
    return history


def test_records_are_read_in_the_order_written(tmp_path: Path) -> None:
    assert history_of(tmp_path).read() == RECORDS
    again = History(tmp_path / "history.jsonl")
    assert again.read() == RECORDS
    assert again.pretrain() == RECORDS[:1]
    assert again.cotrain() == RECORDS[1:]
    assert again.num_lines() == 3


def test_the_keys_of_a_line_by_hand() -> None:
    """They are documented, and other tools read them: a record may change, its line may not."""
    pretrain = RECORDS[0].to_json()
    assert list(pretrain) == [
        *("phase", "role", "epoch", "loss", "learning_rate", "num_steps", "num_samples"),
        *("num_skipped_steps", "train_accuracy", "test", "seconds"),
    ]
    assert (pretrain["phase"], pretrain["num_steps"], pretrain["test"]["top1"]) == (
        *("pretrain", fit().num_steps),
        0.25,
    )
    line = RECORDS[2].to_json()
    roles = [
        f"{key}_{role}"
        for role in "ab"
        for key in (
            *("teacher_of", "num_selected", "selected_accuracy"),
            *("selected_class_histogram", "selected_right_histogram"),
        )
    ]
    assert list(line) == [
        *("phase", "epoch", "exchange", "agreement_rate", "num_equal_codes"),
        *("never_selected_fraction", "pool", *roles, "fit_a", "fit_b", "test", "validation"),
        *("seconds", "seconds_by_rank", "peak_memory_bytes_by_rank"),
    ]
    assert (line["teacher_of_b"], line["num_selected_a"], line["fit_a"]["loss"]) == ("a", 2, 1.0)
    digests = {"a": "1f", "b": "2e", "exchange": "3d"}
    assert replace(RECORDS[2], digests=digests).to_json() == line | {"digests": digests}
    first = RECORDS[1].to_json()
    assert not {"fit_a", "validation", "own_accuracy_a"} & set(first)


def test_what_is_measured_where_there_is_a_v_or_none() -> None:
    with_v = pretrain_record("a", 1, validation=accuracy(0.5))
    without = cotrain_record(1, TEST, {"own_accuracy": 0.75})
    lines = [record.to_json() for record in (with_v, without)]
    assert lines[0]["validation"]["top1"] == 0.5
    assert lines[1]["own_accuracy_a"] == lines[1]["own_accuracy_b"] == 0.75
    assert [record_from_json(json.loads(json.dumps(line))) for line in lines] == [with_v, without]


@pytest.mark.parametrize("record", RECORDS, ids=["pretrain", "start", "epoch"])
def test_unknown_keys_are_kept(record: PretrainRecord | CotrainRecord) -> None:
    line = record.to_json() | {"of_a_later_version": {"a": [1, 2]}}
    again = record_from_json(json.loads(json.dumps(line)))
    assert again.further == {"of_a_later_version": {"a": [1, 2]}}
    assert again.to_json() == line


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.cut_after(0)
    assert history.read() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_lines", [0, 1, 2, 3])
def test_cut_keeps_the_first_lines(tmp_path: Path, num_lines: int) -> None:
    history = history_of(tmp_path)
    history.cut_after(num_lines)
    assert history.read() == RECORDS[:num_lines]
    history.append(RECORDS[0])
    assert history.read() == [*RECORDS[:num_lines], RECORDS[0]]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


@pytest.mark.parametrize("num_lines", [0, 1])
def test_a_history_shorter_than_what_was_committed_is_named(tmp_path: Path, num_lines: int) -> None:
    history = history_of(tmp_path, num_lines)
    message = (
        rf"history: .*history.jsonl: has {num_lines} whole line\(s\), .* made after 2; restore"
    )
    with pytest.raises(UserError, match=message):
        history.cut_after(2)
    assert history.read() == RECORDS[:num_lines]


def test_cut_removes_a_line_that_was_never_finished(tmp_path: Path) -> None:
    history = history_of(tmp_path, num_lines=2)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"phase": "cotr')
    history.cut_after(2)
    history.append(RECORDS[2])
    assert history.read() == RECORDS


@pytest.mark.parametrize("damage", ["a flipped bit", "no record", "another phase", "no text"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    history = history_of(tmp_path)
    file = tmp_path / "history.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = {
        "a flipped bit": lines[1].replace(b":", b";", 1),
        "no record": b'{"phase": "cotrain"}\n',
        "another phase": b'{"phase": "distill"}\n',
        "no text": b"\xff" + lines[1],
    }[damage]
    file.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=r"history: .*history.jsonl, line 2: is damaged \("):
        history.read()


def test_text_with_line_separators_stays_one_line(tmp_path: Path) -> None:
    record = cotrain_record(0, TEST, further={"class": "a\nb\u2028c\x1cd é"})
    history = History(tmp_path / "history.jsonl")
    history.append(record)
    history.append(record)
    assert history.read() == [record, record]
