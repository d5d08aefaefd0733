"""One training of a study: begun, gone on with or passed over, as its folder says."""

import shutil
import time
from pathlib import Path

from cotrain_dist.config import Config
from cotrain_dist.errors import UserError
from cotrain_dist.reporting.run_directory import RunDirectory
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.training.train import train_on

WAIT_SECONDS = 2.0
"""Between two looks at a part that another process trains."""


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
