"""What each arm costs and what it is worth: images, minutes, and the share of the gap it closes."""

from statistics import mean
from typing import Any

from cotrain_dist.reporting.grid import Grid
from cotrain_dist.store.records import ROLE_NAMES
from cotrain_dist.study.arms import ARMS, BY_NAME, CEILING, START, VOTE
from cotrain_dist.study.results import Kind, Outcome, Outcomes, common_seeds, gap
from cotrain_dist.study.tables import show_spread

KINDS: dict[Kind, str] = {"ensemble": "ensemble", "best": "models/best"}
"""What of an arm is held against the gap, and its title."""


def worth(outcomes: Outcomes, setting: str) -> Grid:
    """Every arm that has run: accuracy, images and minutes of both steps, gap closed."""
    return Grid(
        f"Cost and gap closed, from the ensemble of {VOTE} (0 %) to that of {CEILING} (100 %), "
        f"accuracy on T in %, {setting}",
        (
            *("arm", "seeds", *KINDS.values(), "images seen by A", "images seen by B", "minutes"),
            *(f"gap closed by {kind}, %" for kind in KINDS.values()),
        ),
        [_row(arm.name, outcomes) for arm in ARMS if outcomes.get(arm.name)],
    )


def gaps_as_dict(outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    """For results.json, 0..1: by arm `ensemble` and `best`, each with mean, low and high."""
    found: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        if outcomes.get(arm.name):
            found[arm.name] = {kind: _as_dict(outcomes, arm.name, kind) for kind in KINDS}
    return found


def _as_dict(outcomes: Outcomes, name: str, kind: Kind) -> dict[str, float | None] | None:
    found = gap(outcomes, name, kind)
    if found is None:
        return None
    share, interval = found
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {"mean": share, "low": low, "high": high}


def _row(name: str, outcomes: Outcomes) -> list[str]:
    found = list(outcomes[name].values())
    saved = [outcome.saved for outcome in found if outcome.saved is not None]
    return [
        name,
        str(len(found)),
        show_spread([outcome.last["ensemble"] for outcome in found]),
        show_spread(saved) if len(saved) == len(found) else "-",
        *(f"{images:.0f}" if images is not None else "?" for images in _images(name, outcomes)),
        _minutes(name, outcomes),
        *(_share(outcomes, name, kind) for kind in KINDS),
    ]


def _step_one_of(name: str, outcomes: Outcomes) -> list[Outcome]:
    """The parts that an arm's Step 1 was trained in: its own, or those of `start`."""
    own = START if BY_NAME[name].begins == "pretrained" else name
    return [outcomes[own][seed] for seed in common_seeds(outcomes, name, own)]


def _images(name: str, outcomes: Outcomes) -> list[float | None]:
    """Of A and B in both steps, mean over seeds."""
    before, found = _step_one_of(name, outcomes), list(outcomes[name].values())
    if not before:
        return [None] * len(ROLE_NAMES)
    return [
        mean(o.num_samples_before[role] for o in before) + mean(o.num_samples[role] for o in found)
        for role in ROLE_NAMES
    ]


def _minutes(name: str, outcomes: Outcomes) -> str:
    before, found = _step_one_of(name, outcomes), list(outcomes[name].values())
    if not before:
        return "?"
    return f"{(mean(o.seconds_before for o in before) + mean(o.seconds for o in found)) / 60:.1f}"


def _share(outcomes: Outcomes, name: str, kind: Kind) -> str:
    found = gap(outcomes, name, kind)
    if found is None:
        return "-"
    share, interval = found
    if interval is None:
        num_seeds = len(common_seeds(outcomes, name, VOTE, CEILING))
        return f"{100 * share:.0f} ({'one seed' if num_seeds == 1 else 'the gap may be none'})"
    return f"{100 * share:.0f} ({100 * interval.low:.0f} to {100 * interval.high:.0f})"
