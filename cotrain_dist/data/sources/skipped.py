"""What lies in the folders of images and is not read: it is counted, so that nobody misses it.

What has the ending of an image and is none is told of one by one (`data/bad_images.py`).
"""

import os
from collections import Counter
from pathlib import Path

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources.files import folders_of
from cotrain_dist.data.sources.folders import is_image, is_seen

NUM_SHOWN = 3
"""Endings of files that a line names."""


def describe_skipped(config: DataConfig) -> list[str]:
    """A line for each configured folder that holds more than its images; nothing where none does.

    Of a table only data.unlabeled and data.test are looked at: it names its images itself.
    """
    lines = []
    for source, folder in folders_of(config).items():
        if source != "csv":
            found = count_skipped(folder, has_classes=source != "unlabeled")
            if found:
                counts = ", ".join(f"{number} {what}" for what, number in found.items())
                lines.append(f"skipped in {folder}: {counts}")
    return lines


def count_skipped(root: Path, *, has_classes: bool) -> dict[str, int]:
    """How many entries of each kind are no images; has_classes: files beside the folders count."""
    counts: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for place, folders, files in os.walk(root):
        counts["hidden folders"] += sum(not is_seen(name) for name in folders)
        folders[:] = [name for name in folders if is_seen(name)]
        for name in files:
            if not is_seen(name):
                counts["hidden files"] += 1
            elif has_classes and Path(place) == root:
                counts["files beside the class folders"] += 1
            elif not is_image(name):
                endings[Path(name).suffix.lower() or "no ending"] += 1
    if endings:
        shown = sorted(endings, key=lambda ending: (-endings[ending], ending))[:NUM_SHOWN]
        more = ", ..." if len(endings) > NUM_SHOWN else ""
        counts[f"files without the ending of an image ({', '.join(shown)}{more})"] = endings.total()
    return {what: number for what, number in counts.items() if number}
