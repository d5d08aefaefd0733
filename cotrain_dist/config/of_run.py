"""The settings of an existing run: to go on with it, or to begin another run with its models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cotrain_dist.config.parsing import (
    Given,
    build_tree,
    convert_all,
    parse_config,
    read_file,
    read_yaml,
    split_options,
)
from cotrain_dist.config.starts import read_start_folder
from cotrain_dist.config.text import config_to_yaml, flatten, is_free_on_resume, may_change
from cotrain_dist.config.tree import Config
from cotrain_dist.errors import UserError


@dataclass(frozen=True)
class Change:
    """A setting that is not what a run was made with."""

    key: str
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def config_of_run(
    run: Path, arguments: Sequence[str], command: str, *, allow_change: bool = False
) -> Config:
    """The settings that a run keeps, changed by `--KEY VALUE` arguments where that is allowed.

    `output_dir` becomes `run`, wherever it lies now. Raises UserError for keys that a result
    depends on; with allow_change only for those that the state of a run hangs on. Keys that were
    renamed since the run was made are read under their new names.
    """
    kept, options = _kept_and_options(run, arguments, command)
    print_config = options.pop("print_config", None)
    saved, config = build_tree(Config, kept), build_tree(Config, kept | convert_all(options))
    refuse_changes(changes_between(saved, config), allow_change=allow_change)
    if print_config:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    return replace(config, output_dir=str(run))


def changes_between(saved: Config, config: Config) -> list[Change]:
    """Settings that decide a result and differ.

    Values are compared, not what was typed: repeating a value that the run has is no change.
    """
    before, after = flatten(asdict(saved)), flatten(asdict(config))
    return [
        Change(key, before[key], value)
        for key, value in after.items()
        if value != before[key] and not is_free_on_resume(key)
    ]


def refuse_changes(changes: Sequence[Change], *, allow_change: bool) -> None:
    """Raise UserError for changes that are not to be, the first one that decides with all others.

    allow_change: whether those are taken that what a run has kept does not hang on.
    """
    refused = [own for own in changes if not (allow_change and may_change(own.key))]
    if not refused:
        return
    first, *others = refused
    rule = f"cannot change in an existing run, which has {first.before}"
    if others:
        rule += f"; nor can {', '.join(f'{own.key} ({own.before} -> {own.now})' for own in others)}"
    way_out = "start a new run, maybe with data.splits_from and model_a.init_from this one"
    if all(may_change(own.key) for own in refused):
        way_out = f"give --allow_config_change to go on with it all the same, or {way_out}"
    raise UserError(first.key, first.now, rule, way_out)


def config_of_recycled(run: Path, arguments: Sequence[str], command: str) -> Config:
    """The settings of a new run that begins with a run's models and splits (Step 3 of the paper).

    They are that run's, changed by `--KEY VALUE` arguments, which must name another `output_dir`.
    """
    kept, options = _kept_and_options(run, arguments, command)
    if "output_dir" not in options and "print_config" not in options:
        rule = f"{run} is never written over"
        raise UserError("output_dir", "(none)", rule, "give --output_dir of the new run")
    print_config = options.pop("print_config", None)
    start: dict[str, object] = {"data.splits_from": str(run), "data.extra_labels": None}
    for name in ("a", "b"):
        start |= _saved_start(run / "models" / name, f"model_{name}", kept)
    config = build_tree(Config, kept | start | convert_all(options))
    if print_config:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    return config


def _saved_start(folder: Path, key: str, kept: Mapping[str, object]) -> dict[str, object]:
    """The settings of a model that begins as a run has saved it, whatever the run began with."""
    saved = read_start_folder(folder, f"{key}.init_from")
    size = kept.get(f"{key}.image_size") or kept.get("data.image_size") or saved.image_size
    return {
        f"{key}.name": saved.architecture,
        f"{key}.pretrained": False,
        f"{key}.init_from": str(folder),
        f"{key}.image_size": None if size == kept.get("data.image_size") else size,
    }


def _kept_and_options(
    run: Path, arguments: Sequence[str], command: str
) -> tuple[dict[str, object], dict[str, Given]]:
    """The settings that a run keeps, and the arguments by key."""
    if {"-h", "--help"} & set(arguments):
        parse_config(arguments, command)
    saved_file = run / "config.yaml"
    if not saved_file.is_file():
        raise UserError("RUN", run, "is no run directory", "name the output_dir of a train")
    options = split_options(arguments)
    if "config" in options:
        rule = "does not go with a run"
        raise UserError("--config", "", rule, f"the run keeps its own in {saved_file}")
    text = read_file(str(saved_file))
    return convert_all(read_yaml(text, str(saved_file), is_saved=True)), options
