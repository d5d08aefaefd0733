"""`cotrain-dist submit`: check settings, data and plan, then hand the training to SLURM."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments
from cotrain_dist.config import Config
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import UserError
from cotrain_dist.printable import printable

USAGE = "submit [--nodes N] [--gpus-per-node N] [--time T] [--dry-run] ..."
PROG = "cotrain-dist submit"
SCRIPT = Path("launch", "slurm", "train.sbatch")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    own, settings = _options().parse_with_settings(arguments)
    num_ranks_per_node = own.ranks_per_node
    if num_ranks_per_node is None:
        num_ranks_per_node = own.gpus_per_node or 1
    for option, number, least in (
        ("--nodes", own.nodes, 1),
        ("--gpus-per-node", own.gpus_per_node, 0),
        ("--ranks-per-node", num_ranks_per_node, 1),
        ("--cpus-per-task", 1 if own.cpus_per_task is None else own.cpus_per_task, 1),
    ):
        if number < least:
            raise UserError(option, number, f"must be at least {least}", "see --help")
    config = parse_config(settings, PROG)
    if Path(config.output_dir).exists():
        raise UserError(
            "output_dir",
            config.output_dir,
            "exists already and is never written over",
            "name another directory, or delete it",
        )
    check_early(config)
    _check(config, own, num_ranks_per_node)
    command = _command(config, own)
    # A batch shell may find another Python than the one that has checked the settings.
    environ = {"COTRAIN_PYTHON": sys.executable, "COTRAIN_RANKS_PER_NODE": str(num_ranks_per_node)}
    if config.precision in {"bf16", "fp16"}:
        # accelerate launch always names a precision, and one that is not the setting is refused.
        environ["COTRAIN_MIXED_PRECISION"] = config.precision
    shown = " ".join([*(f"{key}={value}" for key, value in environ.items()), shlex.join(command)])
    print(printable(f"settings: {_settings_file(config)}"), printable(shown), sep="\n")
    if own.dry_run:
        return 0
    if shutil.which("sbatch") is None:
        raise UserError("submit", "sbatch", "is not found on this machine", "use --dry-run here")
    # Last, so that nothing is left behind where nothing was submitted.
    _write_settings(config)
    done = subprocess.run(command, env=os.environ | environ, check=False)
    return done.returncode


def _options() -> Arguments:
    parser = Arguments(
        PROG,
        "Check a training and submit it to SLURM. Takes train's keys too.",
        "--nodes 2 --gpus-per-node 4 --time 04:00:00 --config configs/own_images.yaml",
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes (default 1)")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="GPUs of each (default 0)")
    parser.add_argument(
        "--ranks-per-node", type=int, help="processes of each (default: its GPUs, or 1)"
    )
    parser.add_argument(
        "--cpus-per-task",
        type=int,
        help="CPUs of each node's launcher, for all its processes (default: the node's CPUs, or "
        "the share of its GPUs that is asked for)",
    )
    parser.add_argument("--time", default="24:00:00", help="limit, as sbatch takes it")
    parser.add_argument(
        "--sbatch", default="", help="further options of sbatch, such as '--partition long'"
    )
    parser.add_argument("--dry-run", action="store_true", help="show, submit nothing")
    return parser


def _check(config: Config, own: Namespace, num_ranks_per_node: int) -> None:
    """Raise UserError for what would fail in the queue; shows the plan."""
    from cotrain_dist.planning.plan import plan_world
    from cotrain_dist.planning.tables import plan_tables
    from cotrain_dist.runtime.progress import build_console

    device = "gpu" if own.gpus_per_node else "cpu"
    plan = plan_world(config, own.nodes * num_ranks_per_node, own.nodes, device)
    console = build_console()
    for part in plan_tables(plan):
        console.print(part)


def _settings_file(config: Config) -> Path:
    """The settings as they are now: editing a file later changes no job that waits."""
    output = Path(config.output_dir)
    return output.with_name(f"{output.name}.yaml")


def _write_settings(config: Config) -> None:
    file, text = _settings_file(config), config_to_yaml(config)
    # A job that waits in the queue reads this file when it starts.
    if file.exists() and file.read_text() != text:
        raise UserError(
            "output_dir", file, "was submitted with other settings", "name another output_dir"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _command(config: Config, own: Namespace) -> list[str]:
    options = ["--nodes", str(own.nodes), "--time", own.time, "--job-name", _job_name(config)]
    if own.gpus_per_node:
        options += ["--gpus-per-node", str(own.gpus_per_node)]
    num_cpus = own.cpus_per_task or _share_of_cpus(own.gpus_per_node)
    if num_cpus is not None:
        options += ["--cpus-per-task", str(num_cpus)]
    options += shlex.split(own.sbatch)  # last: sbatch takes the last word on an option
    settings = ["--config", str(_settings_file(config))]
    return ["sbatch", *options, str(_script()), config.output_dir, *settings]


def _share_of_cpus(num_gpus: int) -> int | None:
    """CPUs of a node, or of those GPUs of it; of the smallest node. None where SLURM is not there.

    Without a number SLURM gives a launcher one CPU, and all processes of a node share it.
    """
    if shutil.which("sinfo") is None:
        return None
    words = ["sinfo", "--noheader", "--Node", "--format=%c %G"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:  # sbatch will say what is wrong
        return None
    shares = []
    for cpus, resources in (line.split(maxsplit=1) for line in done.stdout.splitlines()):
        # Such as gpu:h100:8(S:0-1),shard:16
        found = re.search(r"\bgpu:(?:[^:,()]+:)?(\d+)", resources)
        num_there = int(found[1]) if found else 0
        if num_there >= num_gpus:
            shares.append(int(cpus) * num_gpus // num_there if num_gpus else int(cpus))
    return max(min(shares), 1) if shares else None


def _job_name(config: Config) -> str:
    return f"cotrain-{Path(config.output_dir).name}"


def _script() -> Path:
    """The batch script: of this checkout, or as installed."""
    places = (Path(__file__).parents[3], Path(sysconfig.get_path("data"), "share", "cotrain_dist"))
    for place in places:
        if (place / SCRIPT).is_file():
            return place / SCRIPT
    raise AssertionError(f"{SCRIPT} is in none of {places}")
