"""A whole training: groups, Step 1, Step 2, and the models it leaves."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cotrain_dist.config import Config, ModelConfig, resolve_model
from cotrain_dist.config.digest import config_digest, flatten
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.groups import (
    GroupTable,
    draw_group_table,
    load_group_table,
    parse_group_table,
)
from cotrain_dist.data.sources import image_reader, list_images
from cotrain_dist.errors import UserError
from cotrain_dist.method.placement import Placement
from cotrain_dist.method.scores import MAX_CLASSES
from cotrain_dist.method.splits import Group
from cotrain_dist.models import build_model, check_names, operations_per_image
from cotrain_dist.reporting.progress import Reporter
from cotrain_dist.reporting.run_directory import RunDirectory
from cotrain_dist.reporting.tables import before_and_after
from cotrain_dist.runtime.accelerator import Runtime, describe_environment, start_runtime
from cotrain_dist.runtime.collectives import (
    all_gather_json,
    broadcast_bytes,
    broadcast_json,
    together,
)
from cotrain_dist.training.commits import (
    CotrainState,
    last_cotrain_commit,
    restore_cotrain,
    restore_pretrain,
)
from cotrain_dist.training.cotrain import cotrain, start_state
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.training.pretrain import pretrain
from cotrain_dist.training.publish import save_better_of_last_epoch
from cotrain_dist.training.steps import check_parts
from cotrain_dist.training.student import Student, build_student, start_step_two
from cotrain_dist.types import ROLES, Role


def train(config: Config, *, resume: bool, quiet: bool = False) -> None:
    """Train from the start, or go on from the last commit. Collective over all ranks.

    quiet: nothing on the console.
    """
    rt = start_world(config)
    train_on(rt, config, resume=resume, quiet=quiet)
    rt.close()


def start_world(config: Config) -> Runtime:
    """Check the names of models and optimizers, then join the world. Collective over all ranks."""
    check_all_names(config)
    cost_a, cost_b = model_costs(config)
    return start_runtime(config, cost_a=cost_a, cost_b=cost_b)


def train_on(rt: Runtime, config: Config, *, resume: bool, quiet: bool = False) -> None:
    """`train` in a world that stands already, and stays. Collective over all ranks."""
    rt.clock.take()  # what was waited for before
    exp = prepare_experiment(config, rt, resume=resume, quiet=quiet)
    models = together(lambda: _first_models(exp), rt.control)
    together(lambda: _take_directory(exp, resume), rt.control)
    exp.run.start_log(rt.global_rank)
    rt.start_tracker(flatten(asdict(config)))
    _introduce(exp)
    students = [build_student(role, model, exp) for role, model in models.items()]
    state = reach_step_two(students, exp)
    cotrain(students, state, exp)
    finish(students, exp)
    exp.run.unlock()


def check_all_names(config: Config) -> None:
    """Raise UserError where timm does not know a model's or an optimizer's name."""
    for role in ROLES:
        own = resolve_model(config, role.value)
        check_names(role, _model_config(config, role), own.train.optimizer)


def _model_config(config: Config, role: Role) -> ModelConfig:
    return config.model_a if role is Role.A else config.model_b


def model_costs(config: Config) -> tuple[float, float]:
    """Operations an image of A and B; not counted where the models are the same."""
    models = [
        (_model_config(config, role), resolve_model(config, role.value).data.image_size)
        for role in ROLES
    ]
    if len({(model.name, size) for model, size in models}) == 1:
        return 1.0, 1.0
    cost_a, cost_b = (operations_per_image(model, size) for model, size in models)
    return cost_a, cost_b


def prepare_experiment(
    config: Config, rt: Runtime, *, resume: bool, quiet: bool = False
) -> Experiment:
    """List and check the data, draw or read the groups; nothing is written yet.

    Collective over all ranks.
    """
    run = RunDirectory(Path(config.output_dir))
    reporter = Reporter(show=rt.is_lead and not quiet)
    if rt.is_lead and not resume:
        reporter.say("listing images and drawing groups")
    content = together(lambda: _groups_on_lead(config, rt, run, resume), rt.control)
    table = parse_group_table(broadcast_bytes(content, rt.control))
    together(lambda: check_table(table, config, rt.placement), rt.control)
    read = together(lambda: image_reader(config.data, table.listing), rt.control)
    return Experiment(
        config=config,
        config_digest=config_digest(config),
        data_digest=table.digest(),
        rt=rt,
        table=table,
        read=read,
        run=run,
        reporter=reporter,
    )


def _first_models(exp: Experiment) -> dict[Role, nn.Module]:
    """The models of the roles held here, before a file is written: names and files may be wrong."""
    return {
        role: build_model(
            _model_config(exp.config, role),
            role,
            exp.table.class_names,
            resolve_model(exp.config, role.value).data.image_size,
            exp.config.seed,
        )
        for role in exp.rt.roles_here
    }


def _groups_on_lead(config: Config, rt: Runtime, run: RunDirectory, resume: bool) -> bytes:
    """groups.parquet: of this run, of another one, or drawn; empty on the other ranks."""
    if not rt.is_lead:
        return b""
    if resume:
        run.check_is_run()
        return load_group_table(run.groups).to_parquet()
    return group_table_of(config).to_parquet()


def group_table_of(config: Config) -> GroupTable:
    """The groups that a new run would have: those of another one, or drawn."""
    if config.data.groups_from:
        return load_group_table(Path(config.data.groups_from))
    return draw_group_table(list_images(config.data), config.data, config.seed)


def check_table(table: GroupTable, config: Config, placement: Placement) -> None:
    """Raise UserError where the groups cannot be trained on as configured."""
    if table.listing.source != config.data.source:
        raise UserError(
            "data.groups_from",
            config.data.groups_from,
            f"holds groups of {table.listing.source}, data.source is {config.data.source}",
            "make the two equal",
        )
    if len(table.class_names) > MAX_CLASSES:
        raise UserError(
            "data.root",
            config.data.root,
            f"has {len(table.class_names)} classes, a vote's label has 16 bits",
            f"use at most {MAX_CLASSES} classes",
        )
    if bool(config.data.validation_fraction) != bool(len(table.sample_ids(Group.V))):
        raise UserError(
            "data.validation_fraction",
            config.data.validation_fraction,
            f"the groups taken over hold {len(table.sample_ids(Group.V))} images of V",
            "give the fraction that they were drawn with",
        )
    for role, group in ((Role.A, Group.L_A), (Role.B, Group.L_B)):
        num_labeled = len(table.sample_ids(group))
        check_parts(num_labeled, role, len(placement.ranks_of(role)), config)


def _take_directory(exp: Experiment, resume: bool) -> None:
    """On the lead rank: make the run directory, or take it again."""
    run = exp.run
    if not exp.rt.is_lead:
        return
    if resume:
        run.open_again()
    else:
        run.create(config_to_yaml(exp.config), exp.table.to_parquet())
    suffix = f"-{run.attempt}" if resume else ""
    run.write_json(f"environment{suffix}.json", describe_environment(exp.rt))


def _introduce(exp: Experiment) -> None:
    rt, table = exp.rt, exp.table
    sizes = ", ".join(f"{group.name} {len(table.sample_ids(group))}" for group in Group)
    exp.reporter.say(
        f"run {exp.run.path}, attempt {exp.run.attempt}: {len(table.class_names)} classes, {sizes}"
    )
    exp.reporter.say(
        f"{rt.num_ranks} process(es) on {rt.device.type}: "
        f"A ({exp.config.model_a.name}) on rank(s) {list(rt.placement.ranks_a)}, "
        f"B ({exp.config.model_b.name}) on {list(rt.placement.ranks_b)}"
    )


def reach_step_two(students: list[Student], exp: Experiment) -> CotrainState:
    """Step 1, or what is left of it, and the start of Step 2; or the last commit of Step 2.

    Collective over all ranks.
    """
    folder = together(lambda: last_cotrain_commit(exp), exp.rt.control)
    if folder is not None:
        for student in students:
            start_step_two(student)
        return together(lambda: restore_cotrain(students, folder, exp), exp.rt.control)
    states = together(lambda: [restore_pretrain(s, exp) for s in students], exp.rt.control)
    for student, state in zip(students, states, strict=True):
        pretrain(student, state, exp)
    own_records = {
        s.role.value: state.records for s, state in zip(students, states, strict=True) if s.is_lead
    }
    records: dict[str, list[dict[str, Any]]] = {}
    exp.rt.wait_for_all()
    for part in all_gather_json(own_records, exp.rt.control):
        records |= part
    if exp.rt.is_lead:
        exp.run.history.cut_after(0)  # of an attempt that ended right here
        for name in sorted(records):
            for record in records[name]:
                exp.run.history.append(record)
                exp.rt.track(record)
    for student in students:
        start_step_two(student)
    return start_state(students, exp)


def finish(students: list[Student], exp: Experiment) -> None:
    """models/best, and the table on the lead rank. Collective over all ranks."""
    history = exp.run.history.read() if exp.rt.is_lead else []
    last = broadcast_json(history[-1] if history else None, exp.rt.control)
    if not exp.config.data.validation_fraction:
        save_better_of_last_epoch(students, last["test"], last["epoch"], exp)
    exp.rt.wait_for_all()
    if exp.rt.is_lead:
        exp.run.write_json("run.json", exp.run.read_json("run.json") | {"finished": True})
        if last["epoch"]:
            exp.reporter.print(before_and_after(history))
        exp.reporter.say(f"models: {exp.run.models}/a, b and best")
