"""`cotrain-dist annotate FILE.csv|RUN`: a page on this machine where a person labels images."""

import argparse
import contextlib
import os
import signal
import sys
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config import DataConfig
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.places import check_output_file
from cotrain_dist.errors import UserError

if TYPE_CHECKING:  # torch takes seconds
    from cotrain_dist.reporting.annotator import Annotator

USAGE = "annotate FILE.csv|RUN [--images FOLDER] [--classes NAME ...] [--output FILE.csv] ..."
PROG = "cotrain-dist annotate"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. It ends by the page's button or Ctrl-C."""
    own, settings = _parser().parse_with_settings(arguments)
    if not 0 <= own.port <= 65535:
        raise UserError("--port", own.port, "must lie between 0 and 65535", "0 takes a free one")
    if own.file.is_dir():
        return _correct(own, settings)
    if settings or own.output:
        option = settings[0] if settings else "--output"
        rule = f"does not go with {own.file}, which is no run directory"
        raise UserError(option, "", rule, "leave it out, or name the directory of a run")
    folder = own.images or own.file.parent
    if not folder.is_dir():
        raise UserError("--images", folder, "is no folder", "give the one the paths lie in")
    for name in own.classes:
        if not name.strip() or not name.isprintable():
            raise UserError("--classes", repr(name), "is no name", "give words")
    from cotrain_dist.data.answers import Answers
    from cotrain_dist.reporting.annotator import Annotator

    answers = Answers(own.file, DataConfig(source="digits"))
    with _alone(own.file):
        _serve(lambda: Annotator(answers, folder, own.classes, own.port, is_audit=own.audit), own)
    num = sum(map(bool, answers.labels))
    print(f"{own.file}: {num} of {len(answers.labels)} images are answered")
    return 0


def _correct(own: argparse.Namespace, settings: list[str]) -> int:
    """Of a run: its gallery, whose answers go to `--output`."""
    _check_options_of_run(own)
    config = config_of_run(own.file, settings, PROG)
    check_output_file(own.output, (".csv",), replaces=True)
    before_torch()
    from cotrain_dist.inference.seen import look_at_pool
    from cotrain_dist.reporting.corrector import SIDE, Corrector, open_answers, require_tiles
    from cotrain_dist.runtime.accelerator import start_runtime

    with _alone(own.output):
        with start_runtime(config) as rt:
            seen = look_at_pool(config, own.each, SIDE, rt)
            require_tiles(seen, own.file)
        answers = open_answers(own.output, seen, config)
        _serve(lambda: Corrector(answers, seen, own.port), own)
    print(
        f"{own.output}: {sum(map(bool, answers.labels))} answers, for train --recycle {own.file} "
        f"--extra-labels {own.output} --output_dir NEW"
    )
    return 0


def _check_options_of_run(own: argparse.Namespace) -> None:
    """Raise UserError for options that say nothing of a run's gallery, and for one that lacks."""
    for option, value in (("images", own.images), ("classes", own.classes), ("audit", own.audit)):
        if value:
            rule = "is known, or of no use, where a run is named"
            raise UserError(f"--{option}", "", rule, "leave it out, or name a table")
    if own.output is None:
        rule = "a run is never written over"
        raise UserError("--output", "(none)", rule, "give a file for the answers, FILE.csv")
    if own.each < 1:
        raise UserError("--each", own.each, "must be at least 1", "24 is the default")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        rule = "one process shows the page"
        raise UserError("WORLD_SIZE", os.environ["WORLD_SIZE"], rule, "leave the launcher out")


def _serve(build: Callable[[], "Annotator"], own: argparse.Namespace) -> None:
    """Serve the page until its button or a signal ends it. Raises UserError without a port."""
    try:
        server = build()
    except OSError as error:
        rule = f"cannot be listened at ({error.strerror})"
        raise UserError("--port", own.port, rule, "leave it out for a free one") from error
    with server, _until_a_signal():
        print(f"open {server.url} (Ctrl-C ends it; each answer is saved at once)", flush=True)
        if not own.no_browser and sys.stdout.isatty():
            webbrowser.open(server.url)
        server.serve_forever(poll_interval=0.1)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the table against a second page. Raises UserError where one is open."""
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        rule = "is being labeled already, on another page"
        raise UserError("FILE", file, rule, "end that one first") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


@contextlib.contextmanager
def _until_a_signal() -> Iterator[None]:
    """Ctrl-C, or SIGTERM, ends the block; also where a shell's background job ignores Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "Label images on a page of this machine, by keys: those of a table that queue wrote, one "
        "by one or in a grid, or those of a run on which its models differ, are unsure or wrong, "
        "with what both call them. Each answer is in the table at once. Of a RUN, --KEY VALUE "
        "changes device or data.root.",
        "labels.csv --images images --classes cat dog",
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE|RUN",
        help="table with the columns path, label; or directory of train",
    )
    parser.add_argument(
        "--output", type=Path, help="of a RUN: table of the answers, FILE.csv; it may be there"
    )
    parser.add_argument("--each", type=int, default=24, help="of a RUN: images of each kind (24)")
    parser.add_argument(
        "--images", type=Path, help="folder that its paths lie in (default: that of the table)"
    )
    parser.add_argument(
        "--classes", nargs="+", default=[], help="names of classes; more can be added on the page"
    )
    parser.add_argument(
        "--audit", action="store_true", help="of queue --audit: with a key for `?`, cannot tell"
    )
    parser.add_argument("--port", type=int, default=0, help="to listen at (default: a free one)")
    parser.add_argument("--no_browser", action="store_true", help="open no browser")
    return parser
