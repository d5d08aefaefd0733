"""The report of a study: report.md, results.json, figures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.statistics import Interval
from cotrain_dist.reporting.grid import Grid
from cotrain_dist.store import atomic
from cotrain_dist.store.records import ROLE_NAMES
from cotrain_dist.study import figures, reasons, tables
from cotrain_dist.study.arms import PAPER
from cotrain_dist.study.published import paper_tables
from cotrain_dist.study.results import Outcomes
from cotrain_dist.study.verdict import RULE, Verdict, verdicts
from cotrain_dist.study.worth import gaps_as_dict, worth
from cotrain_dist.version import __version__

FOR_REASONS = ("alternate-shared", PAPER)
"""Arms whose R is taken apart; the first that has run."""


def write_report(outcomes: Outcomes, base: Config, table: SplitTable, folder: Path) -> list[Grid]:
    """Write the files; returns all tables, for the console."""
    setting = setting_of(base, len(table.class_names))
    found = verdicts(outcomes)
    main = [tables.summary(outcomes, setting), worth(outcomes, setting)]
    main.append(tables.verdict_table(found, setting))
    further = [tables.parts_of_gain(outcomes, setting), tables.readings(outcomes, setting)]
    further.append(tables.best_epochs(outcomes, setting))
    further += [tables.paper_shape(number, outcomes, setting) for number in paper_tables()]
    for arm in [name for name in FOR_REASONS if outcomes.get(name)][:1]:
        further.append(reasons.right_by_epoch(arm, outcomes, setting))
        further.append(reasons.right_by_confidence(arm, outcomes, setting))
        further.append(reasons.right_by_class(arm, outcomes, table.class_names, setting))
    drawn = figures.draw_all(outcomes, setting, folder / "figures")
    pictures = [f"![{path.stem}](figures/{path.name})\n" for path in drawn]
    parts = [grid.to_markdown() for grid in (*main, *further)]
    # Right behind the verdicts, so that none of them is read without its rule.
    parts.insert(len(main), RULE)
    text = "\n".join([f"# {setting}\n", *parts, *pictures, _sources(outcomes)])
    atomic.write_text(folder / "report.md", text)
    results = {
        "cotrain_dist": __version__,
        "setting": setting,
        "settings": asdict(base),
        "tables": [grid.as_dict() for grid in (*main, *further)],
        "gap_closed": gaps_as_dict(outcomes),
        "verdicts": [_verdict_as_dict(verdict) for verdict in found],
        "outcomes": {
            arm: {str(seed): asdict(outcome) for seed, outcome in by_seed.items()}
            for arm, by_seed in outcomes.items()
        },
    }
    # Python would write Infinity and NaN, which no other reader of JSON takes.
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    atomic.write_text(folder / "results.json", text)
    return [*main, *further]


def _sources(outcomes: Outcomes) -> str:
    """Which versions of the source the parts come from: one, or several to be told apart."""
    parts: dict[str, list[str]] = {}
    for arm, by_seed in outcomes.items():
        for seed, outcome in by_seed.items():
            parts.setdefault(", ".join(outcome.sources), []).append(f"{arm}/{seed}")
    if len(parts) == 1:
        return f"All parts were trained by the source {next(iter(parts))}.\n"
    lines = [f"- {source}: {' '.join(names)}" for source, names in parts.items()]
    return "\n".join(["Parts were trained by different sources (part/seed):\n", *lines, ""])


def setting_of(base: Config, num_classes: int) -> str:
    """Data, models and resolution in a few words, for every title."""
    roles = [resolve_role(base, name) for name in ROLE_NAMES]
    names = dict.fromkeys(role.name for role in roles)
    sizes = dict.fromkeys(role.image_size for role in roles)
    source = base.data.name or Path(base.data.root or base.data.table or base.data.source).name
    pixels = " and ".join(map(str, sizes))
    return f"{source} at {pixels} pixels ({num_classes} classes), {' and '.join(names)}"


def _verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict) | {"measured": _interval_as_dict(verdict.measured)}


def _interval_as_dict(interval: Interval | None) -> dict[str, Any] | None:
    """JSON knows no infinity: one seed has no limits."""
    if interval is None:
        return None
    limits = {} if interval.num_seeds > 1 else {"low": None, "high": None}
    return asdict(interval) | limits
