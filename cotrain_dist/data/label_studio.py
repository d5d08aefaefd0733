"""Label Studio's tasks: images to label as it imports them, and the labels of its JSON export.

Its formats: https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cotrain_dist.config import DataConfig
from cotrain_dist.errors import UserError
from cotrain_dist.printable import to_cell

LOCAL_FILES = "/data/local-files/"
"""Where Label Studio serves files of its own machine."""


@dataclass(frozen=True)
class Vote:
    """What one model says of an image."""

    model: str
    label: str
    confidence: float
    """0..1."""


def build_task(
    path: str, folder: Path | None, same: Sequence[str], votes: Sequence[Vote]
) -> dict[str, Any]:
    """A task; folder: that a file's path lies in, whose parent Label Studio serves files from."""
    image = path
    if folder is not None:
        image = f"{LOCAL_FILES}?d={quote(f'{folder.resolve().name}/{path}')}"
    task: dict[str, Any] = {"data": {"image": image, "path": path, "same": list(same)}}
    if votes:
        task["predictions"] = [_prediction(vote) for vote in votes]
    return task


def _prediction(vote: Vote) -> dict[str, Any]:
    choices = {"choices": [vote.label]}
    result = {"from_name": "label", "to_name": "image", "type": "choices", "value": choices}
    return {"model_version": vote.model, "result": [result], "score": round(vote.confidence, 6)}


def read_export(file: Path, config: DataConfig, key: str) -> list[dict[str, str]]:
    """Rows of a table, as `read_rows` gives them, of Label Studio's export "JSON".

    The newest annotation of a task counts; one that was skipped is none. A task's label is that of
    all images it stands for. Raises UserError under `key` where the file is no such export.
    """
    way_out = 'export the project as "JSON" (not "JSON-MIN")'
    try:
        tasks = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(key, file, f"cannot be read as JSON ({error})", way_out) from error
    rows = []
    for number, task in enumerate(tasks if isinstance(tasks, list) else [None], start=1):
        try:
            paths, label = _paths_of(task["data"]), _label_of(task["annotations"])
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            rule = f"task {number} is none with an image and choices"
            raise UserError(key, file, rule, way_out) from error
        cells = {config.label_column: to_cell(label)}
        rows += [{config.path_column: to_cell(path), **cells} for path in paths]
    return rows


def _paths_of(data: Mapping[str, Any]) -> list[str]:
    """Of the task's image, then of those it stands for; without `path`, as its address has it."""
    address = urlsplit(data["image"])
    is_local = address.path == LOCAL_FILES
    path = data.get("path") or (parse_qs(address.query)["d"][0] if is_local else data["image"])
    paths = [path, *data.get("same", [])]
    if not all(isinstance(own, str) for own in paths):
        raise TypeError
    return paths


def _label_of(annotations: Sequence[Mapping[str, Any]]) -> str:
    """The choice of the newest annotation that was not skipped; empty where there is none."""
    answered = [own for own in annotations if not own.get("was_cancelled")]
    if not answered:
        return ""
    # Times of one form, ISO 8601 in UTC: their letters sort as they do; of equal ones the last.
    newest = max(
        enumerate(answered), key=lambda pair: (str(pair[1].get("updated_at", "")), pair[0])
    )[1]
    if not newest["result"]:  # a choice that was taken back
        return ""
    choices = [own["value"]["choices"] for own in newest["result"] if own["type"] == "choices"]
    label: str = choices[0][0].strip()
    return label
