"""`cotrain-dist train`: parse, then train, resume, or begin with an earlier run."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cotrain_dist.cli.arguments import before_torch
from cotrain_dist.cli.supervisor import check_outside, launch_processes, supervise
from cotrain_dist.config import Config
from cotrain_dist.config.of_run import (
    changes_between,
    config_of_recycled,
    config_of_run,
    refuse_changes,
)
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.errors import UserError

USAGE = "train [--config FILE] [--KEY VALUE ...] [--resume RUN|auto] [--recycle RUN]"
PROG = "cotrain-dist train"

OWN_OPTIONS = {
    "--resume": ("run directory", "RUN"),
    "--recycle": ("run directory", "RUN"),
    "--extra_labels": ("file", "FILE"),
    "--max_restarts": ("number", "N"),
    "--num_processes": ("number", "N"),
}
"""What each of them takes, and how that is called."""

FLAGS = ("--allow_config_change",)

AUTO = "auto"
"""`--resume auto`: go on where an unfinished run lies in `output_dir`, else begin one."""


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    own, rest = _take(list(arguments))
    allowed, given = "--allow_config_change" in own, own.get("--resume")
    if allowed and given is None:
        rule = "there is no run whose settings could change"
        raise UserError("--allow_config_change", "", rule, "give it with --resume")
    max_restarts, num_processes = _number(own, "--max_restarts"), _number(own, "--num_processes")
    config = _config(own, rest, allowed)
    if given is None:
        check_early(config, is_new_run=True)
    if max_restarts is not None:
        check_outside(os.environ)
        launch = partial(launch_processes, num_processes or 1, _mixed_precision(config))
        words = _without(arguments, ("--max_restarts", "--num_processes"))
        return supervise(launch, words, Path(config.output_dir), max_restarts)
    if num_processes is not None:
        rule, way_out = "goes with --max_restarts alone", "use accelerate launch otherwise"
        raise UserError("--num_processes", num_processes, rule, way_out)
    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.reporting.tables import show_outcome
    from cotrain_dist.runtime.stop import end_on_signal
    from cotrain_dist.training.train import train

    end_on_signal()
    resume = None if given == AUTO else given is not None
    show_outcome(train(config, resume=resume, allow_config_change=allowed))
    return 0


def _config(own: dict[str, str], rest: list[str], allowed: bool) -> Config:
    """The settings that the options amount to."""
    if "--resume" in own:
        for name in ("--recycle", "--extra_labels"):
            if name in own:
                rule = "a run that goes on keeps its images and labels"
                raise UserError(name, own[name], rule, "give --recycle RUN without --resume")
        if own["--resume"] == AUTO:
            return _config_of_auto(rest, allowed)
        return config_of_run(Path(own["--resume"]), rest, PROG, allow_change=allowed)
    # A short name of a key: what `queue` asked for comes back with it.
    rest += ["--data.extra_labels", own["--extra_labels"]] if "--extra_labels" in own else []
    if "--recycle" in own:
        return config_of_recycled(Path(own["--recycle"]), rest, PROG)
    return parse_config(rest, PROG)


def _config_of_auto(rest: list[str], allowed: bool) -> Config:
    """The settings given; where a run lies in `output_dir`, those that it may go on with."""
    config = parse_config(rest, PROG)
    run = Path(config.output_dir)
    if not (run / "run.json").is_file():
        print(f"resume auto: no run in {run}, so a new one", file=sys.stderr)
        check_early(config, is_new_run=True)
        return config
    print(f"resume auto: {run} goes on, unless it is finished", file=sys.stderr)
    saved = config_of_run(run, [], PROG)
    refuse_changes(changes_between(saved, config), allow_change=allowed)
    return replace(config, output_dir=str(run))


def _mixed_precision(config: Config) -> str:
    """What `accelerate launch` calls it."""
    return config.precision if config.precision in ("bf16", "fp16") else "no"


def _number(own: dict[str, str], name: str) -> int | None:
    if name not in own:
        return None
    value, least = own[name], 0 if name == "--max_restarts" else 1
    if not value.isdecimal() or int(value) < least:
        raise UserError(name, value, f"must be a whole number, {least} or more", "try 3")
    return int(value)


def _take(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take the options of this command, such as `--resume RUN`, out of the arguments."""
    rest: list[str] = []
    found: dict[str, str] = {}
    while arguments:
        word = arguments.pop(0)
        name, equals, value = _name_of(word)
        if name in FLAGS and not equals:
            found[name] = ""
            continue
        if name not in OWN_OPTIONS:
            rest.append(word)
            continue
        if not equals:
            value = arguments.pop(0) if arguments else ""
        if name in found or not value:
            what, short = OWN_OPTIONS[name]
            given = f"{found.get(name, '')} {value}".strip()
            raise UserError(name, given, f"takes one {what}", f"give {name} {short} once")
        found[name] = value
    return found, rest


def _name_of(word: str) -> tuple[str, str, str]:
    """An option's name, with underscores; the sign after it and its value, where they are there."""
    name, equals, value = word.partition("=")
    if name.startswith("--"):
        name = f"--{name.removeprefix('--').replace('-', '_')}"
    return name, equals, value


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without some options and their values."""
    left, words = [], list(arguments)
    while words:
        word = words.pop(0)
        name, equals, _ = _name_of(word)
        if name not in names:
            left.append(word)
        elif not equals:
            words.pop(0)
    return left
