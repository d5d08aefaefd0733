"""Folders with a model to start from, in timm's `local-dir` format; read without torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from cotrain_dist.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class StartFolder:
    """What the config.json of such a folder says of its model."""

    architecture: str
    image_size: int | None
    """Side in pixels of the images that it was trained with; None where it does not say."""


def read_start_folder(folder: Path, key: str) -> StartFolder:
    """Read a folder's config.json. Raises UserError under `key` where it holds no model."""
    way_out = f"name a folder with {CONFIG} and {WEIGHTS}, such as RUN/models/best"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(key, folder, f"has no {name}", way_out)
    try:
        content = json.loads((folder / CONFIG).read_text())
        architecture = content["architecture"]
        size = content.get("pretrained_cfg", {}).get("input_size")
        image_size = None if size is None else int(size[-1])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = " ".join(f"{type(error).__name__} {error}".split())
        raise UserError(key, folder / CONFIG, f"tells of no model ({why})", way_out) from error
    if not isinstance(architecture, str):
        raise UserError(key, folder / CONFIG, "names no architecture of timm", way_out)
    return StartFolder(architecture, image_size)
