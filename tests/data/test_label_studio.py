"""Label Studio: tasks for its import, and the labels of its export."""

import json
from pathlib import Path
from typing import Any

import pytest

from cotrain_dist.config import DataConfig
from cotrain_dist.data.label_studio import Vote, build_task, read_export
from cotrain_dist.errors import UserError

DATA = DataConfig(source="digits")


def annotation(label: str, updated_at: str = "", **further: Any) -> dict[str, Any]:
    result = [{"type": "choices", "value": {"choices": [label]}}]
    return {"result": result, "updated_at": updated_at, **further}


def labels_of(tmp_path: Path, tasks: object) -> list[tuple[str, str]]:
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    rows = read_export(tmp_path / "export.json", DATA, "KEY")
    return [(row["path"], row["label"]) for row in rows]


def test_a_task_names_file_and_votes(tmp_path: Path) -> None:
    task = build_task("a b/1.png", tmp_path / "images", ["2.png"], [Vote("A", "cat", 0.93)])
    assert task["data"] == {
        "image": "/data/local-files/?d=images/a%20b/1.png",
        "path": "a b/1.png",
        "same": ["2.png"],
    }
    assert task["predictions"] == [
        {
            "model_version": "A",
            "result": [
                {
                    "from_name": "label",
                    "to_name": "image",
                    "type": "choices",
                    "value": {"choices": ["cat"]},
                }
            ],
            "score": 0.93,
        }
    ]
    assert build_task("1.png", None, [], []) == {
        "data": {"image": "1.png", "path": "1.png", "same": []}
    }


def test_the_newest_answer_counts_for_all_that_a_task_stands_for(tmp_path: Path) -> None:
    old, new = "2026-03-09T21:52:49.5Z", "2026-03-10T21:52:49.5Z"
    skipped = annotation("cow", "2027", was_cancelled=True)
    first = build_task("1.png", tmp_path, ["2.png"], [])
    first["annotations"] = [annotation("dog", new), annotation("cat", old), skipped]
    address = {"image": "/data/local-files/?d=x/3%20.png"}
    tasks = [first, {"data": address, "annotations": [annotation("=cat")]}]
    tasks.append({"data": {"image": "4.png"}, "annotations": [skipped]})
    taken_back = {**annotation("dog", new), "result": []}
    tasks.append({"data": {"image": "5.png"}, "annotations": [annotation("cat", old), taken_back]})
    found = labels_of(tmp_path, tasks)
    assert found[:2] == [("1.png", "dog"), ("2.png", "dog")]
    assert found[2:] == [("x/3 .png", "'=cat"), ("4.png", ""), ("5.png", "")]


@pytest.mark.parametrize(
    "tasks",
    [
        {},
        [[]],
        [{"image": "1.png", "label": "cat"}],
        [{"data": {"image": 3}, "annotations": []}],
        [{"data": {"image": "1.png", "path": ["x"]}, "annotations": []}],
        [{"data": {"image": "/data/local-files/?x=1"}, "annotations": []}],
        [{"data": {"image": "1.png"}, "annotations": [{"result": [{"type": "labels"}]}]}],
        [{"data": {"image": "1.png"}, "annotations": [annotation(3)]}],  # type: ignore[arg-type]
    ],
)
def test_other_files_are_refused(tmp_path: Path, tasks: object) -> None:
    with pytest.raises(UserError, match=r"KEY: .*task 1 is none with an image and choices; export"):
        labels_of(tmp_path, tasks)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("path,label\n")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_export(tmp_path / "x.json", DATA, "KEY")
