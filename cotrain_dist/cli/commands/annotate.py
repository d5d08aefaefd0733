"""`cotrain-dist annotate FILE.csv`: a page on this machine where a person labels images."""

import contextlib
import signal
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from cotrain_dist.cli.arguments import Arguments
from cotrain_dist.config import DataConfig
from cotrain_dist.errors import UserError

USAGE = "annotate FILE.csv [--images FOLDER] [--classes NAME ...] [--audit] ..."


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. It ends by the page's button or Ctrl-C."""
    own = _parser().parse_args(arguments)
    if not 0 <= own.port <= 65535:
        raise UserError("--port", own.port, "must lie between 0 and 65535", "0 takes a free one")
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
        try:
            server = Annotator(answers, folder, own.classes, own.port, is_audit=own.audit)
        except OSError as error:
            rule = f"cannot be listened at ({error.strerror})"
            raise UserError("--port", own.port, rule, "leave it out for a free one") from error
        with server, _until_a_signal():
            print(f"open {server.url} (Ctrl-C ends it; each answer is saved at once)", flush=True)
            if not own.no_browser and sys.stdout.isatty():
                webbrowser.open(server.url)
            server.serve_forever(poll_interval=0.1)
    num = sum(map(bool, answers.labels))
    print(f"{own.file}: {num} of {len(answers.labels)} images are answered")
    return 0


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
        "cotrain-dist annotate",
        "Label the images of a table that queue wrote, on a page of this machine: by keys, one by "
        "one or in a grid. Each answer is written into the column `label` of the table at once.",
        "labels.csv --images images --classes cat dog",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="table with the columns path, label"
    )
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
