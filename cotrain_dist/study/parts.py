"""The folder of a study, and its trainings: begun, gone on with or passed over."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from cotrain_dist.config import Config
from cotrain_dist.config.digest import flatten, is_free_on_resume
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import UserError
from cotrain_dist.reporting.run_directory import RunDirectory
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.training.train import train_on

WAIT_SECONDS = 2.0
"""Between two looks at a part that another process trains."""


SETTINGS_FILE = "study.yaml"

DECIDED_BY_ARM = ("exchange", "exchange_parity", "labels", "seed", "pretrain.labels")
"""Settings that every part is given by its arm or its seed."""


def open_study(base: Config, folder: Path) -> None:
    """Make the study's folder, or check that it was begun with the same settings; on one rank."""
    check_settings(base)
    file = folder / SETTINGS_FILE
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                "output_dir",
                folder,
                "exists already and holds no study",
                "name another directory, or delete it",
            )
        folder.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        beside.write_text(config_to_yaml(base))
        beside.rename(file)
        (folder / "study.json").write_text(json.dumps(asdict(base), indent=1) + "\n")
        return
    begun = flatten(json.loads((folder / "study.json").read_text()))
    for key, value in flatten(asdict(base)).items():
        if value != begun.get(key) and not is_free_on_resume(key) and key not in DECIDED_BY_ARM:
            raise UserError(
                key,
                value,
                f"the study in {folder} was begun with {begun.get(key)}",
                "go on with that, or name another output_dir",
            )


def check_settings(base: Config) -> None:
    """Raise UserError for settings that a study cannot keep its promises with."""
    for key, value, wanted, why in (
        ("cotrain.optimizer", base.cotrain.optimizer, "fresh", "arms start from saved models"),
        ("tracking", base.tracking, "none", "a study has tables and figures of its own"),
        ("data.groups_from", base.data.groups_from, None, "each seed draws its groups"),
    ):
        if value != wanted:
            way_out = f"give {wanted or 'null'}"
            raise UserError(key, value, f"does not go with a study: {why}", way_out)
    for section, phase in (("pretrain", base.pretrain), ("cotrain", base.cotrain)):
        if phase.num_epochs == 0:
            raise UserError(
                f"{section}.num_epochs", 0, "a study needs both steps", "give it 1 or more"
            )


def run_part(config: Config, rt: Runtime, *, quiet: bool) -> None:
    """Train into `config.output_dir`, from where it stands there. Collective over all ranks."""
    run = RunDirectory(Path(config.output_dir))
    state = broadcast_json(
        together(lambda: _settled_state(run, config) if rt.is_lead else None, rt.control),
        rt.control,
    )
    if state != "finished":
        train_on(rt, config, resume=state == "begun", quiet=quiet)


def _settled_state(run: RunDirectory, config: Config) -> str:
    """finished, begun or new, once no other process works on the part; on the lead rank."""
    limit = config.distributed.wait_for_peer_seconds
    started = time.monotonic()
    while run.is_in_use():
        if time.monotonic() - started > limit:
            raise UserError(
                "output_dir",
                run.path,
                f"another training has held it for {limit:.0f} seconds",
                "wait for it or end it",
            )
        time.sleep(WAIT_SECONDS)
    if run.is_finished():
        return "finished"
    if run.is_run():
        return "begun"
    shutil.rmtree(run.path, ignore_errors=True)  # what a kill in the first moment has left
    return "new"
