"""`queue`: the images of a folder, a table or a run that a person should label next."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.data.bad_images import printable, refuse_bad
from cotrain_dist.data.copies import leave_out_copies
from cotrain_dist.data.label_studio import Vote, build_task
from cotrain_dist.data.same_as import SAME_AS
from cotrain_dist.data.sources.files import folders_of, list_without_classes
from cotrain_dist.data.sources.listing import BadImage, Listing
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.inference.choose import (
    Probs,
    Query,
    choose,
    head_rows,
    share_heads,
)
from cotrain_dist.inference.evaluate import load_classifiers, open_run
from cotrain_dist.method.groups import group_near
from cotrain_dist.method.splits import Split
from cotrain_dist.method.strategies import WITHOUT_MODELS
from cotrain_dist.models import head_of
from cotrain_dist.printable import to_cell
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store import atomic
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.features import JointFeatures, both_features
from cotrain_dist.training.scan import scan_images
from cotrain_dist.training.setup import fetch_models, first_models, from_lead, open_pixels
from cotrain_dist.training.student import Classifier, build_classifier
from cotrain_dist.types import ROLES


@dataclass(frozen=True)
class Asked:
    """The images to label."""

    paths: list[str]
    """Relative to the folder that the source's images start from, most worth first."""
    num_candidates: int
    """Images that could have been asked for; equal files, and a group, count once."""
    same: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By the path of an image that is asked about: those of the images it stands for."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """By path: the folder it lies in, of images that are files."""
    votes: Sequence[Sequence[Vote]] = ()
    """Of each path what A and B say, where it was asked for."""


@dataclass(frozen=True)
class _Opened:
    """Where images are chosen from."""

    classifiers: Sequence[Classifier]
    images: Images
    candidates: Tensor
    """[n] int64 sample_ids."""
    labeled: Tensor
    """[n] int64 sample_ids."""
    ctx: RunContext


def queue_of_folder(config: Config, query: Query, rt: Runtime) -> Asked:
    """Of images without labels, before any training. Collective over all ranks."""
    fetch_models(config, rt)
    table = from_lead(lambda: _list(config), rt)
    reporter = Reporter(show=rt.is_lead)
    pixels = together(lambda: open_pixels(config.data, table.listing, rt, reporter), rt.control)
    bad = scan_images(table.listing, pixels, config, rt, reporter)
    together(lambda: _tell_bad(bad, table, config, reporter) if rt.is_lead else None, rt.control)
    if bad != table.listing.bad:
        table = _without_copies(replace(table.listing, bad=bad))
    # The last layers are not asked, so any classes will do.
    models = together(lambda: first_models(config, rt.roles_here, ("a", "b")), rt.control)
    classifiers = [
        build_classifier(role, model, resolve_role(config, role.value), rt)
        for role, model in models.items()
    ]
    ctx = RunContext(config, rt, RunDirectory(Path(config.output_dir)), reporter)
    is_in, has_label = table.splits != Split.OUT, table.class_ids >= 0
    opened = _Opened(
        classifiers,
        Images(table, pixels),
        (is_in & ~has_label).nonzero().flatten(),
        (is_in & has_label).nonzero().flatten(),
        ctx,
    )
    return _ask(opened, query)


def _list(config: Config) -> SplitTable:
    """All images, as a table that other ranks can read."""
    return _without_copies(list_without_classes(config.data))


def _without_copies(listing: Listing) -> SplitTable:
    splits = torch.full((len(listing.paths),), Split.U, dtype=torch.int64)
    splits[listing.bad_ids] = Split.OUT
    return SplitTable(listing, leave_out_copies(listing, splits))


def _tell_bad(
    bad: Sequence[BadImage], table: SplitTable, config: Config, reporter: Reporter
) -> None:
    """What is left out; raises UserError where nothing may be."""
    if config.data.on_bad_image == "error":
        refuse_bad(bad, len(table.listing.paths) + sum(one.sample_id is None for one in bad))
    for one in bad:
        reporter.warn(f"left out: {printable(one.path)} ({printable(one.reason)})")


def queue_of_run(config: Config, query: Query, rt: Runtime) -> Asked:
    """Of a run's U but for marked images, by its saved models; `config.output_dir` is the run.

    Collective over all ranks.
    """
    ctx, table = together(lambda: open_run(config, rt), rt.control)
    classifiers = together(lambda: load_classifiers(table.class_names, ctx), rt.control)
    pixels = together(lambda: open_pixels(config.data, table.listing, rt, ctx.reporter), rt.control)
    labeled = torch.cat([table.sample_ids(Split.L_A), table.sample_ids(Split.L_B)])
    images = Images(table, pixels)
    return _ask(_Opened(classifiers, images, table.unmarked_pool_ids, labeled, ctx), query)


def _ask(opened: _Opened, query: Query) -> Asked:
    """Collective over all ranks."""
    ctx, table = opened.ctx, opened.images.table
    candidates = _without_equal_files(opened.candidates, opened.labeled, table)
    _check_size(query, len(candidates))
    stores = both_features(opened.classifiers, opened.images, ctx)
    features = JointFeatures.of(stores, torch.cat([candidates, opened.labeled]).sort().values)
    members: dict[int, list[int]] = {}
    if query.is_grouped:
        members = _group(candidates, features, ctx.runtime)
        candidates = torch.tensor(list(members), dtype=torch.int64)
        _check_size(query, len(candidates))
    probs: Probs | None = None
    if query.strategy not in WITHOUT_MODELS or query.with_votes:
        own = {
            classifier.role: head_rows(head_of(classifier.whole, ""))
            for classifier in opened.classifiers
            if classifier.is_lead
        }
        probs = share_heads(own, stores, ctx.runtime)
    asked = None if query.strategy in WITHOUT_MODELS else probs
    chosen = choose(query, candidates, opened.labeled, features, asked, ctx.runtime.control)
    is_voted = query.with_votes and probs is not None
    votes = _votes(probs(torch.tensor(chosen)), table.class_names) if is_voted and probs else []
    paths, folders = table.listing.paths, folders_of(ctx.config.data)
    sources = {paths[i]: table.listing.sources[i] for i in chosen}
    return Asked(
        [paths[i] for i in chosen],
        len(candidates),
        {paths[i]: [paths[k] for k in members[i]] for i in chosen if members.get(i)},
        {path: folders[source] for path, source in sources.items() if source in folders},
        votes,
    )


def _check_size(query: Query, num: int) -> None:
    """Raise UserError where there are fewer images than are asked for."""
    if query.num > num:
        raise UserError(
            "--size",
            query.num,
            f"{num} different image(s) have no label",
            "ask for fewer" if num else "there is nothing to ask for",
        )


def _group(candidates: Tensor, features: JointFeatures, rt: Runtime) -> dict[int, list[int]]:
    """The members by the image that stands for them, sample_ids. Collective over all ranks."""
    own = together(
        lambda: group_near(features.points(candidates)).tolist() if rt.is_lead else [], rt.control
    )
    members: dict[int, list[int]] = {}
    ids = candidates.tolist()
    for sample_id, place in zip(ids, broadcast_json(own, rt.control), strict=True):
        if ids[place] == sample_id:
            members[sample_id] = []
        else:
            members[ids[place]].append(sample_id)
    return members


def _votes(probs: Tensor, class_names: Sequence[str]) -> list[list[Vote]]:
    """probs: [2, n, C] -> for each image, what A and B say."""
    tops = probs.max(dim=2)
    return [
        [
            Vote(role.value.upper(), class_names[int(label)], float(confidence))
            for role, label, confidence in zip(ROLES, labels, confidences, strict=True)
        ]
        for labels, confidences in zip(tops.indices.T, tops.values.T, strict=True)
    ]


def _without_equal_files(candidates: Tensor, labeled: Tensor, table: SplitTable) -> Tensor:
    """Of equal files the first, and none that is labeled already."""
    seen = {table.listing.digests[i] for i in labeled.tolist()}
    kept = []
    for i in candidates.tolist():
        if table.listing.digests[i] not in seen:
            seen.add(table.listing.digests[i])
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def write_queue(asked: Asked, config: Config, file: Path) -> None:
    """A table of paths with empty labels, as `data.table` reads it; or tasks, as FILE.json."""
    if file.suffix == ".json":
        tasks = [
            build_task(
                path,
                asked.folders.get(path),
                asked.same.get(path, ()),
                asked.votes[place] if asked.votes else (),
            )
            for place, path in enumerate(asked.paths)
        ]
        atomic.write_text(file, json.dumps(tasks, indent=1) + "\n")
        return
    header, rows = [config.data.path_column, config.data.label_column], []
    for path in asked.paths:
        rows.append([to_cell(path), "", ""])
        rows += [[to_cell(other), "", to_cell(path)] for other in asked.same.get(path, ())]
    if asked.same:
        header.append(SAME_AS)
    text = io.StringIO()
    # Quoted cells: a carriage return in a name would else end its row.
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer = quoted if any("\r" in row[0] for row in rows) else plain
    writer.writerow(header)
    writer.writerows(row[: len(header)] for row in rows)
    atomic.write_text(file, text.getvalue())
