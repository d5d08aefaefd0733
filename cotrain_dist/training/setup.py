"""Before a training: its world, its images and splits, its models; nothing is written yet."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cotrain_dist.config import Config, DataConfig, resolve_role
from cotrain_dist.data.bad_images import refuse_bad
from cotrain_dist.data.extra_labels import add_labels
from cotrain_dist.data.sources import Listing, list_images
from cotrain_dist.data.sources.listing import BadImage
from cotrain_dist.data.splits import (
    SplitTable,
    draw_split_table,
    load_split_table,
    mark_audit,
    parse_split_table,
    without_bad,
)
from cotrain_dist.data.stream import PixelSource, pixels_of
from cotrain_dist.errors import UserError
from cotrain_dist.method.placement import Placement
from cotrain_dist.method.scores import MAX_CLASSES
from cotrain_dist.method.splits import Split
from cotrain_dist.models import build_model, check_names, fetch_published, operations_per_image
from cotrain_dist.runtime.accelerator import Precision, Runtime, start_runtime
from cotrain_dist.runtime.collectives import broadcast_bytes, broadcast_json, together
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.scan import scan_images
from cotrain_dist.training.steps import check_parts
from cotrain_dist.types import ROLES, Role


def start_world(config: Config) -> Runtime:
    """Check the names of models and optimizers, then join the world. Collective over all ranks."""
    check_all_names(config)
    cost_a, cost_b = model_costs(config)
    return start_runtime(config, cost_a=cost_a, cost_b=cost_b)


def check_all_names(config: Config) -> None:
    """Raise UserError where timm does not know a model's or an optimizer's name."""
    for role in ROLES:
        check_names(role, resolve_role(config, role.value))


def model_costs(config: Config) -> tuple[float, float]:
    """Operations per image of A and B; not counted where the models are the same."""
    # Counting builds both models once more, which equal ones can be spared.
    roles = [resolve_role(config, role.value) for role in ROLES]
    if len({(own.name, own.image_size) for own in roles}) == 1:
        return 1.0, 1.0
    cost_a, cost_b = (operations_per_image(own) for own in roles)
    return cost_a, cost_b


def prepare(
    config: Config, rt: Runtime, *, resume: bool, quiet: bool = False
) -> tuple[RunContext, Images]:
    """List and check the data, read each image once, draw or read the splits.

    Nothing is written yet. A resume takes over what was found at the start. Collective over all
    ranks.
    """
    check_precision(config, rt.precision)
    store = RunDirectory(Path(config.output_dir))
    reporter = Reporter(rt.is_lead and not quiet, rt.progress)
    if rt.is_lead and not resume:
        reporter.say("listing images and drawing splits")
    drawing = Drawing(config)
    table = from_lead(lambda: _first_splits(drawing, store, resume), rt)
    is_final = resume or config.data.on_bad_image == "error"
    if is_final:  # what is wrong with the settings is told before images are read
        together(lambda: check_table(table, config, rt.placement), rt.control)
    # On every rank: one node may lack the data, or hold others.
    pixels = together(lambda: open_pixels(config.data, table.listing, rt, reporter), rt.control)
    if not resume:
        bad = scan_images(table.listing, pixels, config, rt, reporter)
        if is_final:
            together(lambda: drawing.refuse(bad, table) if rt.is_lead else None, rt.control)
        elif broadcast_json(drawing.is_spoiled, rt.control) or bad != table.listing.bad:
            table = from_lead(lambda: drawing.without(bad), rt)
    if not is_final:
        together(lambda: check_table(table, config, rt.placement), rt.control)
    return RunContext(config, rt, store, reporter), Images(table, pixels)


def check_precision(config: Config, precision: Precision) -> None:
    """Raise UserError where gradients are scaled beyond what can be added up without rounding."""
    if config.train.exact_elastic and precision == "fp16":
        raise UserError(
            "precision",
            precision,
            "scales losses beyond what train.exact_elastic adds up",
            "give bf16 or fp32, or train.exact_elastic 0",
        )


MOST_READERS = 8
"""Threads of a rank that read ahead unless the settings say: more would wait for each other."""


def open_pixels(data: DataConfig, listing: Listing, rt: Runtime, reporter: Reporter) -> PixelSource:
    """The pixels of a listing's images, read as suits this rank's device.

    Raises UserError where they are not there as listed.
    """
    return pixels_of(
        data,
        listing,
        num_readers=num_readers(data, rt),
        pin_memory=rt.device.type == "cuda",
        tell=reporter.warn,
    )


def num_readers(data: DataConfig, rt: Runtime) -> int:
    """Threads of this rank that read ahead: as configured, or as suits its device."""
    if data.num_workers is not None:
        return data.num_workers
    # On a CPU they would take from the model what they give it, and its own threads spin while
    # they wait for one of theirs that a reader has pushed aside.
    return min(MOST_READERS, max(1, rt.num_cpus - 1)) if rt.device.type == "cuda" else 0


def from_lead(make: Callable[[], SplitTable], rt: Runtime) -> SplitTable:
    """Collective over all ranks: a table that the lead rank makes, on every rank.

    One rank lists and draws, and all read its bytes: a sample_id must be one image everywhere.
    """
    content = together(lambda: make().to_parquet() if rt.is_lead else b"", rt.control)
    return parse_split_table(broadcast_bytes(content, rt.control))


def _first_splits(drawing: "Drawing", store: RunDirectory, resume: bool) -> SplitTable:
    """The table of splits of this run, or of a new one as far as nobody has read its images."""
    if not resume:
        return drawing.first()
    store.check_is_run()
    return load_split_table(store.path)


class Drawing:
    """The splits of a new run, on the lead rank: drawn, and once more where images are bad."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._listing: Listing | None = None
        self.is_spoiled = False
        """Whether the first draw has failed, for which bad images may be the reason."""

    def first(self) -> SplitTable:
        """Those of another run, or drawn as if all images could be read; then further labels."""
        data = self._config.data
        if data.splits_from:
            return split_table_of(self._config)
        self._listing = list_images(data)
        try:
            return split_table_of(self._config, self._listing)
        except UserError:
            if data.on_bad_image == "error" and not self._listing.bad:
                raise
            self.is_spoiled = True
            num_images = len(self._listing.paths)
            return SplitTable(self._listing, torch.full((num_images,), Split.U))

    def refuse(self, bad: Sequence[BadImage], table: SplitTable) -> None:
        """Raise UserError where there are bad images that the splits do not leave out already."""
        known = table.listing.bad if self._config.data.splits_from else ()
        num_images = len(table.listing.paths) + sum(one.sample_id is None for one in bad)
        refuse_bad([one for one in bad if one not in known], num_images)

    def without(self, bad: tuple[BadImage, ...]) -> SplitTable:
        """The splits as if the bad images were not there; of another run, without them."""
        if self._listing is None:
            table = without_bad(split_table_of(self._config), bad)
            return mark_audit(table, self._config.data.audit_images, self._config.seed)
        return split_table_of(self._config, replace(self._listing, bad=bad))


def split_table_of(config: Config, listing: Listing | None = None) -> SplitTable:
    """The splits that a new run would have: those of another one, or drawn; then further labels.

    Last, the audit is marked in the U that is left. listing: of the images, where they were listed
    already.
    """
    if config.data.splits_from:
        table = load_split_table(Path(config.data.splits_from))
    else:
        listing = listing or list_images(config.data)
        table = draw_split_table(listing, config.data, config.seed)
    if config.data.extra_labels:
        table = add_labels(table, config.data)
    return mark_audit(table, config.data.audit_images, config.seed)


def check_table(table: SplitTable, config: Config, placement: Placement) -> None:
    """Raise UserError where the splits cannot be trained on as configured."""
    if table.listing.source != config.data.source:
        raise UserError(
            "data.splits_from",
            config.data.splits_from,
            f"holds splits of {table.listing.source}, data.source is {config.data.source}",
            "make the two equal",
        )
    if len(table.class_names) > MAX_CLASSES:
        raise UserError(
            "data.root",
            config.data.root,
            f"has {len(table.class_names)} classes, a vote's label has 16 bits",
            f"use at most {MAX_CLASSES} classes",
        )
    # Whether there is a V decides what models/best is chosen on, so the settings must say the same.
    if bool(config.data.validation_fraction) != bool(len(table.sample_ids(Split.V))):
        raise UserError(
            "data.validation_fraction",
            config.data.validation_fraction,
            f"the splits taken over hold {len(table.sample_ids(Split.V))} images of V",
            "give the fraction that they were drawn with",
        )
    check_temperature(config, has_validation=len(table.sample_ids(Split.V)) > 0)
    if config.pretrain.patience_epochs is not None and not len(table.sample_ids(Split.V)):
        raise UserError(
            "pretrain.patience_epochs",
            config.pretrain.patience_epochs,
            "there is no V that could stop rising",
            "give data.validation_fraction, or null",
        )
    has_consistency = config.consistency.is_on
    if has_consistency and not len(table.sample_ids(Split.U)):
        raise UserError(
            "consistency.teacher",
            config.consistency.teacher,
            "there are no images in U to label",
            "label fewer images (data.labeled_fraction), or leave it off",
        )
    for role, split in ((Role.A, Split.L_A), (Role.B, Split.L_B)):
        num_labeled = len(table.sample_ids(split))
        if resolve_role(config, role.value).model.train == "head":
            continue  # a fit of all rows at once has no parts
        # With consistency all steps of Step 2 are whole, so those of Step 1 are the smallest.
        num_pool = len(table.sample_ids(Split.U))
        num_pool = 0 if has_consistency or config.exchange == "none" else num_pool
        if has_consistency and not config.pretrain.num_epochs:
            num_labeled = config.train.batch_size
        check_parts(num_labeled, num_pool, role, len(placement.ranks_of(role)), config.train)


def check_temperature(config: Config, *, has_validation: bool) -> None:
    """Raise UserError where a whole model would have to be calibrated on what it has learned."""
    if config.selection.temperature != "fitted" or has_validation:
        return
    whole = [name for name in ("a", "b") if getattr(config, f"model_{name}").train == "all"]
    if whole and config.pretrain.labels == "shared":
        raise UserError(
            "selection.temperature",
            config.selection.temperature,
            f"model_{whole[0]} learns all labels, and there is no V to calibrate it on",
            "give data.validation_fraction 0.1, say, or selection.temperature off",
        )


def fetch_models(config: Config, rt: Runtime) -> None:
    """Collective over all ranks: what is to be downloaded is, by one process on each node.

    All of them at once would download the same file, and write it over each other.
    """

    def fetch() -> None:
        for role in ROLES:
            own = resolve_role(config, role.value)
            if own.model.pretrained is True and rt.is_first_on_node:
                fetch_published(own.name, f"model_{role.value}.pretrained")

    together(fetch, rt.control)


def first_models(
    config: Config, roles: Sequence[Role], class_names: Sequence[str]
) -> dict[Role, nn.Module]:
    """The models of some roles with their first weights, on the CPU.

    Built before a file is written: names and files may be wrong.
    """
    models = {}
    for role in roles:
        own = resolve_role(config, role.value)
        models[role] = build_model(own, role, class_names)
    return models
