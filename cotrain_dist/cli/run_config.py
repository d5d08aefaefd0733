"""The settings of an existing run, with what a later command may change."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cotrain_dist.cli.parsing import config_from_yaml, parse_config
from cotrain_dist.config import Config
from cotrain_dist.config.digest import flatten, is_free_on_resume
from cotrain_dist.errors import UserError


def config_of_run(run: Path, arguments: Sequence[str], command: str) -> Config:
    """The settings that the run keeps, changed by `--KEY VALUE` arguments where that is allowed.

    `output_dir` becomes `run`, wherever it lies now. Raises UserError for keys that a result
    depends on.
    """
    saved_file = run / "config.yaml"
    if not saved_file.is_file():
        raise UserError("RUN", run, "is no run directory", "name the output_dir of a train")
    if any(word.split("=")[0] == "--config" for word in arguments):
        raise UserError(
            "--config", "", "does not go with a run", f"the run keeps its own in {saved_file}"
        )
    saved = config_from_yaml(saved_file.read_text(), str(saved_file))
    config = parse_config(["--config", str(saved_file), *arguments], command)
    before, after = flatten(asdict(saved)), flatten(asdict(config))
    for key, value in after.items():
        if value != before[key] and not is_free_on_resume(key):
            raise UserError(
                key,
                value,
                f"cannot change in an existing run, which has {before[key]}",
                "start a new run, maybe with data.groups_from and model_a.init_from this one",
            )
    return replace(config, output_dir=str(run))
