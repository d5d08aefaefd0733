"""`cotrain-dist submit`: check settings, data and plan, then hand the command to SLURM."""

import os
import shlex
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments
from cotrain_dist.cli.commands import labels, report, reproduce
from cotrain_dist.cli.jobs import Job, settings_file_of
from cotrain_dist.config import Config
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import UserError
from cotrain_dist.printable import printable
from cotrain_dist.study.checks import with_test

USAGE = "submit [train|reproduce|labels|report] [--nodes N] [--gpus-per-node N] [--dry-run] ..."
PROG = "cotrain-dist submit"
TRAIN, REPRODUCE, LABELS, REPORT = COMMANDS = ("train", "reproduce", "labels", "report")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    name, words = _named(arguments)
    own, rest = _own_options(name, words)
    job = _job(name, own, rest)
    command, environ = job.command(own), job.variables
    shown = " ".join([*(f"{key}={value}" for key, value in environ.items()), shlex.join(command)])
    if job.settings is not None:
        print(printable(f"settings: {job.settings_file}"))
    print(printable(shown))
    if own.dry_run:
        return 0
    if shutil.which("sbatch") is None:
        raise UserError("submit", "sbatch", "is not found on this machine", "use --dry-run here")
    # Last, so that nothing is left behind where nothing was submitted.
    _write_settings(job)
    done = subprocess.run(command, env=os.environ | environ, check=False)
    return done.returncode


def _named(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command to submit, `train` unless the first word names one; and the other words."""
    if not arguments or arguments[0].startswith("-"):
        return TRAIN, list(arguments)
    name, *words = arguments
    if name not in COMMANDS:
        rule = "is no command that can be submitted"
        raise UserError("submit", name, rule, f"choose from {', '.join(COMMANDS)}")
    return name, words


def _own_options(name: str, words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """The options of `submit`, checked, and the words that are the command's."""
    parser = _options()
    own, rest = parser.parse_with_settings(words) if name == TRAIN else parser.parse_known(words)
    for option, number, least in (
        ("--nodes", own.nodes, 1),
        ("--gpus-per-node", own.gpus_per_node, 0),
        ("--ranks-per-node", 1 if own.ranks_per_node is None else own.ranks_per_node, 1),
        ("--cpus-per-task", 1 if own.cpus_per_task is None else own.cpus_per_task, 1),
    ):
        if number < least:
            raise UserError(option, number, f"must be at least {least}", "see --help")
    if name in (LABELS, REPORT):
        for option, number in (("--nodes", own.nodes), ("--ranks-per-node", own.ranks_per_node)):
            if (number or 1) > 1:
                raise UserError(option, number, f"{name} runs as one process", "leave it out")
    return own, rest


def _job(name: str, own: Namespace, words: list[str]) -> Job:
    """The job of a command, after the checks that the command would make."""
    match name:
        case "labels":
            return Job("command.sbatch", [name, *words], labels.checked(words)[0].output)
        case "report":
            return Job("command.sbatch", [name, *words], report.checked(words)[0].output)
        case "reproduce":
            return _job_of_study(own, words)
    config = parse_config(words, PROG)
    if Path(config.output_dir).exists():
        raise UserError(
            "output_dir",
            config.output_dir,
            "exists already and is never written over",
            "name another directory, or delete it",
        )
    check_early(config)
    _show_plan(config, own)
    return _job_of_ranks(config, own, [])


def _job_of_study(own: Namespace, words: list[str]) -> Job:
    """`reproduce`: as many processes as a training; a study that is there goes on."""
    study, config = reproduce.checked(words)
    if study.report_only:
        rule = "trains nothing, so it needs no job"
        raise UserError("--report_only", "(given)", rule, f"{reproduce.PROG} --report_only ...")
    if not study.labels_by:  # its arms begin with other splits than a training
        _show_plan(with_test(config), own)
    options = ((f"--{key}", getattr(study, key)) for key in reproduce.LISTS)
    behind = [word for key, values in options if values for word in (key, *map(str, values))]
    return _job_of_ranks(config, own, behind, {"COTRAIN_COMMAND": REPRODUCE})


def _job_of_ranks(
    config: Config, own: Namespace, words: list[str], environ: dict[str, str] | None = None
) -> Job:
    """A job of a launcher on each node; words: behind the settings."""
    environ = {"COTRAIN_RANKS_PER_NODE": str(_num_ranks_per_node(own)), **(environ or {})}
    if config.precision in {"bf16", "fp16"}:
        # accelerate launch always names a precision, and one that is not the setting is refused.
        environ["COTRAIN_MIXED_PRECISION"] = config.precision
    output = Path(config.output_dir)
    settings = ["--config", str(settings_file_of(output))]
    return Job("train.sbatch", [config.output_dir, *settings, *words], output, environ, config)


def _num_ranks_per_node(own: Namespace) -> int:
    num: int | None = own.ranks_per_node
    return (own.gpus_per_node or 1) if num is None else num


def _options() -> Arguments:
    parser = Arguments(
        PROG,
        "Check a training and submit it to SLURM. Takes train's keys too. Where the first word is "
        "reproduce, labels or report, that command is submitted, with its own options.",
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


def _show_plan(config: Config, own: Namespace) -> None:
    """Raise UserError for what would fail in the queue; shows the plan."""
    from cotrain_dist.planning.plan import plan_world
    from cotrain_dist.planning.tables import plan_tables
    from cotrain_dist.runtime.progress import build_console

    device = "gpu" if own.gpus_per_node else "cpu"
    plan = plan_world(config, own.nodes * _num_ranks_per_node(own), own.nodes, device)
    console = build_console()
    for part in plan_tables(plan):
        console.print(part)


def _write_settings(job: Job) -> None:
    if job.settings is None:
        return
    file, text = job.settings_file, config_to_yaml(job.settings)
    # A job that waits in the queue reads this file when it starts.
    if file.exists() and file.read_text() != text:
        raise UserError(
            "output_dir", file, "was submitted with other settings", "name another output_dir"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
