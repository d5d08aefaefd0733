"""The folders of a run's models: which there are, and whether one is whole."""

import json
from pathlib import Path
from typing import Any

from cotrain_dist.config.starts import CONFIG, WEIGHTS
from cotrain_dist.errors import UserError
from cotrain_dist.models import digests_of_saved


def saved_model(run: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a run's model (`best`, `a`, `b` ...), and its config.json.

    Raises UserError where the run has not saved it, and where it is damaged.
    """
    folder = run / "models" / name
    # A name and no path: what is shown and published is a model of this run.
    is_there = folder.name == name and (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()
    if not is_there:
        there = sorted(file.parent.name for file in (run / "models").glob(f"*/{WEIGHTS}"))
        way_out = f"give one of {', '.join(there)}" if there else "train to the end first"
        raise UserError("--model", name, f"{run} has not saved it", way_out)
    try:
        settings = json.loads((folder / CONFIG).read_text())
        digests = settings["cotrain_dist"].get("sha256")  # None in earlier versions
        is_whole = digests is None or digests == digests_of_saved(folder, settings)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        rule = f"{folder} is damaged: its SHA-256 is not the one that it was saved with"
        raise UserError("--model", name, rule, "restore it from a copy, or train anew")
    return folder, settings
