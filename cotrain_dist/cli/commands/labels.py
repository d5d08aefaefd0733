"""`cotrain-dist labels RUN`: what a run says of its U, with a promise where an audit allows one."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config import Config
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.places import check_output_early, check_output_file
from cotrain_dist.errors import UserError

if TYPE_CHECKING:
    from cotrain_dist.store.linked import FolderWriter
    from cotrain_dist.store.predictions import PredictionWriter

USAGE = """labels RUN [FOLDER] --output FILE.csv|.jsonl|.parquet|FOLDER
              [--format imagefolder|datasets] [--audit ANSWERS.csv]
              [--min_precision P | --max_error E] [--delta D] [--rest FILE.csv]"""
PROG = "cotrain-dist labels"
PROMISES = ("min_precision", "max_error")
ENDINGS = (".csv", ".jsonl", ".parquet")
FORMATS = ("imagefolder", "datasets")
"""Of a folder."""


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    own, config = checked(arguments)
    format_, files = _format_of(own), _files(own)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.labels import Promise, files_of_pool, label_pool, open_pool
    from cotrain_dist.inference.queue import Asked, write_queue
    from cotrain_dist.reporting.promised import promise_lines
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.runtime.collectives import together
    from cotrain_dist.runtime.progress import build_console

    promise = None
    if own.min_precision is not None or own.max_error is not None:
        promise = Promise(own.audit, own.min_precision, own.max_error, own.delta)
    with start_runtime(config) as rt:
        for file, endings in files:
            if file is not None:
                check = partial(check_output_file, file, endings, replaces=False)
                together(lambda check=check: check() if rt.is_lead else None, rt.control)  # type: ignore[misc]
        pool, images = open_pool(config, own.folder, rt), dict[str, Path]()
        if format_ is not None:
            to_link = format_ == "imagefolder"
            find = partial(files_of_pool, pool.images.table, pool.folders, to_link=to_link)
            images = together(find, rt.control)
        labeled = label_pool(pool, promise)
        if not rt.is_lead:
            return 0
        with _open_output(own.output, format_, images, labeled.table.class_names) as writer:
            for block in labeled.rows():
                writer.write(block)
            if own.rest is not None:
                write_queue(Asked(labeled.paths_left, len(labeled.pool_ids)), config, own.rest)
        for line in promise_lines(promise, labeled, own.output, own.rest):
            build_console().print(line)
    return 0


def _open_output(
    output: Path, format_: str | None, images: Mapping[str, Path], class_names: Sequence[str]
) -> "AbstractContextManager[PredictionWriter | FolderWriter]":
    """What writes the labels. A file is closed after an error too: blocks that are whole count."""
    from cotrain_dist.store.dataset_folder import DatasetWriter
    from cotrain_dist.store.linked import LinkWriter
    from cotrain_dist.store.predictions import open_writer
    from cotrain_dist.types import PoolLabel

    match format_:
        case "imagefolder":
            return LinkWriter(output, images)
        case "datasets":
            return DatasetWriter(output, images, class_names)
        case _:
            return closing(open_writer(output, ENDINGS, PoolLabel))


def _format_of(own: argparse.Namespace) -> str | None:
    """The format of a folder, None for a file. Raises UserError for a --format that is none."""
    if own.format is None:
        return None if own.output.suffix else "imagefolder"
    if own.format not in FORMATS:
        raise UserError("--format", own.format, "is no format of a folder", " or ".join(FORMATS))
    if own.output.suffix in ENDINGS:
        rule = f"is a folder, and {own.output} would be a file"
        raise UserError("--format", own.format, rule, "leave it out, or name a folder")
    own_format: str = own.format
    return own_format


def checked(arguments: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """The options and the run's settings. Raises UserError for what would end the command."""
    own, settings = _parser().parse_with_settings(arguments)
    _check_promise(own)
    if own.folder is not None and not own.folder.is_dir():
        raise UserError("FOLDER", own.folder, "is no folder", "name one that holds images")
    _format_of(own)  # a mistake there is told before the run is read
    config = config_of_run(own.run, settings, PROG)
    _require_audit(own, config)
    for file, endings in _files(own):
        check_output_early(file, endings, replaces=False)
    return own, config


def _files(own: argparse.Namespace) -> list[tuple[Path | None, tuple[str, ...]]]:
    """What is written, with the endings that it may have; a folder may have any."""
    endings = (own.output.suffix,) if _format_of(own) else ENDINGS
    return [(own.rest, (".csv",)), (own.output, endings)]


def _check_promise(own: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together, or are no shares."""
    given = [name for name in PROMISES if getattr(own, name) is not None]
    if len(given) == 2:
        rule = "is another promise than --max_error"
        raise UserError("--min_precision", own.min_precision, rule, "give one of the two")
    for name in (*given, "delta"):
        value = getattr(own, name)
        if not 0.0 < value < 1.0:
            raise UserError(f"--{name}", value, "must lie between 0 and 1", "0.05, say")
    if given and own.folder is not None:
        rule = "is promised of a run's own U alone: images of another kind would break it"
        way_out = f"leave out {given[0]} or the folder; to promise it, train with these images in U"
        raise UserError(f"--{given[0]}", getattr(own, given[0]), rule, way_out)
    for name in ("audit", "rest"):
        if getattr(own, name) is not None and not given:
            rule = "belongs to a promise"
            way_out = "give --min_precision P or --max_error E too"
            raise UserError(f"--{name}", getattr(own, name), rule, way_out)


def _require_audit(own: argparse.Namespace, config: Config) -> None:
    """Raise UserError for a promise without an audit, marked or drawn since."""
    given = next((key for key in PROMISES if getattr(own, key) is not None), None)
    if given is not None and own.audit is None and not config.data.audit_images:
        rule = "is promised from images that a person has audited alone"
        way_out = "queue RUN --audit N --output FILE.csv draws them; then give --audit FILE.csv"
        raise UserError(f"--{given}", getattr(own, given), rule, way_out)


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "Label a run's U, or the images of a folder. With an audit (queue RUN --audit N, or "
        "data.audit_images of the run), only the labels of U of which at least the share P is "
        "right are written, or those that leave at most the share E of all of U wrong; each holds "
        "in all but the share D of the draws of an audit. --KEY VALUE changes the device.",
        "runs/1 --audit answers.csv --min_precision 0.95 --output labels.csv",
    )
    parser.add_argument("run", type=Path, help="directory that train wrote")
    parser.add_argument("folder", type=Path, nargs="?", help="of other images, instead of U")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="file ending in .csv, .jsonl or .parquet, or a folder",
    )
    parser.add_argument(
        "--format",
        help="of a folder: imagefolder, links in one folder per class (the default), or datasets, "
        "for load_from_disk",
    )
    parser.add_argument(
        "--audit",
        type=Path,
        help="the table of the audit, with all its answers; not needed where the source knows "
        "the labels of data.audit_images",
    )
    parser.add_argument("--min_precision", type=float, help="least share of kept labels right")
    parser.add_argument("--max_error", type=float, help="largest share of U wrong and kept")
    parser.add_argument("--delta", type=float, default=0.05, help="chance to break it (0.05)")
    parser.add_argument("--rest", type=Path, help="table of the images whose labels are not kept")
    return parser
