"""`cotrain-dist queue`: which images to label, before any training or for a run."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early, check_output_early, check_output_file
from cotrain_dist.errors import UserError
from cotrain_dist.method.strategies import STRATEGIES, WITHOUT_MODELS

USAGE = "queue [RUN] --size N|--audit N --output FILE.csv|FILE.json ..."
PROG = "cotrain-dist queue"
ENDINGS = (".csv", ".json")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    own, settings = _parser().parse_with_settings(arguments)
    if own.audit is not None:
        return _draw_audit(own, settings)
    if own.size < 1:
        raise UserError("--size", own.size, "must be at least 1", "50 is a good start")
    if not 0.0 <= own.near <= 2.0:
        raise UserError("--near", own.near, "must lie between 0 and 2", "0 leaves out equal files")
    if own.run is None:
        # Random weights would give features that say nothing.
        starts = {"model_a.pretrained": True, "model_b.pretrained": True}
        config = parse_config(settings, PROG, starts)
        check_early(config)
    else:
        config = config_of_run(own.run, settings, PROG)
    strategy = own.strategy or ("herding" if own.run is None else "herding_rounds")
    _check_strategy(strategy, own.run)
    check_output_early(own.output, ENDINGS, replaces=False)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.choose import Query
    from cotrain_dist.inference.queue import queue_of_folder, queue_of_run, write_queue
    from cotrain_dist.runtime.collectives import together
    from cotrain_dist.runtime.progress import build_console
    from cotrain_dist.training.setup import start_world

    query = Query(
        strategy,
        own.size,
        config.seed,
        own.near,
        is_grouped=own.run is not None if own.group is None else own.group == "true",
        with_votes=own.run is not None and own.output.suffix == ".json",
    )
    with start_world(config) as rt:
        check = partial(check_output_file, own.output, ENDINGS, replaces=False)
        together(lambda: check() if rt.is_lead else None, rt.control)
        work = queue_of_folder if own.run is None else queue_of_run
        asked = work(config, query, rt)
        if rt.is_lead:
            write_queue(asked, config, own.output)
            num_same = sum(map(len, asked.same.values()))
            like = f" (their answers serve {num_same} more that are alike)" if num_same else ""
            build_console().print(
                f"{len(asked.paths)} of {asked.num_candidates} images to label, most worth first"
                f"{like}: {own.output}"
            )
    return 0


def _draw_audit(own: argparse.Namespace, settings: list[str]) -> int:
    """`--audit N`: a uniform draw, so nothing else of the command has a say."""
    if own.audit < 1:
        raise UserError("--audit", own.audit, "must be at least 1", "59 is a good start")
    if own.run is None:
        rule = "images are audited for the labels of a run"
        raise UserError("--audit", own.audit, rule, "give RUN; --size lists images of a folder")
    if own.strategy is not None:
        rule = "an audit is drawn at random"
        raise UserError("--strategy", own.strategy, rule, "leave out one of the two")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        rule = "an audit is drawn by one process"
        raise UserError("--audit", own.audit, rule, "leave the launcher out")
    config = config_of_run(own.run, settings, PROG)
    check_output_file(own.output, (".csv",), replaces=False)
    before_torch()
    from cotrain_dist.inference.labels import draw_audit
    from cotrain_dist.runtime.progress import build_console

    asked = draw_audit(config, own.audit, own.output)
    build_console().print(
        f"{len(asked.paths)} of {asked.num_candidates} images of U, drawn at random for an audit; "
        f"answer all of them (? where nobody can tell): {own.output}"
    )
    return 0


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "List the images that are most worth a label: of a folder (--data.root) or a table "
        "(--data.table) before any training, or of a run's U. Takes train's keys too.",
        "--config configs/own_images.yaml --data.root images --size 60 --output labels.csv",
    )
    parser.add_argument("run", type=Path, nargs="?", help="directory that train wrote")
    parser.add_argument("--size", type=int, default=50, help="images to list (default 50)")
    parser.add_argument(
        "--audit",
        type=int,
        help="instead: so many images of a run's U drawn at random, for the promise of `labels`",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="FILE.csv, a table to write; or FILE.json, tasks of Label Studio",
    )
    parser.add_argument(
        "--strategy", help="default: herding; of a run herding_rounds (docs/results.md)"
    )
    parser.add_argument(
        "--near",
        type=float,
        default=0.2,
        help="distance of features (0..2) below which images count as one (default 0.2)",
    )
    parser.add_argument(
        "--group",
        choices=("true", "false"),
        help="whether one answer serves images that are alike (default: true with RUN)",
    )
    return parser


def _check_strategy(strategy: str, run: Path | None) -> None:
    if strategy not in STRATEGIES:
        names = ", ".join(STRATEGIES)
        raise UserError("--strategy", strategy, "is no strategy", f"choose from {names}")
    if run is None and strategy not in WITHOUT_MODELS:
        raise UserError(
            "--strategy",
            strategy,
            "asks what models say, and without a run there are none",
            f"give RUN, or choose from {', '.join(WITHOUT_MODELS)}",
        )
