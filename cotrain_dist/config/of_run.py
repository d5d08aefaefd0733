"""The settings of an existing run: to go on with it, or to begin another run with its models."""

import json
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
from cotrain_dist.config.text import (
    MAY_CHANGE,
    MAY_CHANGE_IN_STEP_ONE,
    config_to_yaml,
    flatten,
    is_free_on_resume,
)
from cotrain_dist.config.tree import Config
from cotrain_dist.errors import UserError


@dataclass(frozen=True)
class Change:
    """A setting that decides a result and is not what a run was made with."""

    key: str
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.key} {self.before} -> {self.now}"


def changes_between(before: Config, now: Config) -> list[Change]:
    """The settings that decide a result and differ, in the order of the keys."""
    # Values are compared, not what was typed: repeating a value that the run has is no change.
    old = flatten(asdict(before))
    return [
        Change(key, old[key], value)
        for key, value in flatten(asdict(now)).items()
        if value != old[key] and not is_free_on_resume(key)
    ]


def config_of_run(
    run: Path, arguments: Sequence[str], command: str, *, allow_change: bool | None = None
) -> Config:
    """The settings that a run keeps, changed by `--KEY VALUE` arguments where that is allowed.

    `output_dir` becomes `run`, wherever it lies now. allow_change: whether keys that a result
    depends on may change as well, where what the run has kept still fits; None for a command that
    never lets them. Raises UserError for others. Keys that were renamed since the run was made are
    read under their new names.
    """
    kept, options = _kept_and_options(run, arguments, command)
    print_config = options.pop("print_config", None)
    saved, config = build_tree(Config, kept), build_tree(Config, kept | convert_all(options))
    refuse_changes(changes_between(saved, config), run, allow_change)
    if print_config:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    return replace(config, output_dir=str(run))


NEW_RUN = "start a new run, maybe with data.splits_from and model_a.init_from this one"


def refuse_changes(changes: Sequence[Change], run: Path, allow_change: bool | None) -> None:
    """Raise UserError for settings that differ from a run's, unless all of them may.

    allow_change: as in `config_of_run`.
    """
    for change in changes:
        rule = f"cannot change in an existing run, which has {change.before}"
        if change.key in MAY_CHANGE_IN_STEP_ONE and _has_step_two(run):
            raise UserError(change.key, change.now, f"{rule}: Step 1 is over", NEW_RUN)
        if change.key not in MAY_CHANGE + MAY_CHANGE_IN_STEP_ONE:
            raise UserError(change.key, change.now, rule, NEW_RUN)
    if not changes or allow_change:
        return
    first = changes[0]
    rule = f"the run has other settings ({', '.join(map(str, changes))})"
    if allow_change is None:
        raise UserError(first.key, first.now, rule, NEW_RUN)
    raise UserError(
        first.key,
        first.now,
        rule,
        f"give --allow-config-change to go on with these from the last commit, or {NEW_RUN}",
    )


def _has_step_two(run: Path) -> bool:
    return any((run / "checkpoints" / "world").glob("cotrain-*"))


@dataclass(frozen=True)
class Found:
    """What `--resume auto` has come to."""

    config: Config
    """As given, for the directory that was chosen."""
    is_run: bool
    """Whether a run lies there that goes on; else a new one is to be made."""
    is_finished: bool = False
    """Whether that run has come to its end: there is nothing to do."""


def config_of_newest(
    arguments: Sequence[str], command: str, *, allow_change: bool = False
) -> Found:
    """The run that `--resume auto` goes on with, and the settings given for it.

    That is the run in `output_dir`, or else the unfinished one directly below it that was started
    last. Its settings must be those given, but for keys that may change. A finished run in
    `output_dir` itself is found as well; where there is none of these, a new one is to lie there.
    """
    config = parse_config(arguments, command)
    place = Path(config.output_dir)
    if _is_run(place):
        run = place
    else:
        below = [path for path in sorted(place.glob("*")) if _is_run(path)]
        unfinished = [path for path in below if not _is_finished(path)]
        if not unfinished:
            return Found(config, is_run=False)
        run = max(unfinished, key=lambda path: (path / "run.json").stat().st_mtime)
    changes = changes_between(config_of_run(run, [], command), config)
    refuse_changes(changes, run, allow_change)
    is_finished = not changes and _is_finished(run)
    return Found(replace(config, output_dir=str(run)), is_run=True, is_finished=is_finished)


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() and (path / "config.yaml").is_file()


def _is_finished(run: Path) -> bool:
    try:
        return bool(json.loads((run / "run.json").read_text()).get("finished"))
    except (ValueError, AttributeError):  # damaged: going on with it names the file
        return False


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
