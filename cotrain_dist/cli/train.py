"""`cotrain-dist train`: parse, then train or resume."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cotrain_dist.cli.parsing import config_from_yaml, config_to_yaml, parse_config
from cotrain_dist.config import Config
from cotrain_dist.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    resume, rest = _take_resume(list(arguments))
    config = parse_config(rest, "cotrain-dist train") if resume is None else _resumed(resume, rest)
    # Imported late: torch takes seconds that a mistyped key should not cost.
    from cotrain_dist.training.train import train

    train(config, config_to_yaml(config), resume=resume is not None)
    return 0


def _take_resume(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take `--resume RUN` out of the arguments."""
    rest, found = [], []
    while arguments:
        word = arguments.pop(0)
        if word == "--resume":
            found.append(arguments.pop(0) if arguments else "")
        elif word.startswith("--resume="):
            found.append(word.removeprefix("--resume="))
        else:
            rest.append(word)
    if len(found) > 1 or "" in found:
        raise UserError(
            "--resume", " ".join(found), "takes one run directory", "give --resume RUN once"
        )
    return (Path(found[0]) if found else None), rest


def _resumed(run: Path, arguments: list[str]) -> Config:
    """The settings of a run, with what a resume may change. Raises UserError for the rest."""
    from cotrain_dist.training.train import flatten, is_free_on_resume

    saved_file = run / "config.yaml"
    if not saved_file.is_file():
        raise UserError(
            "--resume", run, "is no run directory", "name the output_dir of an earlier train"
        )
    if any(word.split("=")[0] == "--config" for word in arguments):
        raise UserError(
            "--config", "", "does not go with --resume", f"the run keeps its own in {saved_file}"
        )
    saved = config_from_yaml(saved_file.read_text(), str(saved_file))
    config = parse_config(["--config", str(saved_file), *arguments], "cotrain-dist train")
    before, after = flatten(asdict(saved)), flatten(asdict(config))
    for key, value in after.items():
        if value != before[key] and not is_free_on_resume(key):
            raise UserError(
                key,
                value,
                f"cannot change on a resume, the run has {before[key]}",
                "start a new run, maybe with data.groups_from and model_a.init_from this one",
            )
    return replace(config, output_dir=str(run))
