"""The helper itself: a test that fails on a rank, or hangs there, says where, and goes on."""

import os
import time
from pathlib import Path

import pytest
from ranks import RanksFailed, run_ranks


def _fail_beside_a_sleeper() -> None:
    if os.environ["RANK"] == "1":
        raise KeyError("of rank 1")
    print("rank 0 falls asleep", flush=True)
    time.sleep(300)


def _sleep() -> None:
    time.sleep(300)


def _rank() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("RANK")


@pytest.mark.slow
def test_a_failure_shows_its_rank_and_who_hangs_because_of_it(tmp_path: Path) -> None:
    before = run_ranks(_rank, 3, tmp_path)
    with pytest.raises(RanksFailed) as failure:
        run_ranks(_fail_beside_a_sleeper, 2, tmp_path)
    text = str(failure.value)
    assert "rank 1 raised:\nTraceback" in text
    assert "KeyError: 'of rank 1'" in text
    assert "rank(s) [0] did not end after another had failed" in text
    assert "rank 0 falls asleep" in text
    assert "in _fail_beside_a_sleeper" in text.split("rank-0.out")[1]  # its stack
    after = run_ranks(_rank, 2, tmp_path)
    assert [rank for _, rank in after] == ["0", "1"]
    killed = {pid for pid, _ in before[:2]}
    assert not killed & {pid for pid, _ in after}


def test_a_hanging_rank_is_named_in_time(tmp_path: Path) -> None:
    (before,) = run_ranks(_rank, 1, tmp_path)
    assert before[1] is None
    started = time.monotonic()
    with pytest.raises(RanksFailed, match=r"rank\(s\) \[0\] did not end after 1 seconds"):
        run_ranks(_sleep, 1, tmp_path, timeout_seconds=1)
    assert time.monotonic() - started < 10
    assert not Path(f"/proc/{before[0]}").exists()
