"""After an exception, caught or not, nothing is held and nobody waits."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from filelock import FileLock, Timeout
from ranks import RanksFailed, run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.errors import EXIT_PEER_LOST, PeerLostError
from cotrain_dist.runtime.accelerator import start_runtime
from cotrain_dist.runtime.collectives import barrier
from cotrain_dist.training import steps
from cotrain_dist.training import train as train_module

NOTICED_SECONDS = 5.0


class _Boom(Exception):
    """No error that the package knows."""


def _failing(num_steps: int) -> Any:
    """A training step that fails after some steps."""
    calls, train_step = [], steps.train_step

    def counted(*args: Any) -> Any:
        if len(calls) == num_steps:
            raise _Boom("the cell was interrupted\nby something")
        calls.append(None)
        return train_step(*args)

    return counted


def _held_by(run: Path) -> list[str]:
    """What this process still holds of a training."""
    held = [thread.name for thread in threading.enumerate() if thread.name == "heartbeat"]
    handlers = logging.getLogger("cotrain_dist").handlers
    held += [str(h) for h in handlers if isinstance(h, logging.FileHandler)]
    held += ["process group"] if dist.is_initialized() else []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the one that lists
            continue
        held += [target] if target.startswith(str(run)) else []
    if (run / "lock").exists():
        try:
            FileLock(run / "lock").acquire(timeout=0).lock.release()
        except Timeout:
            held.append("lock")
    return held


def _catch_and_go_on(config: Config, num_steps: int) -> dict[str, Any]:
    """A body: as in a notebook, training fails, the error is caught, and training is resumed."""
    from cotrain_dist import cotrain

    run = Path(config.output_dir)
    with mock.patch.object(steps, "train_step", _failing(num_steps)), pytest.raises(_Boom):
        cotrain(config, quiet=True)
    held = _held_by(run)
    epochs = [record.epoch for record in cotrain(resume=run, quiet=True).cotrain_history]
    return {"held": held, "epochs": epochs, "held at the end": _held_by(run)}


@pytest.mark.parametrize(
    "num_steps", [*(pytest.param(num, marks=pytest.mark.slow) for num in (0, 3)), 16]
)
def test_an_error_caught_in_a_notebook_leaves_nothing(
    num_steps: int, digits_folder: Path, tmp_path: Path
) -> None:
    """In the first step, between commits of Step 1, and in Step 2."""
    pytest.importorskip("tensorboard")
    config = tiny_config(digits_folder, tmp_path / "run", tracking="tensorboard")
    (found,) = run_ranks(_catch_and_go_on, 1, tmp_path, config, num_steps)
    assert found == {"held": [], "epochs": [0, 1, 2], "held at the end": []}


def _one_fails(config: Config, which: int) -> list[str]:
    """A body: one rank fails within Step 1 and stays alive, as a notebook's kernel does.

    A process of these tests stays, too, when its body has returned.
    """
    train_step = steps.train_step
    if int(os.environ["RANK"]) == which:
        steps.train_step = _failing(2)
    try:
        train_module.train(config, resume=False)
    except _Boom:
        (Path(config.output_dir).parent / "failed").touch()
        return _held_by(Path(config.output_dir))
    except PeerLostError as error:  # its collective has failed first; as `main` does
        print(error, flush=True)
        os._exit(EXIT_PEER_LOST)
    finally:
        steps.train_step = train_step
    raise AssertionError("no rank has failed")


@pytest.mark.parametrize("which", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_other_rank_ends_within_seconds(
    which: int, digits_folder: Path, tmp_path: Path
) -> None:
    """Its only sign is what the failing one says in the store; no process has ended."""
    config = tiny_config(digits_folder, tmp_path / "run", distributed={"lost_after_seconds": 10.0})
    started = time.monotonic()
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_one_fails, 2, tmp_path, config, which)
    assert failure.value.exit_codes == {1 - which: EXIT_PEER_LOST}
    assert failure.value.ended_at[1 - which] - started < 30.0
    seconds = time.time() - (tmp_path / "failed").stat().st_mtime
    assert seconds < 10.0 + NOTICED_SECONDS, "no rank waits for lost_after_seconds"
    printed = (tmp_path / f"rank-{1 - which}.out").read_text()
    role = "AB"[which]
    assert f"lost rank {which} (role {role}, node " in printed
    assert "it ended with an error: _Boom: the cell was interrupted;" in printed


def _fail_in_the_world(config: Config) -> list[str]:
    """A body: all ranks meet the same error inside a world and catch it."""
    try:
        with start_runtime(config) as rt:
            barrier(rt.control)
            raise _Boom
    except _Boom:
        pass
    return _held_by(Path(config.output_dir))


@pytest.mark.parametrize("num_ranks", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_an_error_of_all_ranks_ends_none_of_them(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(digits_folder, tmp_path / "run")
    assert run_ranks(_fail_in_the_world, num_ranks, tmp_path, config) == [[]] * num_ranks
