"""A whole training: Step 1, Step 2, and the models it leaves."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.config.of_run import Change, changes_between, config_of_run
from cotrain_dist.config.text import config_digest, config_to_yaml, flatten
from cotrain_dist.data.bad_images import bad_lines, describe_bad
from cotrain_dist.data.copies import describe_left_out
from cotrain_dist.data.sources.skipped import describe_skipped
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import all_gather_json, broadcast_json, together
from cotrain_dist.runtime.determinism import not_exact_line
from cotrain_dist.runtime.stop import stops_by_file
from cotrain_dist.runtime.threads import threads_line
from cotrain_dist.runtime.tracking import tracking
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.store.records import (
    CotrainRecord,
    CrossValidation,
    PretrainRecord,
    Record,
    record_from_json,
)
from cotrain_dist.training.card import write_card
from cotrain_dist.training.commits import (
    CotrainState,
    restore_cotrain,
    restore_pretrain,
)
from cotrain_dist.training.consistency import begin_consistency
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.cotrain import cotrain, start_state
from cotrain_dist.training.cross_validation import (
    can_cross_validate,
    cross_validate,
    no_test_line,
    tell_estimate,
)
from cotrain_dist.training.environment import environment_file, environment_of, what_changed
from cotrain_dist.training.exports import choose_without_validation, save_best
from cotrain_dist.training.folds import has_folds, right_by_folds
from cotrain_dist.training.found import Found, agree_on_commits, find_commits
from cotrain_dist.training.guards import candidates_of, watch_step_one, weights_by_role
from cotrain_dist.training.heads import begin_with_fitted_head, freeze_backbone
from cotrain_dist.training.peers import build_peer, peers_here
from cotrain_dist.training.pretrain import pretrain
from cotrain_dist.training.promise import settle
from cotrain_dist.training.rounds import features_at_start
from cotrain_dist.training.setup import fetch_models, first_models, prepare, start_world
from cotrain_dist.training.student import Student, build_student, start_step_two
from cotrain_dist.types import Position

Fit = Callable[[RunContext, Images], RunContext]
"""Other settings, once the images are known, and a deadline: `planning.budget.fit_to`."""


def train(
    config: Config,
    *,
    resume: bool,
    quiet: bool = False,
    allow_config_change: bool = False,
    fit: Fit | None = None,
) -> list[Record]:
    """Train from the start, or go on from the last commit. Collective over all ranks.

    Returns the history on the lead rank, an empty list on the others. quiet: nothing on the
    console. allow_config_change: a run may go on with other settings than it has; which ones was
    checked before (`config.of_run`). fit: called before anything is written. After an exception
    nothing is held: no lock, file, thread or process group.
    """
    with start_world(config) as rt:
        return train_on(
            rt,
            config,
            resume=resume,
            quiet=quiet,
            allow_config_change=allow_config_change,
            fit=fit,
        )


def train_on(
    rt: Runtime,
    config: Config,
    *,
    resume: bool,
    quiet: bool = False,
    until: int | None = None,
    allow_config_change: bool = False,
    fit: Fit | None = None,
) -> list[Record]:
    """`train` in a world that stands already, and stays. Collective over all ranks.

    until: an epoch of Step 2 to end after; the run is not finished then, and can go on.
    """
    rt.clock.take()  # what was waited for before
    fetch_models(config, rt)
    ctx, images = prepare(config, rt, resume=resume, quiet=quiet)
    if fit is not None:
        ctx = fit(ctx, images)
        config = ctx.config
    # Before the run directory is made: a name or a folder may be wrong.
    class_names = images.table.class_names
    models = together(lambda: first_models(config, rt.roles_here, class_names), rt.control)
    peers = together(lambda: first_models(config, peers_here(config, rt), class_names), rt.control)
    if rt.is_lead and not resume:
        rt.undo_on_mistake(ctx.store.discard_unused)
    with closing(ctx.store), closing(images.pixels):
        found, changes = together(
            lambda: _take_directory(ctx, images, resume, allow_config_change), rt.control
        )
        # From the lead rank: another node may still see the file as it was.
        attempt = broadcast_json(ctx.store.attempt if rt.is_lead else None, rt.control)
        together(lambda: ctx.store.belong_to(attempt), rt.control)
        ctx.store.start_log(rt.global_rank)
        for change in changes:
            ctx.reporter.warn(f"settings changed by this attempt: {change}")
        stops = stops_by_file(ctx.store.path) if rt.is_lead else nullcontext()
        with stops, tracking(rt.accelerator, flatten(asdict(config))), rt.progress.expected():
            _introduce(ctx, images)
            commits = agree_on_commits(found, ctx)
            students = [
                build_student(role, model, resolve_role(config, role.value), rt)
                for role, model in models.items()
            ]
            start_features = features_at_start(students, images, ctx)
            students = [
                freeze_backbone(student, images, ctx)
                if student.config.model.train == "head"
                else student
                for student in students
            ]
            for student in students:
                if student.role.peer in peers:
                    student.peer = build_peer(student, peers[student.role.peer], config, rt)
            state = reach_step_two(students, commits, images, ctx)
            cotrain(students, state, start_features, images, ctx, until=until)
            if until is not None:
                return ctx.store.history.read() if rt.is_lead else []
            return finish(students, state, start_features, images, ctx)


def _take_directory(
    ctx: RunContext, images: Images, resume: bool, allow_config_change: bool
) -> tuple[Found | None, list[Change]]:
    """On the lead rank: make the run directory, or take it again.

    What is committed in it, and the settings that this attempt changes; None and none on others.
    """
    store, found, changes = ctx.store, Found(), list[Change]()
    if not ctx.runtime.is_lead:
        return None, changes
    if resume:
        store.open_again()
        before = None
        if allow_config_change:
            kept = config_of_run(store.path, [], "train")
            changes, before = changes_between(kept, ctx.config), config_digest(kept)
        found = find_commits(images.table, ctx, before=before)
        # Only now: a resume that is refused changes nothing, and is no attempt.
        if before is not None and changes:
            told = [{"key": own.key, "before": own.before, "now": own.now} for own in changes]
            store.change_settings(config_to_yaml(ctx.config), before, told)
        store.count_attempt()
    else:
        store.create(config_to_yaml(ctx.config), images.table.to_parquet())
    store.write_bad_images(bad_lines(images.table.listing))
    store.write_json(environment_file(store.attempt), environment_of(ctx.runtime))
    return found, changes


def _introduce(ctx: RunContext, images: Images) -> None:
    rt, table = ctx.runtime, images.table
    sizes = ", ".join(
        f"{split.name} {len(table.sample_ids(split))}" for split in Split if split is not Split.OUT
    )
    pool = table.sample_ids(Split.U)
    num_hidden = int((table.class_ids[pool] >= 0).sum())
    if num_hidden:
        # An experiment measures with them; who has labels to spare wants them used.
        sizes += f" ({num_hidden} with hidden labels, which nobody learns: data.labeled_fraction)"
    ctx.reporter.say(
        f"run {ctx.store.path}, attempt {ctx.store.attempt}: {len(table.class_names)} classes, "
        f"{sizes}"
    )
    if not len(table.sample_ids(Split.T)):
        ctx.reporter.say(
            no_test_line(ctx.config, has_validation=len(table.sample_ids(Split.V)) > 0)
        )
    if rt.is_lead:
        for line in describe_skipped(ctx.config.data):
            ctx.reporter.say(line)
    for line in (*describe_bad(table.listing), *describe_left_out(table.listing, table.splits)):
        ctx.reporter.warn(line)
    changed = what_changed(ctx.store) if rt.is_lead else None
    if changed is not None:
        ctx.reporter.warn(changed)
    ctx.reporter.say(
        f"{rt.num_ranks} process(es) on {rt.device.type}: "
        f"A ({resolve_role(ctx.config, 'a').name}) on rank(s) {list(rt.placement.ranks_a)}, "
        f"B ({resolve_role(ctx.config, 'b').name}) on {list(rt.placement.ranks_b)}"
    )
    ctx.reporter.say(threads_line(os.environ), shown=False)
    not_exact = not_exact_line(
        rt.device.type,
        compiled=ctx.config.compile,
        tf32=ctx.config.tf32,
        deterministic=ctx.config.deterministic,
    )
    if not_exact is not None:
        ctx.reporter.say(not_exact)


def reach_step_two(
    students: list[Student], commits: Mapping[str, Path], images: Images, ctx: RunContext
) -> CotrainState:
    """Step 1, or what is left of it, and the start of Step 2; or the last commit of Step 2.

    commits: as `agree_on_commits` gave them. Collective over all ranks.
    """
    control = ctx.runtime.control
    if "world" in commits:
        folder = commits["world"]
        # First, as it builds the optimizer and the schedule that the saved state belongs to.
        for student in students:
            start_step_two(student)
            begin_consistency(student)
        restored = together(lambda: restore_cotrain(students, folder, images, ctx), control)
        if ctx.runtime.is_lead and restored.next.epoch <= ctx.config.cotrain.last_epoch:
            ctx.store.forget_outcome()
        return restored
    states = together(
        lambda: [restore_pretrain(s, commits.get(s.role.value), images, ctx) for s in students],
        control,
    )
    own_records = {}
    for student, state in zip(students, states, strict=True):
        if state.next == Position():
            begin_with_fitted_head(student, images, ctx)
        pretrain(student, state, images, ctx)
        if student.is_lead:
            own_records[student.role.value] = state.records
    # A role may wait here for long: Step 1 has no equal length for both.
    ctx.runtime.wait_for_all()
    _record_step_one(own_records, images.table, ctx)
    for student in students:
        start_step_two(student)
        begin_consistency(student)
    return start_state(students, images, ctx)


def _record_step_one(
    own: dict[str, list[PretrainRecord]], table: SplitTable, ctx: RunContext
) -> None:
    """Collective over all ranks: the lines of both roles join on the lead rank, A's first."""
    packed = {role: [record.to_json() for record in records] for role, records in own.items()}
    lines: dict[str, list[dict[str, Any]]] = {}
    for part in all_gather_json(packed, ctx.runtime.control):
        lines |= part
    if ctx.runtime.is_lead:
        ctx.store.history.cut_after(0)  # of an attempt that ended right here
        for name in sorted(lines):
            for line in lines[name]:
                ctx.store.history.append(record_from_json(line))
                ctx.runtime.track(line)
        records = ctx.store.history.pretrain()
        for warning in watch_step_one(records, ctx.config.pretrain.labels, table):
            ctx.reporter.warn(warning)


def finish(
    students: list[Student],
    state: CotrainState,
    start_features: Sequence[FeatureStore],
    images: Images,
    ctx: RunContext,
) -> list[Record]:
    """models/best, and the run counts as finished. Collective over all ranks.

    start_features: as in `cotrain`. Returns the history on the lead rank, an empty list on the
    others.
    """
    rt, store = ctx.runtime, ctx.store
    history = store.history.read() if rt.is_lead else []
    # The rank that saves the better model may be one of B, and only rank 0 has the history.
    lines = [record.to_json() for record in history if isinstance(record, CotrainRecord)]
    first, last = map(
        CotrainRecord.from_json,
        broadcast_json([lines[0], lines[-1]] if lines else None, rt.control),
    )
    notes: dict[str, Any] = {"finished": True}
    keep, found = ctx.config.cotrain.keep_step_one, None
    # What is kept of Step 1 is not chosen on T.
    needs_folds = last.validation is None and (keep or last.test is None)
    if needs_folds and can_cross_validate(ctx.config):
        with rt.progress.excused():  # many fits, of which none tells how far it is
            found = cross_validate(students, images, ctx)
    if keep:
        folds = None
        if last.validation is None and has_folds(ctx.config):
            folds = right_by_folds(students, start_features, images, ctx, last_epoch=last.epoch)
        settled = settle(students, state, (first, last), folds or found, images, ctx)
        notes["no_loss"] = settled.to_json()
        if folds is not None and folds.certainty is not None:
            notes["certainty"] = asdict(folds.certainty)
    elif last.validation is None:
        save_better_of_last_epoch(students, first, last, found, images.table, ctx)
    if found is not None:
        notes["cross_validation"] = found.to_json()
        tell_estimate(found, ctx.reporter)
    # `finished` promises all models, and another rank may be writing the best one.
    rt.wait_for_all()
    if rt.is_lead:
        write_card(history, images.table, ctx.config, store)
        store.write_json("run.json", store.read_json("run.json") | notes)
        ctx.reporter.say(f"models: {store.models}/a, b and best")
    return history


def save_better_of_last_epoch(
    students: list[Student],
    first: CotrainRecord,
    last: CotrainRecord,
    found: CrossValidation | None,
    table: SplitTable,
    ctx: RunContext,
) -> None:
    """Without V: models/best is the better model of the last epoch, if its weights are well.

    Where neither model's are, it stays that of epoch 0. first: the record of epoch 0.
    """
    weights = weights_by_role(first, last, table)
    has_figures = last.test is not None or found is not None
    roles = candidates_of(weights, has_figures=has_figures)
    if not roles:
        ctx.reporter.warn(
            "both models have lost in Step 2 what they knew: models/best stays that of Step 1"
        )
        return
    best, why = choose_without_validation(last.epoch, last.test, found, roles)
    save_best(students, best, why, table.class_names, ctx.store)
