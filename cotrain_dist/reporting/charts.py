"""Charts of runs as Vega-Lite specifications: interactive in a browser, without a server."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from cotrain_dist.store.records import ROLE_NAMES, CotrainRecord

Spec = dict[str, Any]

WHO = {"a": "A", "b": "B", "ensemble": "A and B together"}
"""By the keys of a record's figures."""

COLORS = {"a": "#4c78a8", "b": "#f58518", "ensemble": "#54a24b"}
"""A blue, B orange, both green: told apart without red and green alone."""

FEWEST_IMAGES = 5
"""Of a tenth of confidence: fewer say nothing of how often it is right."""


def accuracy_chart(runs: Mapping[str, Sequence[CotrainRecord]]) -> Spec | None:
    """Top-1 by epoch of Step 2, of A, B and both; epoch 0 is labels alone. None without figures."""
    rows = [
        {"run": name, "epoch": record.epoch, "who": WHO[who], "on": "T" if record.test else "V"}
        | {"top1": 100.0 * own.top1, "recall": 100.0 * own.mean_class_recall}
        for name, records in runs.items()
        for record in records
        for who, own in (record.test or record.validation or {}).items()
    ]
    if not rows:
        return None
    where = " or ".join(sorted({str(row["on"]) for row in rows}))
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("epoch:Q", title="epoch of Step 2 (0: labels alone)", axis=_whole(rows)),
            y=alt.Y("top1:Q", title=f"right on {where}, %", scale=alt.Scale(zero=False)),
            color=alt.Color("who:N", scale=_colors(WHO), title=None),
            tooltip=[
                *(["run:N"] if len(runs) > 1 else []),
                alt.Tooltip("who:N", title="model"),
                "epoch:Q",
                alt.Tooltip("on:N", title="images of"),
                alt.Tooltip("top1:Q", title="right, %", format=".1f"),
                alt.Tooltip("recall:Q", title="mean recall of classes, %", format=".1f"),
            ],
        )
    )
    if len(runs) > 1:
        chart = chart.encode(strokeDash=alt.StrokeDash("run:N", title="run"))
    return _spec(chart, 260)


def funnel_chart(records: Sequence[CotrainRecord], num_pool: int) -> Spec | None:
    """Images of U by epoch: where both agree or differ, and how many of them each has learned."""
    rows = []
    for record in records:
        if record.agreement_rate is None:
            continue
        agree = round(record.agreement_rate * num_pool)
        rows += [
            {"epoch": record.epoch, "part": part, "images": num, "right": "", "labeled by": ""}
            for part, num in (("A and B agree", agree), ("A and B differ", num_pool - agree))
        ]
        rows += [_learned(record, name) for name in ROLE_NAMES]
    if not rows:
        return None
    order = ["A and B agree", "A and B differ", "learned by A", "learned by B"]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("epoch:O", title="epoch", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("part:N", sort=order),
            y=alt.Y("images:Q", title=f"images of the {num_pool:,} without labels"),
            color=alt.Color(
                "part:N",
                sort=order,
                title=None,
                scale=alt.Scale(domain=order, range=["#9ecae9", "#bab0ac", "#4c78a8", "#f58518"]),
            ),
            tooltip=[
                "epoch:O",
                alt.Tooltip("part:N"),
                alt.Tooltip("images:Q", format=","),
                alt.Tooltip("labeled by:N"),
                alt.Tooltip("right:N", title="labeled right"),
            ],
        )
    )
    return _spec(chart, 260)


def _learned(record: CotrainRecord, name: str) -> dict[str, Any]:
    """A row of the funnel: by `exchange`, a model learns its own R, the peer's, or none."""
    row = {"epoch": record.epoch, "part": f"learned by {WHO[name]}"}
    teacher = record.roles[name].teacher
    if teacher is None:
        return row | {"images": 0, "right": "", "labeled by": "nobody"}
    own = record.roles[teacher]
    share = own.selected_accuracy
    right = "unknown" if share is None else f"{100.0 * share:.1f} %"
    return row | {"images": own.num_selected, "right": right, "labeled by": WHO[teacher]}


def calibration_chart(records: Sequence[CotrainRecord]) -> Spec | None:
    """How often each model is right where it is so sure, in the last epoch; None if unknown."""
    pools = [record.pool for record in records if record.pool is not None]
    rows = []
    for name in ROLE_NAMES if pools else ():
        agree, differ = (pools[-1][f"{part}_{name}"] for part in ("agree", "differ"))
        counts = zip(agree["num_images"], differ["num_images"], strict=True)
        rights = zip(agree["num_right"], differ["num_right"], strict=True)
        for tenth, (images, right) in enumerate(zip(counts, rights, strict=True)):
            if (num := sum(images)) >= FEWEST_IMAGES:
                rows.append(
                    {"who": WHO[name], "sure": 10 * tenth + 5, "images": num}
                    | {"right": 100.0 * sum(right) / num}
                )
    if not rows:
        return None
    line = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 100, "y": 100}])).mark_line(
        strokeDash=[4, 4], color="#888888"
    )
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("sure:Q", title="confidence, %", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("right:Q", title="labeled right, %", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("who:N", scale=_colors(ROLE_NAMES), title=None),
            tooltip=[
                alt.Tooltip("who:N", title="model"),
                alt.Tooltip("sure:Q", title="confidence, % (middle of the tenth)"),
                alt.Tooltip("right:Q", title="labeled right, %", format=".1f"),
                alt.Tooltip("images:Q", format=","),
            ],
        )
    )
    return _spec(alt.layer(line.encode(x="x:Q", y="y:Q"), points), 260)


def time_chart(records: Sequence[CotrainRecord]) -> Spec | None:
    """Seconds of Step 2 by rank and phase."""
    sums: dict[tuple[int, str], float] = {}
    for record in records:
        for rank, phases in enumerate(record.seconds_by_rank):
            for phase, seconds in phases.items():
                sums[rank, phase] = sums.get((rank, phase), 0.0) + seconds
    rows = [
        {"rank": f"rank {rank}", "phase": phase.replace("_", " "), "seconds": round(seconds, 2)}
        for (rank, phase), seconds in sums.items()
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="seconds of Step 2"),
            y=alt.Y("rank:N", title=None),
            color=alt.Color("phase:N", title=None, scale=alt.Scale(scheme="tableau10")),
            tooltip=["rank:N", "phase:N", alt.Tooltip("seconds:Q", format=",.1f")],
        )
    )
    return _spec(chart, 40 + 28 * len({row["rank"] for row in rows}))


MOST_CLASSES = 40
"""Classes in the chart of recall: those with the lowest."""


def recall_chart(rows: Sequence[Mapping[str, Any]]) -> Spec | None:
    """Share of each class's images that is called right, now and by labels alone.

    rows: `name`, `when`, `recall` (in %) and `images`; the classes with the lowest come first.
    """
    if not rows:
        return None
    names = list(dict.fromkeys(row["name"] for row in rows))[:MOST_CLASSES]
    chart = (
        alt.Chart(alt.Data(values=[row for row in rows if row["name"] in names]))
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=alt.X("recall:Q", title="called right, %", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("name:N", sort=names, title=None),
            color=alt.Color(
                "when:N",
                title=None,
                scale=alt.Scale(domain=["labels alone", "now"], range=["#bab0ac", "#54a24b"]),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="class"),
                alt.Tooltip("when:N"),
                alt.Tooltip("recall:Q", title="called right, %", format=".1f"),
                alt.Tooltip("images:Q"),
            ],
        )
    )
    return _spec(chart, 18 * len(names) + 20)


def _colors(whom: Iterable[str]) -> alt.Scale:
    names = list(whom)
    return alt.Scale(domain=[WHO[name] for name in names], range=[COLORS[name] for name in names])


def _whole(rows: Iterable[Mapping[str, Any]]) -> alt.Axis:
    """An axis of whole numbers, so that no half epoch is shown."""
    last = max(row["epoch"] for row in rows)
    return alt.Axis(tickMinStep=1, format="d", tickCount=min(last, 10))


def _spec(chart: Any, height: int) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    return spec
