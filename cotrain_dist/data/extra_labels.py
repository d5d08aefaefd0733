"""Labels that a person has given since the splits were drawn: images of U become labeled ones."""

import difflib
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from cotrain_dist.config import DataConfig
from cotrain_dist.data.label_studio import read_export
from cotrain_dist.data.same_as import fill_same
from cotrain_dist.data.sources.files import read_rows
from cotrain_dist.data.sources.listing import TEST, UNKNOWN
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split
from cotrain_dist.printable import from_cell

KEY = "data.extra_labels"


def add_labels(table: SplitTable, config: DataConfig) -> SplitTable:
    """The table with the labels of `data.extra_labels`, whose images leave U for L_A and L_B.

    They go to the two in turn, in the order of the file, to the smaller one first; T and V stay as
    they are, and no image is marked any more. Rows without a label, and labels that the table has
    already, change nothing. Raises UserError for a label that is no class, a path that is no image
    of U or a marked one, and for two labels of one image.
    """
    places = _places(table)
    given = _read_labels(config, places, table.class_names)
    class_ids, splits = table.class_ids.clone(), table.splits.clone()
    sizes = {split: len(table.sample_ids(split)) for split in (Split.L_A, Split.L_B)}
    for path, label in given.items():
        class_id = _class_of(path, label, table, config)
        sample_id = _sample_of(path, places, table, config)
        known = int(class_ids[sample_id])
        if known not in (UNKNOWN, class_id):
            raise UserError(
                KEY,
                f"{path}: {label}",
                f"this image is labeled {table.class_names[known]} already",
                f"correct one of the two, or remove the row from {config.extra_labels}",
            )
        if splits[sample_id] != Split.U:
            continue
        smaller = min(sizes, key=lambda split: (sizes[split], split))
        class_ids[sample_id], splits[sample_id] = class_id, smaller
        sizes[smaller] += 1
    return SplitTable(replace(table.listing, class_ids=class_ids), splits)


def _read_labels(
    config: DataConfig, places: Container[str], class_names: Sequence[str]
) -> dict[str, str]:
    """Labels by path, in the order of the file; rows without a label are left out."""
    file = Path(config.extra_labels or "")
    labels: dict[str, str] = {}
    is_export = file.suffix == ".json"
    rows = read_export(file, config, KEY) if is_export else read_rows(file, config, KEY)
    for row in fill_same(rows, config):
        path, label = row[config.path_column], row[config.label_column].strip()
        # As `queue` writes what would be a formula, unless a name begins so itself.
        path = path if path in places else from_cell(path)
        label = label if label in class_names else from_cell(label)
        if label and labels.setdefault(path, label) != label:
            raise UserError(
                KEY,
                path,
                f"{file} calls this image {labels[path]} and {label}",
                "keep one of the two rows",
            )
    if not labels:
        raise UserError(
            KEY,
            file,
            "holds no label yet",
            "answer some of its tasks"
            if is_export
            else f"fill in the column {config.label_column}",
        )
    return labels


def _places(table: SplitTable) -> dict[str, list[int]]:
    """The sample_ids of each path; a table and a folder may both have one of that name."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for sample_id, (source, path) in enumerate(
        zip(table.listing.sources, table.listing.paths, strict=True)
    ):
        if source != TEST and table.splits[sample_id] != Split.OUT:
            places[path].append(sample_id)
    return dict(places)


def _sample_of(
    path: str, places: dict[str, list[int]], table: SplitTable, config: DataConfig
) -> int:
    found = places.get(path, [])
    # An image with a label and one without, of one name in two folders: the second is asked about.
    asked = [i for i in found if table.splits[i] == Split.U] or found
    if not asked:
        near = difflib.get_close_matches(path, places, n=1)
        raise UserError(
            KEY,
            path,
            "is no image that this run knows, or a copy of one",
            f"did you mean {near[0]}" if near else f"remove the row from {config.extra_labels}",
        )
    sample_id = asked[0]
    if table.splits[sample_id] in (Split.T, Split.V):
        raise UserError(
            KEY,
            path,
            f"is in {Split(int(table.splits[sample_id])).name}, of which nothing is learned",
            f"remove the row from {config.extra_labels}",
        )
    if config.audit_images and table.is_audit is not None and table.is_audit[sample_id]:
        raise UserError(
            KEY,
            path,
            "is marked for the audit of the run's labels, so it is not learned",
            f"remove the row from {config.extra_labels}, or give --data.audit_images 0: then "
            "nothing is promised by it",
        )
    return sample_id


def _class_of(path: str, label: str, table: SplitTable, config: DataConfig) -> int:
    if label in table.class_names:
        return table.class_names.index(label)
    near = difflib.get_close_matches(label, table.class_names, n=1)
    suggestion = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        KEY,
        f"{path}: {label}",
        "this run has no such class",
        f"{suggestion}for a new class, put the rows of {config.extra_labels} into data.table and "
        "train a new run",
    )
