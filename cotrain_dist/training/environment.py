"""What a run was made with, and what a resume has changed of it."""

from typing import Any

from cotrain_dist.runtime.accelerator import Runtime, describe_environment
from cotrain_dist.runtime.determinism import describe_determinism, device_name
from cotrain_dist.store.run_directory import RunDirectory

DECIDES_BITS = {"torch": "torch", "device": "device", "source": "source of cotrain_dist"}
"""Entries of environment.json without which no run can be repeated bit for bit, as they are told.
"""


def environment_of(rt: Runtime) -> dict[str, Any]:
    """What environment.json holds: versions, machines, ranks, and the device of this rank."""
    return {
        **describe_environment(rt),
        "device": device_name(rt.device),
        **describe_determinism(),
    }


def environment_file(attempt: int) -> str:
    """The name of the file that holds it, in a run directory."""
    return "environment.json" if attempt == 1 else f"environment-{attempt}.json"


def what_changed(store: RunDirectory) -> str | None:
    """A line on what decides bits and is not what the run was made with; None where nothing is.

    A run of an earlier version may not have noted everything: that is no difference.
    """
    # With the first attempt: what a later one has changed, its commits carry on.
    if not (store.path / environment_file(1)).is_file():
        return None
    made_with = store.read_json(environment_file(1))
    here = store.read_json(environment_file(store.attempt))
    changed = [
        f"{word} {here[key]} (made with {made_with[key]})"
        for key, word in DECIDES_BITS.items()
        if key in made_with and made_with[key] != here[key]
    ]
    if not changed:
        return None
    return f"resumed with {', '.join(changed)}: right, but not bit-equal to an undisturbed run"
