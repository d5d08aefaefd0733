"""The model card of models/best: what it is, what it learned from, how good it is, its limits."""

import json
from collections.abc import Sequence
from typing import Any

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.config.starts import CONFIG
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.metrics import Accuracy
from cotrain_dist.method.splits import Split
from cotrain_dist.method.statistics import wilson_interval
from cotrain_dist.printable import printable
from cotrain_dist.store import atomic
from cotrain_dist.store.records import CotrainRecord, Record
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.store.shared import wait_until_seen
from cotrain_dist.version import __version__

CARD = "README.md"

MANY_CLASSES = 30
"""Names of classes that are listed; of more the first ones."""


def write_card(
    history: Sequence[Record], table: SplitTable, config: Config, store: RunDirectory
) -> None:
    """Write the card beside the weights of models/best; on the lead rank, once they stand."""
    folder = store.models / "best"
    wait_until_seen(folder / CONFIG)
    notes = json.loads((folder / CONFIG).read_text())["cotrain_dist"]
    records = [record for record in history if isinstance(record, CotrainRecord)]
    with store.fenced():
        atomic.write_text(folder / CARD, model_card(notes, records, table, config))


def model_card(
    notes: dict[str, Any],
    records: Sequence[CotrainRecord],
    table: SplitTable,
    config: Config,
    *,
    address: str = "local-dir:FOLDER",
    license_id: str | None = None,
) -> str:
    """Markdown with the header that model hubs read.

    notes: what config.json says of the model's making. records: of Step 2, epoch 0 first. address:
    what timm loads it by. license_id: as the hub names licenses; without one the card has none.
    """
    role, names = str(notes["role"]), table.class_names
    backbone = resolve_role(config, role).name
    sizes = {split: len(table.sample_ids(split)) for split in Split}
    shown = ", ".join(printable(name) for name in names[:MANY_CLASSES])
    more = f" and {len(names) - MANY_CLASSES} more" if len(names) > MANY_CLASSES else ""
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        *([] if license_id is None else [f"license: {license_id}"]),
        "tags: [image-classification, timm, semi-supervised-learning, cotrain_dist]",
        "---",
        "",
        f"# {backbone}: {len(names)} classes",
        "",
        "```python",
        f'model = timm.create_model("{address}", pretrained=True)',
        "```",
        "",
        f"Classes: {shown}{more}. All are in `config.json` (`label_names`).",
        "",
        "## How it was made",
        "",
        f"cotrain_dist {__version__}: two models, A and B, label images without labels for each "
        f"other; this is {role.upper()} after epoch {notes['epoch']} of Step 2 (0: labels alone). "
        f"Recipe `{config.recipe}`, exchange `{config.exchange}`; all settings are in the run's "
        "config.yaml.",
        "",
        f"- Images with labels: {sizes[Split.L_A]:,} for A and {sizes[Split.L_B]:,} for B "
        f"(labels {config.pretrain.labels} in Step 1).",
        f"- Images without labels: {sizes[Split.U]:,}.",
        f"- Chosen on: {notes.get('chosen_on', 'nothing')}.",
        "",
        "## How good it is",
        "",
        *_figures(notes, records, sizes),
        "",
        "## Limits",
        "",
        "- It names one of its classes for every image, also for one that is none of them.",
        "- The figures are of images like those it was trained with; for others, measure anew.",
        "- Of the images without labels it has learned what two models said, mistakes included: "
        "classes with few labels suffer most. Mean recall counts each class the same.",
        "- A confidence is no chance of being right: `cotrain-dist labels` says what may be kept.",
    ]
    return "\n".join(lines) + "\n"


def _figures(
    notes: dict[str, Any], records: Sequence[CotrainRecord], sizes: dict[Split, int]
) -> list[str]:
    """A table of what was measured of this model, of labels alone and of both models together."""
    found = [record for record in records if record.epoch == notes["epoch"]]
    if not found or not records:
        return ["Not measured."]
    role, rows = str(notes["role"]), []
    for split, figures, before in (
        ("T", found[0].test, records[0].test),
        ("V", found[0].validation, records[0].validation),
    ):
        if figures is None or before is None:
            continue
        num = sizes[Split[split]]
        rows += [
            _row(f"{split}, {num:,} images: this model", figures[role], num),
            _row(f"{split}: the same role, of labels alone", before[role], num),
            _row(f"{split}: A and B together", figures["ensemble"], num),
        ]
    if not rows:
        return ["There was no T and no V: see `cross_validation` in the run's run.json."]
    note = [] if notes.get("chosen_on") != "T" else ["", "It was chosen on T: that flatters it."]
    header = ["| measured on | top-1, % (95 % interval) | mean recall, % |", "|---|---|---|"]
    return [*header, *rows, *note]


def _row(name: str, accuracy: Accuracy, num: int) -> str:
    low, high = wilson_interval(round(accuracy.top1 * num), num)
    top1 = f"{accuracy.top1:.1%} ({low:.1%} to {high:.1%})"
    return f"| {name} | {top1} | {accuracy.mean_class_recall:.1%} |".replace("%", "")
