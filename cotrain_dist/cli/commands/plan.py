"""`cotrain-dist plan`: who would do what in a world of any size, without starting it."""

from collections.abc import Sequence

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.errors import UserError

USAGE = "plan [--num_ranks N] [--num_nodes N] [--measure] [--config FILE] ..."
PROG = "cotrain-dist plan"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = Arguments(
        PROG,
        "Show ranks, shards, steps, bytes and memory. Takes train's keys too.",
        "--num_ranks 8 --data.root images --measure",
    )
    parser.add_argument("--num_ranks", type=int, default=1, help="processes in all (default 1)")
    parser.add_argument("--num_nodes", type=int, default=1, help="nodes they are spread over")
    parser.add_argument("--measure", action="store_true", help="time a few steps on this machine")
    own, settings = parser.parse_with_settings(arguments)
    for name in ("num_ranks", "num_nodes"):
        if getattr(own, name) < 1:
            raise UserError(f"--{name}", getattr(own, name), "must be at least 1", "try 1")
    if own.num_ranks % own.num_nodes:
        raise UserError(
            "--num_ranks",
            own.num_ranks,
            f"must be a multiple of --num_nodes, {own.num_nodes}",
            "give each node as many ranks as it has GPUs",
        )
    config = parse_config(settings, PROG)
    check_early(config)
    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    import torch

    from cotrain_dist.planning.plan import plan_world
    from cotrain_dist.planning.tables import plan_tables
    from cotrain_dist.runtime.progress import build_console

    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = "gpu" if on_gpu else "cpu"
    plan = plan_world(config, own.num_ranks, own.num_nodes, device, measure=own.measure)
    console = build_console()
    for part in plan_tables(plan):
        console.print(part)
    return 0
