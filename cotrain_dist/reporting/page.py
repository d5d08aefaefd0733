"""One HTML file about runs that needs nothing else: no server, no network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from cotrain_dist.inference.seen import Seen, Tile
from cotrain_dist.method import gallery
from cotrain_dist.method.statistics import wilson_interval
from cotrain_dist.printable import printable
from cotrain_dist.reporting.charts import (
    FEWEST_IMAGES,
    MOST_CLASSES,
    WHO,
    Spec,
    accuracy_chart,
    calibration_chart,
    funnel_chart,
    recall_chart,
    time_chart,
)
from cotrain_dist.store.records import CotrainRecord, CrossValidation, Estimate
from cotrain_dist.version import __version__

KINDS = {
    gallery.A_TEACHES: "What A can teach B",
    gallery.B_TEACHES: "What B can teach A",
    gallery.DIFFER: "Both are sure, of different classes",
    gallery.UNSURE: "Both are unsure",
    gallery.BOTH_WRONG: "Both are wrong",
}


@dataclass(frozen=True)
class RunStory:
    """What the page tells of one run."""

    name: str
    status: str
    recipe: str
    num_labels: int
    num_pool: int
    num_measured: Mapping[str, int]
    """Images of T and V, by these names."""
    seconds: float
    records: Sequence[CotrainRecord]
    """Of Step 2, epoch 0 first."""
    best: Mapping[str, Any] | None
    """What models/best says of its making: role, epoch, chosen_on; None where there is none."""
    estimate: CrossValidation | None = None
    """On L, where there is neither T nor V."""


@dataclass(frozen=True)
class _Row:
    """A line of the table of runs."""

    name: str
    status: str
    recipe: str
    labels: str
    shipped: str
    before: str
    duration: str


@dataclass
class _Chart:
    title: str
    about: str
    spec: Spec = field(repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What it shows, for who cannot see it."""
        rows = self.spec.get("layer", [self.spec])[-1]["data"]["values"]
        return [
            {k: f"{v:.1f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        ]


def page_of(stories: Sequence[RunStory], seen: Seen | None) -> str:
    """The HTML. seen: of the one run, where its images are to be shown."""
    environment = Environment(
        loader=PackageLoader("cotrain_dist.reporting"),
        autoescape=True,  # names of classes and files are other people's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = _charts(stories, seen)
    tiles = [_tile(tile) for tile in seen.tiles] if seen else []
    return environment.get_template("page.html.jinja").render(
        version=__version__,
        title=stories[0].name if len(stories) == 1 else f"{len(stories)} runs",
        sentences=[sentence_of(story) for story in stories],
        rows=[asdict(_row(story)) for story in stories],
        charts=charts,
        specs=[chart.spec for chart in charts],
        confused=_confused(seen),
        tiles=tiles,
        kinds={k: v for k, v in KINDS.items() if k in {tile["kind"] for tile in tiles}},
        class_names=sorted({tile[key] for tile in tiles for key in ("label_a", "label_b")}),
        script=_script(),
    )


@cache
def _script() -> str:
    """What draws the charts. It takes seconds to put together."""
    return vl_convert.javascript_bundle(
        snippet="window.vegaEmbed = vegaEmbed;",
        vl_version=".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2]),
    )


def sentence_of(story: RunStory) -> str:
    """What the user got: accuracy of the shipped model with its interval, against labels only."""
    name, found = story.name, _shipped(story)
    if found is None and story.estimate is not None:
        return _estimated(name, story.estimate)
    if found is None:
        return f"{name}: {story.status}; nothing was measured so far."
    split, after, before, num = found
    role = str(story.best["role"]) if story.best else "a"
    more = " It was chosen on T, which flatters it." if _is_flattered(story) else ""
    if story.best is not None and story.best["epoch"] == 0:
        more += " It is the model of Step 1: none of Step 2 has taken its place."
    gain = 100.0 * (after - before)
    return (
        f"{name}: the model to ship, models/best ({role.upper()}), is right for "
        f"{_interval(after, num)} of the {num:,} images of {split}; with the "
        f"{story.num_labels:,} labels alone {role.upper()} is right for {100.0 * before:.1f} % "
        f"({gain:+.1f} points)."
        f"{more}"
    )


def _estimated(name: str, found: CrossValidation) -> str:
    figures = ", ".join(f"{WHO[who]} {_between(own)}" for who, own in found.of.items())
    return (
        f"{name}: there is no T and no V. By cross-validation on the {found.num_images:,} labels, "
        f"models that learned labels alone are right for: {figures}. Where labels were chosen, and "
        "not drawn at random, these figures are no estimate for all images."
    )


def _between(own: Estimate) -> str:
    low, high = 100.0 * own.low, 100.0 * own.high
    return f"{100.0 * own.top1:.1f} % (95 % interval {low:.1f} to {high:.1f})"


def _shipped(story: RunStory) -> tuple[str, float, float, int] | None:
    """The split, top-1 of models/best and of its role at epoch 0, and the images; None without."""
    if story.best is None or not story.records:
        return None
    role, epoch = str(story.best["role"]), int(story.best["epoch"])
    own = next((record for record in story.records if record.epoch == epoch), None)
    if own is None:
        return None
    for split, after, before in (
        ("T", own.test, story.records[0].test),
        ("V", own.validation, story.records[0].validation),
    ):
        if after is not None and before is not None:
            return split, after[role].top1, before[role].top1, story.num_measured[split]
    return None


def _is_flattered(story: RunStory) -> bool:
    return story.best is not None and story.best.get("chosen_on") == "T"


def _interval(top1: float, num: int) -> str:
    low, high = wilson_interval(round(top1 * num), num)
    return f"{100.0 * top1:.1f} % (95 % interval {100.0 * low:.1f} to {100.0 * high:.1f})"


def _row(story: RunStory) -> _Row:
    found = _shipped(story)
    shipped = "not measured" if found is None else f"{found[0]}: {_interval(found[1], found[3])}"
    if found is None and story.estimate is not None and story.best is not None:
        role = str(story.best["role"])
        shipped = f"L, by cross-validation: {_between(story.estimate.of[role])}"
    return _Row(
        name=story.name,
        status=story.status,
        recipe=story.recipe,
        labels=f"{story.num_labels:,}",
        shipped=shipped,
        before="" if found is None else f"{100.0 * found[2]:.1f} %",
        duration=str(timedelta(seconds=round(story.seconds))),
    )


def _charts(stories: Sequence[RunStory], seen: Seen | None) -> list[_Chart]:
    records = {story.name: story.records for story in stories}
    wanted: list[tuple[str, str, Spec | None]] = [
        (
            "Accuracy",
            "Of both models and of the mean of their probabilities, after each epoch of Step 2.",
            accuracy_chart(records),
        )
    ]
    for story in stories:
        of = "" if len(stories) == 1 else f", {story.name}"
        wanted += [
            (
                f"What became of the images without labels{of}",
                "Where both models name one class, where they differ, and how many each has "
                "learned; whether these are labeled right is known where the data have labels.",
                funnel_chart(story.records, story.num_pool),
            ),
            (
                f"How sure, and how often right{of}",
                "Images without labels in the last epoch, by tenths of confidence, where true "
                f"labels of at least {FEWEST_IMAGES} are known. Below the dashed line a model is "
                "too sure.",
                calibration_chart(story.records),
            ),
            (f"Time by rank{of}", "Seconds of Step 2 in each phase.", time_chart(story.records)),
        ]
    if seen is not None:
        wanted.append(
            (
                "Classes",
                f"Share of each class on {seen.on} that both models together call right: the "
                f"{MOST_CLASSES} lowest.",
                recall_chart(_recall_rows(seen)),
            )
        )
    return [_Chart(title, about, spec) for title, about, spec in wanted if spec is not None]


def _recall_rows(seen: Seen) -> list[dict[str, Any]]:
    """For `recall_chart`; classes without images are left out."""
    if seen.figures is None:
        return []
    now = seen.figures.recall["ensemble"].tolist()
    counts = seen.figures.targets.bincount(minlength=len(now)).tolist()
    order = sorted((i for i in range(len(now)) if counts[i]), key=lambda i: now[i])
    whens = {"now": now}
    if seen.before is not None:
        whens = {"labels alone": seen.before.recall["ensemble"].tolist()} | whens
    return [
        {"name": printable(seen.class_names[i]), "when": when, "recall": 100.0 * recalls[i]}
        | {"images": counts[i]}
        for i in order
        for when, recalls in whens.items()
    ]


def _confused(seen: Seen | None) -> list[dict[str, Any]]:
    if seen is None:
        return []
    names = [printable(name) for name in seen.class_names]
    return [
        {"true": names[pair.true], "called": names[pair.called], "count": pair.count}
        for pair in seen.confused
    ]


def _tile(tile: Tile) -> dict[str, Any]:
    names = (tile.path, tile.truth or "", tile.label_a, tile.label_b)
    path, truth, label_a, label_b = map(printable, names)
    return {
        "kind": tile.kind,
        "kind_name": KINDS[tile.kind],
        "path": path,
        "truth": truth,
        "label_a": label_a,
        "label_b": label_b,
        "percent_a": round(100.0 * tile.confidence_a),
        "percent_b": round(100.0 * tile.confidence_b),
        "source": f"data:image/jpeg;base64,{base64.b64encode(tile.jpeg).decode()}",
    }
