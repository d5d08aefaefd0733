"""`labels`: what a run says of all of U, and which of these labels an audit lets one keep.

An audit is what was marked before the training (`data.audit_images`), whose labels the source may
know, and what `queue RUN --audit N` lists: the next N images of one order of U, which is keyed by
the run's own name, so that it is uniform however often more are asked for. `audit.json` in the run
directory says how many were listed for a person.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.data.sources.files import folders_of, read_rows
from cotrain_dist.data.sources.listing import UNKNOWN
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.inference.certainty import OF_OTHERS, Estimated, estimate_certainty
from cotrain_dist.inference.evaluate import load_classifiers, open_run
from cotrain_dist.inference.other_images import images_of_folder
from cotrain_dist.inference.predict import BLOCK_SIZE, prediction_of
from cotrain_dist.inference.queue import Asked, write_queue
from cotrain_dist.keys import keyed_generator
from cotrain_dist.method.audit import (
    CANNOT_TELL,
    Cut,
    cut_for_error,
    cut_for_precision,
    least_audit,
    num_more_needed,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.printable import from_cell
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import together
from cotrain_dist.store.linked import require_folder_names
from cotrain_dist.store.run_directory import AUDIT_FILE, RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.setup import open_pixels
from cotrain_dist.types import PoolLabel


@dataclass(frozen=True)
class Promise:
    """What is to hold of the labels that are kept, in all but `delta` of the draws of an audit."""

    audit: Path | None
    """The answers: a table as `queue` wrote it, with the labels filled in. None where the source
    knows the labels of the marked images."""
    min_precision: float | None
    """Least share of the kept labels that is right."""
    max_error: float | None
    """Or: largest share of all of U whose label is wrong and kept."""
    delta: float

    @property
    def option(self) -> str:
        """As it is given."""
        return "--max_error" if self.min_precision is None else "--min_precision"

    @property
    def right(self) -> float:
        """The share that is right where everything is kept."""
        return 1.0 - (self.max_error or 0.0) if self.min_precision is None else self.min_precision


@dataclass(frozen=True)
class Labeled:
    """The labels of U, on every rank."""

    table: SplitTable
    pool_ids: Tensor
    """[n] int64, the ids of U."""
    probs: Mapping[str, Tensor]
    """[n, C] float32 each, under a, b and ensemble."""
    is_kept: Tensor
    """[n] bool."""
    cut: Cut | None
    """Of the promise; None without one."""
    estimated: Estimated
    """How often labels are right; no part of the promise."""
    what: str = "U"
    """Whose images these are."""

    def rows(self) -> Iterator[list[PoolLabel]]:
        """The labels that are kept, block by block, in the order of U."""
        names, paths = self.table.class_names, self.table.listing.paths
        for places in self.is_kept.nonzero().flatten().split(BLOCK_SIZE):
            block = []
            right = self.estimated.of(self.probs["ensemble"][places].max(dim=1).values)
            for place, probability in zip(places.tolist(), right, strict=True):
                path = paths[int(self.pool_ids[place])]
                found = prediction_of(path, place, self.probs, names)
                agree = found.label_a == found.label_b
                block.append(PoolLabel(**asdict(found), agree=agree, probability_right=probability))
            yield block

    @property
    def paths_left(self) -> list[str]:
        """Those of the images whose labels are not kept."""
        left = self.pool_ids[~self.is_kept].tolist()
        return [self.table.listing.paths[i] for i in left]


@dataclass(frozen=True)
class Pool:
    """What is to be labeled, on every rank."""

    ctx: RunContext
    """Of the run."""
    images: Images
    """Of the run, or of another folder; their U is labeled."""
    folders: Mapping[str, Path]
    """That each source of files starts from."""
    what: str = "U"

    @property
    def is_of_run(self) -> bool:
        """Whether these are the run's own images: no other ones have an audit."""
        return self.what == "U"


def open_pool(config: Config, folder: Path | None, rt: Runtime) -> Pool:
    """Collective over all ranks: a run's U, or a folder's images; `config.output_dir` is the run.

    Raises UserError where there is no image.
    """
    ctx, table = together(lambda: open_run(config, rt), rt.control)
    if folder is not None:
        images, data = images_of_folder(folder, table.class_names, ctx)
        return Pool(ctx, images, folders_of(data), what=str(folder))
    together(lambda: require_pool(table.sample_ids(Split.U)), rt.control)
    pixels = together(lambda: open_pixels(config.data, table.listing, rt, ctx.reporter), rt.control)
    return Pool(ctx, Images(table, pixels), folders_of(config.data))


def label_pool(pool: Pool, promise: Promise | None) -> Labeled:
    """Collective over all ranks: both models label U.

    promise: none for images that are not of the run. Raises UserError where the audit does not let
    it be given.
    """
    ctx, images, table = pool.ctx, pool.images, pool.images.table
    rt, pool_ids = ctx.runtime, table.sample_ids(Split.U)
    # Before the pass over U, which may take hours.
    audit = together(
        lambda: None if promise is None else read_audit(promise, table, ctx), rt.control
    )
    classifiers = together(lambda: load_classifiers(table.class_names, ctx), rt.control)
    probs = gather_probs(classifiers, pool_ids, images, ctx)
    estimated = OF_OTHERS
    if pool.is_of_run:
        estimated = estimate_certainty(classifiers, images, ctx)
    confidences, labels = probs["ensemble"].double().max(dim=1)
    if promise is None or audit is None:
        is_kept = torch.ones_like(labels).bool()
        return Labeled(table, pool_ids, probs, is_kept, None, estimated, pool.what)
    places, answers = audit
    cut = together(
        lambda: find_cut(promise, confidences, places, labels[places] == answers), rt.control
    )
    return Labeled(table, pool_ids, probs, confidences > cut.above, cut, estimated)


def files_of_pool(
    table: SplitTable, folders: Mapping[str, Path], *, to_link: bool
) -> dict[str, Path]:
    """The file of each image of U that is one, by its path; folders: of `Pool`.

    to_link: for a folder of links. Raises UserError where it could not be made: where images are no
    files, and where a class can be no folder.
    """
    require_own_names(table)
    if to_link:
        require_folder_names(table.class_names)
    found = {}
    for sample_id in table.sample_ids(Split.U).tolist():
        source, path = table.listing.sources[sample_id], table.listing.paths[sample_id]
        if source in folders:
            found[path] = folders[source] / path
        elif to_link:
            rule = f"is a folder of links, and the images of {source} are no files"
            way_out = "--format datasets, or name a file ending in .parquet"
            raise UserError("--output", "FOLDER", rule, way_out)
    return found


def require_own_names(table: SplitTable) -> None:
    """Raise UserError where two images of U have one path, and no list could tell them apart."""
    paths = [table.listing.paths[i] for i in table.sample_ids(Split.U).tolist()]
    path, number = Counter(paths).most_common(1)[0] if paths else ("", 0)
    if number > 1:
        raise UserError(
            "RUN",
            path,
            f"is the path of {number} images of U, below data.root and data.unlabeled",
            "rename the images of one of the two folders, and train a new run",
        )


def require_pool(pool_ids: Tensor) -> None:
    """Raise UserError where U is empty."""
    if not len(pool_ids):
        raise UserError("RUN", "U", "holds no image", "predict RUN FOLDER labels other images")


def find_cut(promise: Promise, confidences: Tensor, places: Tensor, is_right: Tensor) -> Cut:
    """The cut that the audit allows; UserError where it allows none, with what is lacking.

    confidences: [n] float64 of U. places: [m] int64, the audited ones. is_right: [m] bool.
    """
    audited = confidences[places]
    if promise.min_precision is not None:
        cut = cut_for_precision(audited, is_right, promise.min_precision, promise.delta)
    else:
        assert promise.max_error is not None
        cut = cut_for_error(confidences, audited, is_right, promise.max_error, promise.delta)
    if cut is not None:
        return cut
    num = min(len(places), least_audit(promise.right, promise.delta))
    surest = audited.argsort(descending=True, stable=True)[:num]
    num_wrong = int((~is_right[surest]).sum())
    # Of the surest alone: what was audited among the others does not help there.
    lacking = num_more_needed(num, num_wrong, promise.right, promise.delta)
    told = "the surest labels could not be told apart" if not lacking else ""
    raise UserError(
        promise.option,
        f"{promise.min_precision or promise.max_error:g}",
        f"the audit does not show it: of the {num} surest of {len(places)} audited images "
        f"{num_wrong} are labeled wrongly; nothing is written",
        told or f"audit {lacking} more at least (queue RUN --audit {lacking}), or ask for less",
    )


def read_audit(promise: Promise, table: SplitTable, ctx: RunContext) -> tuple[Tensor, Tensor]:
    """The audited images: their places in U, [m] int64, and their classes, [m] int64.

    Those of the draw up to the first that has no answer: who answers some of them alone may have
    chosen the easy ones. A class of -1 is an answer that names none. For marked images the source
    answers, where it knows the label. Raises UserError for answers that are no audit of this run.
    """
    draw, least = draw_of(table, ctx.store), least_audit(promise.right, promise.delta)
    drawn, given = draw.order[: draw.num_drawn], promise.audit or "(none)"
    if not len(drawn):
        raise UserError(
            "--audit",
            given,
            "no image of this run's U was drawn for an audit, and no other labels will do",
            f"queue RUN --audit {least} --output FILE.csv draws some; label them, and give the "
            "file",
        )
    answers = _answers(promise.audit, table, ctx.config) if promise.audit else {}
    ids = table.sample_ids(Split.U)[drawn].tolist()
    found = [
        answers.get(table.listing.paths[sample_id]) if asks else int(table.class_ids[sample_id])
        for sample_id, asks in zip(ids, draw.needs_person.tolist(), strict=False)
    ]
    classes = list(takewhile(lambda own: own is not None, found))
    if len(classes) < least:
        more = draw.num_unlisted + max(0, least - len(drawn))
        listed = f"; queue RUN --audit {more} lists those that are lacking" if more else ""
        raise UserError(
            "--audit",
            given,
            f"{len(classes)} of the {len(drawn)} images drawn are answered in their order, and "
            f"{least} are needed; {found.count(None)} have no answer",
            f"answer all of the draw ({CANNOT_TELL} where nobody can tell){listed}",
        )
    return drawn[: len(classes)], torch.tensor(classes)


def _answers(file: Path, table: SplitTable, config: Config) -> dict[str, int]:
    """Class by path; -1 for CANNOT_TELL. Rows without an answer are left out."""
    ids = {name: class_id for class_id, name in enumerate(table.class_names)}
    known, found = set(table.listing.paths), dict[str, int]()
    for row in read_rows(file, config.data, "--audit"):
        path, label = row[config.data.path_column], row[config.data.label_column].strip()
        path = path if path in known else from_cell(path)
        label = label if label in ids else from_cell(label)
        if not label:
            continue
        if label not in ids and label != CANNOT_TELL:
            raise UserError(
                "--audit",
                f"{path}: {label}",
                "this run has no such class",
                f"give one of its classes, or {CANNOT_TELL} where nobody can tell",
            )
        class_id = ids.get(label, -1)
        if found.setdefault(path, class_id) != class_id:
            raise UserError("--audit", path, "has two answers", f"remove one from {file}")
    return found


@dataclass(frozen=True)
class Draw:
    """The audit of a run, as far as it has come."""

    order: Tensor
    """[n] int64, places in U: the marked ones, then the others, both as they are drawn."""
    needs_person: Tensor
    """[n] bool in that order: all but marked images whose label the source knows."""
    num_marked: int
    num_asked: int
    """Images that were listed for a person so far."""

    @property
    def num_drawn(self) -> int:
        """How much of the order is audited."""
        asked = self.needs_person.nonzero().flatten()[: self.num_asked]
        return max(self.num_marked, int(asked[-1]) + 1 if len(asked) else 0)

    @property
    def num_unlisted(self) -> int:
        """Marked images that need a person and were not listed for one."""
        return max(0, int(self.needs_person[: self.num_marked].sum()) - self.num_asked)


def draw_of(table: SplitTable, store: RunDirectory) -> Draw:
    """The audit of a run: keyed by its name, so that it is one draw however often more is asked."""
    ids = table.sample_ids(Split.U)
    order = torch.randperm(len(ids), generator=keyed_generator("audit", store.run_id, table.digest))
    num_marked, needs_person = 0, torch.ones(len(ids), dtype=torch.bool)
    if table.is_audit is not None:
        # Both parts as drawn: not by what is known, which would be a choice.
        order = order[(~table.is_audit[ids[order]]).int().argsort(stable=True)]
        num_marked = int(table.is_audit.sum())
        needs_person[:num_marked] = table.class_ids[ids[order[:num_marked]]] == UNKNOWN
    return Draw(order, needs_person, num_marked, _num_asked(store))


def _num_asked(store: RunDirectory) -> int:
    if not (store.path / AUDIT_FILE).is_file():
        return 0
    return int(store.read_json(AUDIT_FILE)["num_drawn"])


def draw_audit(config: Config, num: int, file: Path) -> Asked:
    """The next `num` images of the audit, written as a queue. On one process, without models."""
    store = RunDirectory(Path(config.output_dir))
    table = load_split_table(store.path)
    require_own_names(table)
    draw = draw_of(table, store)
    askable, before = draw.order[draw.needs_person], draw.num_asked
    left = len(askable) - before
    if num > left:
        way_out = f"ask for {left} or fewer" if left else "all of U is drawn"
        raise UserError("--audit", num, f"{left} image(s) of U were not drawn yet", way_out)
    drawn = table.sample_ids(Split.U)[askable[before : before + num]].tolist()
    asked = Asked([table.listing.paths[i] for i in drawn], left)
    write_queue(asked, config, file)
    # Only now: of a draw that reached no file nothing is lost, and the same images come again.
    store.write_json(AUDIT_FILE, {"num_drawn": before + num})
    return asked
