"""`cotrain-dist train`: parse, then train, resume, or begin with an earlier run."""

from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import before_torch
from cotrain_dist.config import Config
from cotrain_dist.config.of_run import config_of_recycled, config_of_run
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.config.places import check_early
from cotrain_dist.errors import UserError

USAGE = "train [--config FILE] [--KEY VALUE ...] [--resume RUN] [--recycle RUN]"
PROG = "cotrain-dist train"

OWN_OPTIONS = ("--resume", "--recycle", "--extra_labels")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    own, rest = _take(list(arguments))
    config = _config(own, rest)
    if "--resume" not in own:
        check_early(config, is_new_run=True)
    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.reporting.tables import show_outcome
    from cotrain_dist.runtime.stop import end_on_signal
    from cotrain_dist.training.train import train

    end_on_signal()
    show_outcome(train(config, resume="--resume" in own))
    return 0


def _config(own: dict[str, str], rest: list[str]) -> Config:
    """The settings that the options amount to."""
    if "--resume" in own:
        for name in ("--recycle", "--extra_labels"):
            if name in own:
                rule = "a run that goes on keeps its images and labels"
                raise UserError(name, own[name], rule, "give --recycle RUN without --resume")
        return config_of_run(Path(own["--resume"]), rest, PROG)
    # A short name of a key: what `queue` asked for comes back with it.
    rest += ["--data.extra_labels", own["--extra_labels"]] if "--extra_labels" in own else []
    if "--recycle" in own:
        return config_of_recycled(Path(own["--recycle"]), rest, PROG)
    return parse_config(rest, PROG)


def _take(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take `--resume RUN`, `--recycle RUN` and `--extra-labels FILE` out of the arguments."""
    rest: list[str] = []
    found: dict[str, str] = {}
    while arguments:
        word = arguments.pop(0)
        name, equals, value = word.partition("=")
        name = name.replace("-labels", "_labels")
        if name not in OWN_OPTIONS:
            rest.append(word)
            continue
        if not equals:
            value = arguments.pop(0) if arguments else ""
        if name in found or not value:
            what, word = ("file", "FILE") if name == "--extra_labels" else ("run directory", "RUN")
            given = f"{found.get(name, '')} {value}".strip()
            raise UserError(name, given, f"takes one {what}", f"give {name} {word} once")
        found[name] = value
    return found, rest
