"""`reproduce --labels_by`: what labels are worth when they are chosen, for any data and any arm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import (
    SplitTable,
    draw_split_table,
    load_split_table,
    parse_split_table,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_bytes, together
from cotrain_dist.runtime.progress import Reporter, build_console
from cotrain_dist.store import atomic
from cotrain_dist.store.records import ROLE_NAMES
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.study.arms import CEILING, VOTE
from cotrain_dist.study.checks import with_test
from cotrain_dist.study.labels import label_curves, pool_of
from cotrain_dist.study.labels_report import Curves, write_labels_report
from cotrain_dist.study.parts import on_lead, open_study
from cotrain_dist.study.reproduce import finished_outcomes, reproduce
from cotrain_dist.study.settings import CHOSEN_SPLITS
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.setup import fetch_models, first_models, open_pixels
from cotrain_dist.training.student import build_classifier

LABELS = "labels"
"""Folder of a study with one file of curves per seed."""

SPLITS_OF_SEED = "seed-{}.parquet"

RANDOM = "random"


@dataclass(frozen=True)
class LabelStudy:
    """What is compared."""

    strategies: Sequence[str]
    """Ways to choose; arms are trained on the labels of the last one."""
    nums: Sequence[int]
    """Numbers of labels; arms are trained with the largest."""
    seeds: Sequence[int]
    arms: Sequence[str]


def study_labels(base: Config, study: LabelStudy, rt: Runtime, *, quiet: bool = False) -> None:
    """Measure what is missing and write the report. Collective over all ranks.

    The vote and the ceiling by heads come with every number of labels. Arms are trained in a study
    of their own, in the folder `by-NAME` of the last strategy.
    """
    folder = Path(base.output_dir).absolute()
    base = with_test(replace(base, precision=rt.precision, output_dir=str(folder)))
    on_lead(lambda: open_study(base, folder), rt)
    curves = _curves_by_seed(base, study, rt, quiet=quiet)
    last = study.strategies[-1]
    heads = all(resolve_role(base, name).model.train == "head" for name in ROLE_NAMES)
    accuracies: dict[str, dict[int, float]] = {}
    # Heads have no epochs: their vote and ceiling have been measured with the curves.
    trained = [name for name in study.arms if not (heads and name in (VOTE, CEILING))]
    if trained:
        accuracies = _train_arms(base, study, [*trained, VOTE, CEILING], last, curves, rt)
        if RANDOM in study.strategies and last != RANDOM:
            found = _train_arms(base, study, [VOTE], RANDOM, curves, rt)
            accuracies["base"] = found[VOTE]
    report = partial(write_labels_report, folder, base, study.strategies, curves, accuracies)
    grids = together(lambda: report() if rt.is_lead else [], rt.control)
    if rt.is_lead and not quiet:
        console = build_console()
        for grid in grids:
            console.print(grid.to_rich())
        console.print(f"report: {folder / 'report.md'}")


def _curves_by_seed(base: Config, study: LabelStudy, rt: Runtime, *, quiet: bool) -> Curves:
    """Points by seed and strategy; what has been measured is read. Collective over all ranks."""
    fetch_models(base, rt)
    folder = RunDirectory(Path(base.output_dir))
    ctx = RunContext(base, rt, folder, Reporter(show=rt.is_lead and not quiet))
    found: Curves = {}
    for seed in study.seeds:
        config, file = replace(base, seed=seed), folder.path / LABELS / f"seed-{seed}.json"
        content = together(partial(_splits, config, file, rt), rt.control)
        table = parse_split_table(broadcast_bytes(content, rt.control))
        pixels = together(
            partial(open_pixels, base.data, table.listing, rt, ctx.reporter), rt.control
        )
        images = Images(table, pixels)
        models = together(
            partial(first_models, config, rt.roles_here, table.class_names), rt.control
        )
        classifiers = [
            build_classifier(role, model, resolve_role(config, role.value), rt)
            for role, model in models.items()
        ]
        found[seed] = label_curves(
            config, study.strategies, study.nums, classifiers, images, ctx, file
        )
        rt.accelerator.free_memory()  # which holds every model that was prepared
    return found


def _splits(config: Config, file: Path, rt: Runtime) -> bytes:
    """On the lead rank: the splits of a seed, drawn once; their T and V are what counts."""
    if not rt.is_lead:
        return b""
    kept = file.with_suffix(".parquet")
    if not kept.is_file():
        table = draw_split_table(list_images(config.data), config.data, config.seed)
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(kept, table.to_parquet())
    return kept.read_bytes()


def _train_arms(
    base: Config, study: LabelStudy, arms: Sequence[str], strategy: str, curves: Curves, rt: Runtime
) -> dict[str, dict[int, float]]:
    """Arms on the labels of one strategy, as a study of its own. Collective over all ranks.

    Returns the ensemble's accuracy on T (0..1) by arm and seed.
    """
    folder = Path(base.output_dir) / f"by-{strategy}"
    on_lead(lambda: _write_chosen(base, study, strategy, curves, folder), rt)
    names = list(dict.fromkeys(arms))
    reproduce(replace(base, output_dir=str(folder)), study.seeds, names, rt, quiet=True)
    found: dict[str, dict[str, float]] = on_lead(
        lambda: {
            name: {str(seed): own.last["ensemble"] / 100 for seed, own in by_seed.items()}
            for name, by_seed in finished_outcomes(folder).items()
            if name in names
        },
        rt,
    )
    return {name: {int(seed): value for seed, value in own.items()} for name, own in found.items()}


def _write_chosen(
    base: Config, study: LabelStudy, strategy: str, curves: Curves, folder: Path
) -> None:
    """The splits that the arms of each seed start from; on one rank."""
    open_study(replace(base, output_dir=str(folder)), folder)
    for seed in study.seeds:
        table = load_split_table(Path(base.output_dir) / LABELS / SPLITS_OF_SEED.format(seed))
        point = next(p for p in curves[seed][strategy] if p["num_labels"] == max(study.nums))
        file = folder / f"seed-{seed}" / CHOSEN_SPLITS
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(file, with_labels(table, point["chosen"]).to_parquet())


def with_labels(table: SplitTable, chosen: Sequence[int]) -> SplitTable:
    """The chosen images in L_A and L_B in turn, all others that are not held out in U."""
    splits = table.splits.clone()
    splits[pool_of(table)] = Split.U
    ids = torch.tensor(chosen)
    splits[ids[0::2]], splits[ids[1::2]] = Split.L_A, Split.L_B
    return replace(table, splits=splits)
