"""`cotrain-dist reproduce`: the paper's conditions and baselines, with a verdict."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config import Config
from cotrain_dist.config.parsing import LARGEST_WHOLE, config_from_yaml, parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.errors import UserError
from cotrain_dist.study.arms import ALIASES, BY_NAME, CEILING, VOTE
from cotrain_dist.study.checks import check_label_study, check_settings, check_starts, with_test

USAGE = "reproduce [--seeds N ...] [--arms NAME ...] [--config FILE] ..."
PROG = "cotrain-dist reproduce"
LISTS = ("seeds", "arms", "labels_by", "num_labels")
"""Options of several values, as keys of what `checked` returns."""


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    own, config = checked(arguments)
    arms = [ALIASES.get(name, name) for name in own.arms or ()]
    seeds = own.seeds or [config.seed]
    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.runtime.stop import end_on_signal
    from cotrain_dist.study.labels_by import LabelStudy, study_labels
    from cotrain_dist.study.parts import SETTINGS_FILE
    from cotrain_dist.study.reproduce import report_on, reproduce
    from cotrain_dist.training.setup import start_world

    if own.report_only:
        settings_file = Path(config.output_dir) / SETTINGS_FILE
        if settings_file.is_file():  # the study's own, whatever else was given
            begun = config_from_yaml(settings_file.read_text(), str(settings_file))
            config = replace(begun, output_dir=config.output_dir)
        report_on(config)
        return 0
    end_on_signal()
    with start_world(config) as rt:
        if own.labels_by:
            nums = sorted(set(own.num_labels))
            study = LabelStudy(own.labels_by, nums, seeds, arms or [VOTE, CEILING])
            study_labels(config, study, rt)
        else:
            reproduce(config, seeds, arms or list(BY_NAME), rt)
    return 0


def checked(arguments: Sequence[str]) -> tuple[Namespace, Config]:
    """The options and settings. Raises UserError for what no study can be made of."""
    own, settings = _parser().parse_with_settings(arguments)
    config = parse_config(settings, PROG)
    _check(own, config, own.seeds or [config.seed])
    return own, config


def _check(own: Namespace, config: Config, seeds: Sequence[int]) -> None:
    """Raise UserError for what no study can be made of."""
    if min(seeds) < 0 or max(seeds) > LARGEST_WHOLE or len(set(seeds)) < len(seeds):
        raise UserError(
            "--seeds", seeds, "must be different whole numbers, not negative", "try 0 1 2"
        )
    for name in own.arms or ():
        if name not in BY_NAME and name not in ALIASES:
            names = ", ".join([*BY_NAME, *ALIASES])
            raise UserError("--arms", name, "is no arm", f"choose from {names}")
    if own.labels_by or own.num_labels:
        check_label_study(vars(own))
    if own.report_only:
        return
    if own.labels_by:
        check_starts(config)
    check_settings(with_test(config))
    check_early(config)


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "Run all conditions from the same splits and models; what has finished is kept. "
        "Takes train's keys too.",
        "--config configs/digits_study.yaml --arms vote synergy --seeds 0 1 --output_dir runs/s",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds (default: that of --seed)")
    parser.add_argument("--arms", nargs="+", help="conditions and baselines (default: all)")
    parser.add_argument("--labels_by", nargs="+", help="ways to choose labels (docs/studies.md)")
    parser.add_argument("--num_labels", type=int, nargs="+", help="how many, for --labels_by")
    parser.add_argument("--report_only", action="store_true", help="write the report, run nothing")
    return parser
