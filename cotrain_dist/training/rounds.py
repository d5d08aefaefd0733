"""The rounds of Step 2: what both models are taught until the next one, and where they begin."""

import shutil
from collections.abc import Sequence

import torch

from cotrain_dist.config import Config
from cotrain_dist.config.recipes import FINAL
from cotrain_dist.config.text import with_settings
from cotrain_dist.method.splits import Split
from cotrain_dist.models import build_model, load_saved
from cotrain_dist.runtime.collectives import together
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.consistency import begin_consistency
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.features import both_features
from cotrain_dist.training.heads import begin_with_fitted_head
from cotrain_dist.training.pool import PoolVotes, exchange_selected, vote_on_pool
from cotrain_dist.training.probabilities import exchange_probabilities
from cotrain_dist.training.promise import STEP_ONE
from cotrain_dist.training.student import Classifier, Student, start_step_two
from cotrain_dist.training.temperature import fit_temperature_of
from cotrain_dist.types import Exchange


def settings_of(epoch: int, config: Config) -> Config:
    """The settings of an epoch of Step 2: the final ones are taught in a way of their own."""
    return config if epoch <= config.cotrain.num_epochs else with_settings(config, FINAL)


def features_at_start(
    students: Sequence[Classifier], images: Images, ctx: RunContext
) -> tuple[FeatureStore, ...]:
    """Of all images, under both models as they begin; none where the settings ask for none.

    Collective over all ranks. After a kill they are found where they lie.
    """
    if ctx.config.structure.kind == "off" or ctx.config.structure_features == "current":
        return ()
    with ctx.runtime.clock.measure("features"):
        return both_features(students, images, ctx)


def exchange_of_round(
    students: list[Student],
    start_features: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
    *,
    is_first: bool,
) -> tuple[PoolVotes | None, Exchange]:
    """Both models label U; R_A and R_B, on every rank. Collective over all ranks.

    start_features: of the weights that the models began with, where the settings ask for those.
    is_first: whether the models have learned labels alone.
    """
    config = ctx.config
    # Without exchange nobody needs the pass over U, 13 of the 45 s of an epoch of EfficientNet-B0
    # on Caltech-101 at 64 pixels (docs/performance.md).
    if config.exchange == "none":
        return None, Exchange.empty()
    for student in students:
        # Later on, nothing is left that a model has not learned.
        student.temperature = fit_temperature_of(student, images, ctx) if is_first else 1.0
    if config.pool.keep == "votes":
        votes = vote_on_pool(students, images, ctx)  # both models', each rank its part of U
        return votes, exchange_selected(votes, images.table.sample_ids(Split.U), ctx)
    if config.structure.kind == "off" or config.structure_features == "start":
        return exchange_probabilities(students, start_features, images, ctx)
    return _exchange_by_current_features(students, images, ctx)


def _exchange_by_current_features(
    students: list[Student], images: Images, ctx: RunContext
) -> tuple[PoolVotes, Exchange]:
    """Features of weights that soon are no more lie in the run directory, for this round alone."""
    folder = ctx.store.path / "features"
    with ctx.runtime.clock.measure("features"):
        stores = both_features(students, images, ctx, folder=str(folder))
    found = exchange_probabilities(students, stores, images, ctx)
    ctx.runtime.wait_for_all()  # nobody deletes what another rank still reads
    together(lambda: shutil.rmtree(folder) if ctx.runtime.is_lead else None, ctx.runtime.control)
    return found


@torch.no_grad()
def restart(student: Student, images: Images, ctx: RunContext) -> None:
    """Where `cotrain.restart` says so: earlier weights, a new optimizer.

    Collective over the role group with `pretrain.fit_head`. With train.ema_decay the weights of
    Step 1 are those of the EMA there, which begins anew.
    """
    if student.frozen is not None:
        return  # a last layer is fitted anew in each epoch
    match student.config.cotrain.restart:
        case "never":
            return
        case "start":
            saved = build_model(student.config, student.role, images.table.class_names)
        case "step_one":
            # Every rank of the role reads what its lead has written before the roles met.
            saved = load_saved(ctx.store.models / f"{STEP_ONE}{student.role.value}")
    tensors = saved.state_dict()
    for name, values in student.whole.state_dict().items():
        values.copy_(tensors[name])  # in place: DDP and a compiled step hold these very tensors
    if student.config.cotrain.restart == "start":
        begin_with_fitted_head(student, images, ctx)
    start_step_two(student)
    begin_consistency(student)
    if student.ema is not None:
        student.ema.restart(student.model)
