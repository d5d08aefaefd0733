"""A rank that lives but does not get on ends the world by its name; one that waits does not."""

import os
import re
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ranks
from ranks import RanksFailed, run_ranks, tiny_config

from cotrain_dist.config import Config
from cotrain_dist.config.running import DistributedConfig
from cotrain_dist.errors import EXIT_PEER_LOST, PeerLostError, UserError
from cotrain_dist.runtime.accelerator import start_runtime
from cotrain_dist.runtime.collectives import barrier
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.runtime.standstill import Beat, Progress
from cotrain_dist.training import evaluate, steps
from cotrain_dist.training import train as train_module

LIMITS = {"lost_after_seconds": 6.0, "stalled_after_seconds": 6.0}
NOTICED_SECONDS = 25.0


def _sleeping(function: Any, num_calls: int, file: Path) -> Any:
    """`function`, which never comes back after some calls."""
    calls: list[None] = []

    def called(*args: Any, **keywords: Any) -> Any:
        calls.append(None)
        if len(calls) > num_calls:
            file.touch()
            threading.Event().wait()
        return function(*args, **keywords)

    return called


def _train_asleep(config: Config, which: int, where: str) -> None:
    """A body: a training in which one rank falls asleep for ever."""
    file = Path(config.output_dir).parent / "asleep"
    module, name, num_calls = {
        "in a step": (steps, "train_step", 2),
        "on a pass": (evaluate, "chunks_of_rank", 1),
    }[where]
    if int(os.environ["RANK"]) != which:
        num_calls = 1_000_000
    try:
        with mock.patch.object(module, name, _sleeping(getattr(module, name), num_calls, file)):
            train_module.train(config, resume=False)
    except PeerLostError as error:  # its collective has failed first; as `main` does
        print(error, flush=True)
        os._exit(EXIT_PEER_LOST)


@pytest.mark.parametrize(
    ("num_ranks", "which", "where", "what"),
    [
        (2, 1, "in a step", "pretrain 1: train B`, now in training/steps.py:"),
        pytest.param(
            *(2, 0, "on a pass", "measure A`, now in training/evaluate.py:"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(4, 3, "in a step", "pretrain 1: train B`, now in training/steps.py:"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_that_sleeps_for_ever_ends_all_by_its_name(
    num_ranks: int,
    which: int,
    where: str,
    what: str,
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its heartbeat goes on. The others wait for it: in a barrier, or in the backward pass."""
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 20.0)  # all of them end, on a busy machine too
    config = tiny_config(digits_folder, tmp_path / "run", distributed=LIMITS)
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_train_asleep, num_ranks, tmp_path, config, which, where)
    assert failure.value.exit_codes == dict.fromkeys(range(num_ranks), EXIT_PEER_LOST)
    seconds = (tmp_path / "asleep").stat().st_mtime
    assert time.time() - seconds < LIMITS["stalled_after_seconds"] + NOTICED_SECONDS
    role = "AB"[which >= num_ranks // 2]
    for rank in range(num_ranks):
        printed = (tmp_path / f"rank-{rank}.out").read_text()
        assert re.search(rf"rank {rank} \(role ., node \S+\): nothing was done for 6 s", printed)
        assert "(distributed.stalled_after_seconds) by rank " in printed
        # Alone, without those of its role that wait for it in the backward pass.
        assert re.search(rf" by rank {which} \(role {role}, node \S+\), last seen at `", printed)
        assert what in printed
        assert "(backward pass)" not in printed
        # Nobody of the other role, which waits in a barrier, or still trains.
        assert f"(role {'BA'[which >= num_ranks // 2]}, node" not in printed.partition("by rank")[2]
        assert "train --resume" in printed


def _take_long(config: Config) -> list[float]:
    """A body: rank 1 works slowly, and then on one long piece; rank 0 waits for it twice."""
    seconds = []
    with start_runtime(config) as rt, rt.progress.expected():
        limit = config.distributed.stalled_after_seconds
        for long in (False, True):
            started = time.monotonic()
            if rt.global_rank == 1 and long:
                with rt.progress.excused():
                    time.sleep(1.5 * limit)
            elif rt.global_rank == 1:
                with Reporter(False, rt.progress).track("slow", 10) as advance:
                    for _ in range(10):
                        time.sleep(0.15 * limit)
                        advance(1)
            barrier(rt.control)
            seconds.append(time.monotonic() - started)
    return seconds


@pytest.mark.slow
def test_slow_work_and_waiting_for_it_are_no_standstill(tmp_path: Path) -> None:
    limit = 3.0
    limits = {"lost_after_seconds": limit, "stalled_after_seconds": limit}
    config = tiny_config(tmp_path, tmp_path / "run", distributed=limits)
    waited, _ = run_ranks(_take_long, 2, tmp_path, config)
    assert min(waited) > limit


def test_nothing_is_expected_outside_of_a_training() -> None:
    progress = Progress()
    assert not progress.beat(1).is_expected
    with progress.expected():
        progress.note("pretrain 1: train A")
        beat = progress.beat(2)
        assert beat.is_expected
        assert beat.num_done == 1
        assert beat.where.startswith("last seen at `pretrain 1: train A`, now in ")
        assert Beat.parse(beat.pack().encode()) == beat
        with progress.excused():
            assert not progress.beat(3).is_expected
        assert progress.beat(4).is_expected
        assert progress.beat(4).num_done == 2
    assert not progress.beat(5).is_expected


def test_a_limit_below_that_of_lost_ranks_is_refused() -> None:
    with pytest.raises(UserError, match=r"distributed.stalled_after_seconds: 30.0: must not be b"):
        DistributedConfig(stalled_after_seconds=30.0)
