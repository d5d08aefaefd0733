"""`cotrain-dist report RUN...`: one HTML file that shows what became of runs."""

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config import Config
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.places import check_output_early, check_output_file
from cotrain_dist.errors import UserError

USAGE = "report RUN [RUN ...] --output FILE.html [--images N]"
PROG = "cotrain-dist report"
ENDINGS = (".html",)

MOST_IMAGES = 100
"""Of each of five kinds: up to 8 kB each, and the scripts of the charts take 0.9 MB."""


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    own, configs = checked(arguments)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.seen import look_at
    from cotrain_dist.reporting.page import page_of
    from cotrain_dist.reporting.story import has_models, story_of
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.runtime.collectives import together
    from cotrain_dist.runtime.progress import build_console
    from cotrain_dist.store.atomic import write_text

    with start_runtime(configs[0]) as rt:
        check = partial(check_output_file, own.output, ENDINGS, replaces=True)
        together(lambda: check() if rt.is_lead else None, rt.control)
        pairs = list(zip(own.runs, configs, strict=True))
        stories = together(lambda: [story_of(*pair) for pair in pairs], rt.control)
        can_look = len(stories) == 1 and together(lambda: has_models(own.runs[0]), rt.control)
        seen = look_at(configs[0], own.images, rt) if can_look else None
        if not rt.is_lead:
            return 0
        write_text(own.output, page_of(stories, seen))
        build_console().print(f"{own.output}: open it in a browser")
    return 0


def checked(arguments: Sequence[str]) -> tuple[Namespace, list[Config]]:
    """The options and each run's settings. Raises UserError for what would end the command."""
    own, settings = _parser().parse_with_settings(arguments)
    if own.images < 0:
        raise UserError("--images", own.images, "must not be negative", "0 shows no images")
    if own.images > MOST_IMAGES:
        rule = f"would make a page of more than 5 MB; {MOST_IMAGES} is the most"
        raise UserError("--images", own.images, rule, "annotate RUN --each N shows any number")
    if len({path.resolve() for path in own.runs}) < len(own.runs):
        raise UserError("RUN", own.runs[-1], "is named twice", "name each run once")
    # Of each: a run that is none is to be told before the models of another are asked.
    configs = [config_of_run(path, settings, PROG) for path in own.runs]
    check_output_early(own.output, ENDINGS, replaces=True)
    return own, configs


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "Write one HTML file about a run, or about several side by side: what the shipped model is "
        "worth, its curves, what became of the images without labels, time, confused classes and, "
        "for one run, the images on which both models differ or are unsure. It needs no server and "
        "no network. --KEY VALUE changes device or data.root.",
        "runs/1 --output report.html",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directories of train")
    parser.add_argument("--output", type=Path, required=True, help="file ending in .html")
    parser.add_argument(
        "--images", type=int, default=24, help="images of each kind, of one run (24); 0 shows none"
    )
    return parser
