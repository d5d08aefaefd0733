"""`cotrain-dist train`: parse, then train, resume, or begin with an earlier run."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cotrain_dist.cli.arguments import before_torch
from cotrain_dist.cli.supervisor import (
    RELEASED_AFTER,
    check_outside,
    launch_processes,
    supervise,
)
from cotrain_dist.config import Config
from cotrain_dist.config.of_run import Found, config_of_newest, config_of_recycled, config_of_run
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.errors import UserError

if TYPE_CHECKING:
    from cotrain_dist.store.records import Record

USAGE = """train [--config FILE] [--KEY VALUE ...] [--resume RUN|auto] [--recycle RUN]
             [--time 30m] [--allow-config-change] [--max-restarts N [--num-processes N]]"""
PROG = "cotrain-dist train"

OWN_OPTIONS = {
    "--resume": ("run directory", "RUN"),
    "--recycle": ("run directory", "RUN"),
    "--extra_labels": ("file", "FILE"),
    "--time": ("time", "30m"),
    "--max_restarts": ("number", "N"),
    "--num_processes": ("number", "N"),
}
"""What each takes, in words and in short."""

FLAGS = ("--allow_config_change",)
"""Those that take nothing."""


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    own, rest = _take(list(arguments))
    seconds = _seconds(own)
    limits = {name: _number(own, name) for name in ("--max_restarts", "--num_processes")}
    found = _found(own, rest)
    if not found.is_run:
        check_early(found.config, is_new_run=True)
    if limits["--max_restarts"] is not None:
        words = _without(arguments, list(limits))
        return _supervised(found, words, limits["--max_restarts"], limits["--num_processes"] or 1)
    if own.get("--resume") == "auto":
        _tell(found)
        if found.is_finished:
            return 0
    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.reporting.tables import show_outcome
    from cotrain_dist.runtime.stop import end_on_signal
    from cotrain_dist.training.train import train

    end_on_signal()
    if seconds is not None:
        show_outcome(_train_within(seconds, own["--time"], found.config))
        return 0
    show_outcome(
        train(
            found.config,
            resume=found.is_run,
            allow_config_change="--allow_config_change" in own,
        )
    )
    return 0


def _train_within(seconds: float, given: str, config: Config) -> "list[Record]":
    """`--time`: image size and epochs are chosen from steps that are measured first."""
    from cotrain_dist.planning.budget import fit_to
    from cotrain_dist.runtime.deadline import deadline_in, ends_in_time
    from cotrain_dist.training.train import train

    deadline = deadline_in(seconds)
    with ends_in_time(deadline, f"--time {given}"):
        return train(config, resume=False, fit=fit_to(deadline, given))


UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def _seconds(own: dict[str, str]) -> float | None:
    """The seconds of `--time`; None without it.

    >>> _seconds({"--time": "1h30m"}), _seconds({})
    (5400.0, None)
    """
    if "--time" not in own:
        return None
    for name in ("--resume", "--max_restarts"):
        if name in own:
            rule = "begins a run that fits into the time, so it goes neither on nor begins anew"
            raise UserError("--time", own["--time"], rule, f"leave out {name.replace('_', '-')}")
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", own["--time"])
    seconds = sum(
        int(number) * UNITS[unit]
        for unit, number in zip(UNITS, parts.groups() if parts else (), strict=False)
        if number
    )
    if seconds < 1:
        rule = "must be hours, minutes or seconds with their unit"
        raise UserError("--time", own["--time"], rule, "try 30m, 90s or 1h30m")
    return seconds


def _supervised(found: Found, words: Sequence[str], max_restarts: int, num_processes: int) -> int:
    """`--max-restarts`: this process starts those that train, anew where one was lost."""
    check_outside(os.environ)
    config = found.config
    run = Path(config.output_dir)
    # A run that was begun here has these settings; one that goes on may have been given others.
    again = words if found.is_run else ["--resume", str(run)]
    launch = partial(launch_processes, num_processes, precision=config.precision)
    limit = RELEASED_AFTER * config.distributed.lost_after_seconds
    return supervise(launch, (words, again), run, max_restarts, limit_seconds=limit)


def _number(own: dict[str, str], name: str) -> int | None:
    """The whole number that an option gives; None without it."""
    if name not in own:
        return None
    least = 0 if name == "--max_restarts" else 1
    if not own[name].isdecimal() or int(own[name]) < least:
        raise UserError(name, own[name], f"must be a whole number, {least} or more", "try 3")
    if "--max_restarts" not in own:
        rule = "belongs to --max-restarts, which starts the processes"
        raise UserError(name, own[name], rule, "give both, or start with accelerate launch")
    return int(own[name])


def _found(own: dict[str, str], rest: list[str]) -> Found:
    """The settings that the options amount to, and whether a run goes on with them."""
    allowed = "--allow_config_change" in own
    if "--resume" in own:
        for name in ("--recycle", "--extra_labels"):
            if name in own:
                rule = "a run that goes on keeps its images and labels"
                raise UserError(name, own[name], rule, "give --recycle RUN without --resume")
        if own["--resume"] == "auto":
            return config_of_newest(rest, PROG, allow_change=allowed)
        config = config_of_run(Path(own["--resume"]), rest, PROG, allow_change=allowed)
        return Found(config, is_run=True)
    if allowed:
        rule = "without --resume there is no run whose settings could change"
        raise UserError("--allow_config_change", "(given)", rule, "give --resume RUN, or leave it")
    # A short name of a key: what `queue` asked for comes back with it.
    rest += ["--data.extra_labels", own["--extra_labels"]] if "--extra_labels" in own else []
    if "--recycle" in own:
        return Found(config_of_recycled(Path(own["--recycle"]), rest, PROG), is_run=False)
    return Found(parse_config(rest, PROG), is_run=False)


def _tell(found: Found) -> None:
    """On the lead rank: which run `--resume auto` has taken."""
    if os.environ.get("RANK", "0") != "0":
        return
    place = found.config.output_dir
    if found.is_finished:
        print(f"resume auto: {place} is finished; nothing to do")
    elif found.is_run:
        print(f"resume auto: going on with {place}")
    else:
        print(f"resume auto: no unfinished run in {place}; a new one begins there")


def _take(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take the options of this command, such as `--resume RUN`, out of the arguments.

    >>> _take(["--seed", "1", "--resume=runs/one", "--allow-config-change"])
    ({'--resume': 'runs/one', '--allow_config_change': ''}, ['--seed', '1'])
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    while arguments:
        word = arguments.pop(0)
        name, equals, value = split_option(word)
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


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without some options that take a value.

    >>> _without(["--max-restarts", "3", "--seed", "1"], ["--max_restarts"])
    ['--seed', '1']
    """
    left, words = [], list(arguments)
    while words:
        word = words.pop(0)
        name, equals, _ = split_option(word)
        if name not in names:
            left.append(word)
        elif not equals:
            words.pop(0)
    return left


def split_option(word: str) -> tuple[str, str, str]:
    """An option's name, the sign behind it and its value; --two-words is --two_words.

    >>> split_option("--max-restarts=3"), split_option("-1")
    (('--max_restarts', '=', '3'), ('-1', '', ''))
    """
    name, equals, value = word.partition("=")
    if name.startswith("--"):
        name = f"--{name.removeprefix('--').replace('-', '_')}"
    return name, equals, value
