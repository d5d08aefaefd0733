"""The history's numbers, and pictures, to a tracker, through Accelerate.

From the lead rank, for both roles.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from cotrain_dist.config.text import flatten
from cotrain_dist.errors import UserError


def check_tracker(tracking: str) -> None:
    """Raise UserError where the tracker's package is missing."""
    if tracking != "none" and find_spec(tracking) is None:
        raise UserError(
            "tracking", tracking, "its package is not installed", f"pip install {tracking}"
        )


@contextmanager
def tracking(accelerator: Accelerator, settings: Mapping[str, Any]) -> Iterator[None]:
    """Track a run with its flat settings inside the block. No collective: the lead rank tracks."""
    if accelerator.log_with:
        plain = (bool, int, float, str)
        accelerator.init_trackers(
            "cotrain_dist",
            config={k: v if isinstance(v, plain) else str(v) for k, v in settings.items()},
        )
    try:
        yield
    finally:
        # Write out what is left. `end_training` would also end the process group, of other use.
        for tracker in accelerator.trackers:
            tracker.finish()


def track_record(accelerator: Accelerator, record: Mapping[str, Any]) -> None:
    """Send a history line's numbers, as `phase/key`, at the step of its epoch."""
    if not accelerator.log_with:
        return
    prefix = str(record["phase"])
    if "role" in record:
        prefix += f"/{record['role']}"
    numbers = {
        f"{prefix}/{key.replace('.', '/')}": value
        for key, value in flatten(dict(record)).items()
        # Histograms, and figures that were not measured, are no points of a curve.
        if isinstance(value, int | float) and key != "epoch"
    }
    accelerator.log(numbers, step=int(record["epoch"]))


def takes_images(accelerator: Accelerator) -> bool:
    """Whether a tracker that has begun shows images; it has on the lead rank alone."""
    return any(hasattr(tracker, "log_images") for tracker in accelerator.trackers)


def track_images(accelerator: Accelerator, tag: str, images: NDArray[np.uint8], step: int) -> None:
    """Send images, [n, h, w, 3], to the trackers that show some."""
    for tracker in accelerator.trackers:
        if not hasattr(tracker, "log_images"):
            continue
        # Accelerate hands them on as they are: TensorBoard takes an array, channels first, others
        # a list.
        as_array = tracker.name == "tensorboard"
        tracker.log_images({tag: images.transpose(0, 3, 1, 2) if as_array else list(images)}, step)
