"""`cotrain-dist calibrate`: the labeled fraction at which pre-trained models reach an accuracy."""

from collections.abc import Sequence

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.errors import EXIT_FAILED
from cotrain_dist.method.calibration import Goal, check_goal
from cotrain_dist.study.checks import check_settings, with_test

USAGE = "calibrate [--target_accuracy 0.5] [--config FILE] ..."
PROG = "cotrain-dist calibrate"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    parser = Arguments(
        PROG,
        "Find the labeled fraction at which pre-trained models reach an accuracy on T; trials are "
        "kept. Takes train's keys too.",
        "--config configs/digits.yaml --target_accuracy 0.5 --output_dir runs/calibration",
    )
    parser.add_argument(
        "--target_accuracy", type=float, default=0.5, help="mean of A and B (default 0.5)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="end once a trial is so near (default 0.02)"
    )
    parser.add_argument("--draws", type=int, default=2, help="draws per trial (default 2)")
    parser.add_argument("--max_trials", type=int, default=8, help="fractions tried (default 8)")
    own, settings = parser.parse_with_settings(arguments)
    goal = Goal(own.target_accuracy, own.tolerance, own.draws, own.max_trials)
    check_goal(goal)
    config = parse_config(settings, PROG)
    check_settings(with_test(config))
    check_early(config)
    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.runtime.stop import end_on_signal
    from cotrain_dist.study.calibrate import calibrate
    from cotrain_dist.training.setup import start_world

    end_on_signal()
    with start_world(config) as rt:
        is_reached = calibrate(config, goal, rt)
    return 0 if is_reached else EXIT_FAILED
