"""`reproduce`: every condition and baseline from the same splits and the same A and B."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from cotrain_dist.config import Config
from cotrain_dist.config.text import with_settings
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.inference.evaluate import notes_of_best
from cotrain_dist.method.splits import Split
from cotrain_dist.method.steps import num_steps_of
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import together
from cotrain_dist.runtime.progress import build_console
from cotrain_dist.store import atomic
from cotrain_dist.store.run_directory import RunDirectory, splits_file
from cotrain_dist.study.arms import BY_NAME, START, Arm, in_order, names_by_folder
from cotrain_dist.study.checks import with_test
from cotrain_dist.study.parts import (
    check_images,
    claim,
    on_lead,
    open_study,
    run_part,
    sources_of,
    study_format,
)
from cotrain_dist.study.report import write_report
from cotrain_dist.study.results import Outcome, outcome_of
from cotrain_dist.study.settings import (
    SPLITS_OF_CEILING,
    arm_config,
    ceiling_config,
    has_steps,
    has_views,
    start_config,
    with_num_epochs,
)


def reproduce(
    base: Config, seeds: Sequence[int], arms: Sequence[str], rt: Runtime, *, quiet: bool = False
) -> None:
    """Run what is missing of the seeds and arms, and write the report. Collective over all ranks.

    base: the settings that all parts share; `base.output_dir` is the study's folder. Finished parts
    are never run again, a part that was killed goes on where it stood.
    """
    folder = Path(base.output_dir).absolute()  # parts name each other by it
    base = with_test(replace(base, precision=rt.precision))  # what `auto` comes to, for all parts
    on_lead(lambda: open_study(base, folder), rt)
    for seed in seeds:
        of_seed = folder / f"seed-{seed}"
        on_lead(partial(_check_before_start, of_seed / START, base), rt)
        run_part(start_config(base, seed, of_seed), rt, quiet=quiet)
        for arm in in_order(list(arms)):
            if arm.needs_views and not has_views(base):
                if rt.is_lead and not quiet:
                    build_console().print(f"{arm.name}: images have no views here, left out")
                continue
            if arm.needs_steps and not has_steps(base):
                if rt.is_lead and not quiet:
                    build_console().print(f"{arm.name}: heads have no steps, left out")
                continue
            if arm.begins == "all" and not on_lead(partial(_knows_labels_of_pool, of_seed), rt):
                if rt.is_lead and not quiet:
                    build_console().print(f"{arm.name}: U has no true labels, left out")
                continue
            run_part(_config_of(arm, base, seed, of_seed, rt), rt, quiet=quiet)
        # After each seed: a study takes hours, and what is there can be read.
        together(lambda: report_on(base, quiet=quiet) if rt.is_lead else None, rt.control)


def _check_before_start(start: Path, base: Config) -> None:
    """Raise UserError where a new seed would draw from other images than the seeds before it."""
    others = list(start.parent.parent.glob(f"seed-*/{START}"))
    if others and not RunDirectory(start).is_run():
        check_images(list_images(base.data), base, others)


def report_on(base: Config, *, quiet: bool = False) -> None:
    """Write tables, figures and verdicts from what has finished; on one rank."""
    folder = Path(base.output_dir)
    if not any(finished_outcomes(folder).values()):
        raise UserError("output_dir", folder, "holds no finished part", "run reproduce first")
    table = load_split_table(_first_start(folder))
    with claim(folder / "report.md", base):
        # Read under the lock: of tasks side by side, the last one reports what all have finished.
        grids = write_report(finished_outcomes(folder), base, table, folder)
    if not quiet:
        console = build_console()
        for grid in grids:
            console.print(grid.to_rich())
        console.print(f"report: {folder / 'report.md'}")


def _first_start(folder: Path) -> Path:
    starts = [path for path in folder.glob(f"seed-*/{START}") if splits_file(path).is_file()]
    return min(starts)


def finished_outcomes(folder: Path) -> dict[str, dict[int, Outcome]]:
    """By arm and seed, of every part that has come to its end."""
    names = names_by_folder(study_format(folder))
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in (START, *BY_NAME)}
    for folder_name, name in names.items():
        for part in sorted(folder.glob(f"seed-*/{folder_name}")):
            run, seed = RunDirectory(part), part.parent.name.removeprefix("seed-")
            if seed.isdigit() and run.is_finished():
                outcomes[name][int(seed)] = outcome_of(
                    run.history.read(), sources_of(run), notes_of_best(part)
                )
    return outcomes


@dataclass(frozen=True)
class _Counts:
    """What earlier parts of a seed decide for an arm."""

    num_own: int
    """Images of L_A or L_B, the smaller."""
    num_labeled: int
    """Images of L_A and L_B."""
    num_all: int
    """And those of U whose true labels are known."""
    steps_before: int
    """Steps of Step 1 in the part `start`, of the model that took more."""
    steps: int
    """Steps in Step 2 of the arm that this one follows, of the model that took more; or 0."""


def _config_of(arm: Arm, base: Config, seed: int, folder: Path, rt: Runtime) -> Config:
    """Collective over all ranks: the settings of an arm, which earlier parts may decide."""
    counts = _Counts(**on_lead(lambda: asdict(_count(arm, folder)), rt))
    steps_own, steps_shared = (
        num_steps_of(num, base.train.batch_size) for num in (counts.num_own, counts.num_labeled)
    )
    num_epochs = base.cotrain.num_epochs
    if arm.steps_of:
        # Rounded up, so that the baseline never has fewer steps than what it stands beside.
        num_epochs = math.ceil(
            counts.steps / (steps_shared if arm.decided["labels"] == "shared" else steps_own)
        )
    config = arm_config(arm, base, seed, folder, num_epochs)
    if arm.begins == "all":
        return ceiling_config(arm, config, folder, counts.num_labeled, counts.num_all)
    if arm.begins == "shared" and arm.steps_of:
        if BY_NAME[arm.steps_of].begins != "shared":  # else it takes the same Step 1
            config = with_num_epochs(config, math.ceil(counts.steps_before / steps_shared))
        # Its length is given by steps; a model that stopped early would take fewer.
        config = with_settings(
            config, {"pretrain.stop_at_train_accuracy": None, "pretrain.patience_epochs": None}
        )
    return config


def _count(arm: Arm, folder: Path) -> _Counts:
    """On one rank; folder: of the seed."""
    table = load_split_table(folder / START)
    sizes = [len(table.sample_ids(split)) for split in (Split.L_A, Split.L_B)]
    steps = 0
    if arm.steps_of:
        # Of the model that took more: R_A and R_B differ in size, so A and B differ in steps.
        steps = max(_outcome(folder / arm.steps_of).num_steps.values())
    if arm.begins == "all":
        _write_splits_of_ceiling(table, folder / SPLITS_OF_CEILING)
    return _Counts(
        # The smaller split has the fewer steps an epoch: its epochs bring both models to the wanted
        # steps.
        num_own=min(sizes),
        num_labeled=sum(sizes),
        num_all=sum(sizes) + len(_pool_with_labels(table)),
        steps_before=max(_outcome(folder / START).num_steps_before.values()),
        steps=steps,
    )


def _outcome(part: Path) -> Outcome:
    return outcome_of(RunDirectory(part).history.read())


def _pool_with_labels(table: SplitTable) -> torch.Tensor:
    ids = table.sample_ids(Split.U)
    return ids[table.class_ids[ids] >= 0]


def _knows_labels_of_pool(folder: Path) -> bool:
    return len(_pool_with_labels(load_split_table(folder / START))) > 0


def _write_splits_of_ceiling(table: SplitTable, file: Path) -> None:
    """Splits in which U is labeled: half of it L_A, half L_B. The only place that gives U away."""
    ids = _pool_with_labels(table)
    splits = table.splits.clone()
    splits[ids[0::2]], splits[ids[1::2]] = Split.L_A, Split.L_B
    atomic.write_bytes(file, replace(table, splits=splits).to_parquet())
