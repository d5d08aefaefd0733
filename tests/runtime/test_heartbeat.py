"""A rank that stops is noticed by the others, also while they only wait; a short pause is not."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from ranks import RanksFailed, run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.errors import EXIT_PEER_LOST
from cotrain_dist.runtime.accelerator import start_runtime
from cotrain_dist.runtime.collectives import barrier

LOST_AFTER_SECONDS = 3.0
STARTED_WITHIN_SECONDS = 60.0


def _config(tmp_path: Path) -> Config:
    return tiny_config(
        tmp_path,
        tmp_path / "run",
        distributed={"lost_after_seconds": LOST_AFTER_SECONDS},
        placement={"ranks_a": [0]},
    )


def _wait_for_rank_1(config: Config, folder: Path) -> float:
    """A body: rank 0 waits in a barrier; rank 1 says that it is there, and comes when it is told.

    Returns the seconds that the barrier took.
    """
    rt = start_runtime(config)
    if rt.global_rank == 1:
        (folder / "pid.tmp").write_text(str(os.getpid()))
        (folder / "pid.tmp").rename(folder / "pid")
        _wait_for(folder / "go")
    started = time.monotonic()
    barrier(rt.control)
    seconds = time.monotonic() - started
    rt.close()
    return seconds


def _stop_at_the_very_end(config: Config) -> None:
    """A body: rank 1 is stopped between the two barriers of the end, where no thread watches."""
    rt = start_runtime(config)
    assert rt.heartbeat is not None
    if rt.global_rank == 1:
        stop = rt.heartbeat.stop

        def stop_all() -> None:
            stop()
            os.kill(os.getpid(), signal.SIGSTOP)

        rt.heartbeat.stop = stop_all  # type: ignore[method-assign]
    rt.close()


@pytest.mark.slow
def test_a_rank_that_stops_at_the_very_end_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_stop_at_the_very_end, 2, tmp_path, _config(tmp_path), timeout_seconds=50)
    assert failure.value.exit_codes == {0: EXIT_PEER_LOST}
    printed = (tmp_path / "rank-0.out").read_text()
    assert "rank 0 (role A, node " in printed
    assert "others did not end within 3 s of this rank" in printed


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


class _Pauser(threading.Thread):
    """Stops rank 1 at `stopped_at`, and lets it go on after a while; None: never."""

    def __init__(self, folder: Path, pause_seconds: float | None) -> None:
        super().__init__(daemon=True)
        self._folder, self._pause_seconds = folder, pause_seconds
        self.stopped_at = 0.0

    def run(self) -> None:
        _wait_for(self._folder / "pid")
        pid = int((self._folder / "pid").read_text())
        time.sleep(0.5)  # so that rank 0 is in the barrier, and rank 1 has been seen
        os.kill(pid, signal.SIGSTOP)
        self.stopped_at = time.monotonic()
        if self._pause_seconds is not None:
            time.sleep(self._pause_seconds)
            (self._folder / "go").touch()
            os.kill(pid, signal.SIGCONT)


def test_a_stopped_rank_ends_the_waiting_one(tmp_path: Path) -> None:
    pauser = _Pauser(tmp_path, pause_seconds=None)
    pauser.start()
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_wait_for_rank_1, 2, tmp_path, _config(tmp_path), tmp_path)
    assert failure.value.exit_codes == {0: EXIT_PEER_LOST}
    seconds = failure.value.ended_at[0] - pauser.stopped_at
    assert LOST_AFTER_SECONDS / 2 < seconds < LOST_AFTER_SECONDS + 5
    printed = (tmp_path / "rank-0.out").read_text()
    assert "lost rank 1 (role B, node " in printed
    assert "no sign of life" in printed
    assert "distributed.lost_after_seconds is 3" in printed
    assert "train --resume" in printed


@pytest.mark.slow
def test_a_short_pause_is_survived(tmp_path: Path) -> None:
    pause_seconds = LOST_AFTER_SECONDS / 3
    pauser = _Pauser(tmp_path, pause_seconds)
    pauser.start()
    waited, _ = run_ranks(_wait_for_rank_1, 2, tmp_path, _config(tmp_path), tmp_path)
    pauser.join(timeout=10)
    assert waited > pause_seconds / 2
    assert "lost" not in (tmp_path / "rank-0.out").read_text()


def _be_suspended(config: Config, folder: Path) -> None:
    """A body: both ranks are there, and rank 0 waits; they go on when they are told."""
    rt = start_runtime(config)
    (folder / f"pid-{rt.global_rank}.tmp").write_text(str(os.getpid()))
    (folder / f"pid-{rt.global_rank}.tmp").rename(folder / f"pid-{rt.global_rank}")
    if rt.global_rank == 1:
        _wait_for(folder / "go")
    rt.close()


def _suspend_all(folder: Path) -> None:
    """As `scontrol suspend` and `resume` do; the ranks do not wake up at one moment."""
    files = [folder / "pid-0", folder / "pid-1"]
    for file in files:
        _wait_for(file)
    pids = [int(file.read_text()) for file in files]
    time.sleep(0.5)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * LOST_AFTER_SECONDS)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
        time.sleep(LOST_AFTER_SECONDS / 2)
    (folder / "go").touch()


@pytest.mark.slow
def test_a_job_that_was_suspended_goes_on(tmp_path: Path) -> None:
    threading.Thread(target=_suspend_all, args=(tmp_path,), daemon=True).start()
    run_ranks(_be_suspended, 2, tmp_path, _config(tmp_path), tmp_path)
    assert (tmp_path / "go").exists()
