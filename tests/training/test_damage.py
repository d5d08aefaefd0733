"""Files of a run truncated, flipped or gone at random places: each is noticed, none is trained on.

What a resume does up to the restored state is done for each of them in one process; some go through
the whole command as well.
"""

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks import RanksFailed, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import CheckpointConfig, Config
from cotrain_dist.errors import UserError
from cotrain_dist.store.checkpoint import commits_in, read_state
from cotrain_dist.training.within import Within

NUM_CASES = 220


def _die_after_commits(config: Config) -> None:
    """A body: ends in the second epoch of Step 2, once both models have committed within it."""
    look, seen = Within.look, set[str]()

    def look_and_die(self: Any, progress: Any) -> None:
        look(self, progress)
        if self._epoch == 2 and self._phase == "cotrain" and progress.num_steps == 2:
            self.wait()
            seen.add(self._student.role.value)
            if seen == {"a", "b"}:
                raise RuntimeError("killed here")

    with mock.patch.object(Within, "look", look_and_die):
        train_run(config)


@pytest.fixture(scope="module")
def stopped(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A run that has commits of epochs and within one. Copy it; do not change it."""
    folder = tmp_path_factory.mktemp("stopped")
    config = tiny_config(digits_folder, folder / "run")
    config = replace(config, checkpoint=CheckpointConfig(every_steps=1, every_minutes=None))
    with pytest.raises(RanksFailed, match="killed here"):
        run_ranks(_die_after_commits, 1, folder, config)
    steps = folder / "run" / "checkpoints" / "steps"
    assert len(commits_in(steps / "a")) == len(commits_in(steps / "b")) == 2
    return folder / "run", config


def _files_of(run: Path) -> list[Path]:
    """What a resume, or whoever takes the models, reads of a run."""
    checkpoints = run / "checkpoints"
    parts = ("a", "b", "world", "steps/a", "steps/b")
    # The newest of each part: those before it are read where it is damaged.
    kept = [path for part in parts for path in commits_in(checkpoints / part)[-1].iterdir()]
    kept += [path for path in (run / "models").rglob("*") if path.parent.name in ("a", "b")]
    kept += [run / name for name in ("run.json", "history.jsonl", "splits.parquet")]
    return sorted(path.relative_to(run) for path in kept)


def _damage(file: Path, rng: random.Random) -> str:
    """Flip a bit, cut the file short, fill a stretch with zeros, or delete it."""
    content, way = (
        bytearray(file.read_bytes()),
        rng.choice(["flip", "flip", "cut", "zeros", "gone"]),
    )
    at = rng.randrange(len(content))
    if way == "gone":
        file.unlink()
        return way
    if way == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif way == "cut":
        content = content[:at]
    else:
        length = min(rng.randint(1, 64), len(content) - at)
        if not any(content[at : at + length]):
            content[at] = 1
        else:
            content[at : at + length] = bytes(length)
    file.write_bytes(content)
    return f"{way} at {at}"


@dataclass(frozen=True)
class _Outcome:
    """What came of one damaged file."""

    file: str
    way: str
    refused: str
    warnings: list[str]
    state: str
    """Digest of what was restored; empty where it was refused."""


def _restored(run: Path, *, exports: bool) -> tuple[str, list[str]]:
    """Digest of all that a resume of `run` would go on from, or of its saved models; warnings."""
    import torch

    from cotrain_dist.data.splits import load_split_table
    from cotrain_dist.inference.evaluate import load_classifiers
    from cotrain_dist.store.run_directory import RunDirectory
    from cotrain_dist.training.commits import restore_cotrain, restore_pretrain
    from cotrain_dist.training.found import agree_on_commits, find_commits
    from cotrain_dist.training.student import start_step_two
    from cotrain_dist.types import Position

    students, images, outer = _WORLD
    ctx = replace(outer, store=RunDirectory(run))
    warnings: list[str] = []
    table = load_split_table(run)
    images = replace(images, table=table)
    if exports:
        digest = hashlib.sha256()
        for classifier in load_classifiers(table.class_names, ctx):
            for value in classifier.whole.state_dict().values():
                digest.update(value.numpy().tobytes())
        return digest.hexdigest(), []
    with mock.patch.object(type(ctx.reporter), "warn", lambda self, line: warnings.append(line)):
        ctx.store.check_is_run()
        found = find_commits(table, ctx)
        commits = agree_on_commits(found, ctx)
        digest = hashlib.sha256(table.digest.encode())
        if "world" in commits:
            for student in students:
                start_step_two(student)
            state: Any = restore_cotrain(students, commits["world"], images, ctx)
            following = state.next
            digest.update(state.ever_selected.numpy().tobytes())
            for student in students:
                with Within(student, "cotrain", Position(following.epoch), ctx) as within:
                    progress = within.restore(9)
                digest.update(repr(progress and progress.num_steps).encode())
        else:
            states = [restore_pretrain(s, commits.get(s.role.value), images, ctx) for s in students]
            following = [own.next for own in states]
        digest.update(f"{following} {ctx.store.history.digest(10**6)}".encode())
        for student in students:
            tensors = [*student.model.state_dict().values()]
            tensors += [v for s in student.optimizer.state.values() for v in s.values()]
            for value in tensors:
                digest.update(torch.as_tensor(value).contiguous().numpy().tobytes())
    return digest.hexdigest(), warnings


_WORLD: Any = None


def _campaign(config: Config, run: Path, folder: Path, num: int, seed: int) -> list[_Outcome]:
    """A body: the two undisturbed outcomes, then that of each damaged copy."""
    from ranks import build_students

    global _WORLD
    _WORLD = build_students(replace(config, output_dir=str(folder / "new")))
    rng, copy = random.Random(seed), folder / "copy"
    outcomes = [
        _Outcome("", "", "", *reversed(_restored(run, exports=exports)))
        for exports in (False, True)
    ]
    files = _files_of(run)
    for index in range(num):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        file = files[index % len(files)]
        way, refused, state, warnings = _damage(copy / file, rng), "", "", list[str]()
        try:
            state, warnings = _restored(copy, exports=file.parts[0] == "models")
        except UserError as error:
            refused = str(error)
        outcomes.append(_Outcome(str(file), way, refused, warnings, state))
    _WORLD[2].runtime.close()
    return outcomes


def _judge(outcomes: list[_Outcome]) -> dict[str, int]:
    """How many were refused, fell back, or changed nothing; fails on any other."""
    *whole, damaged = *outcomes[:2], outcomes[2:]
    assert not any(one.warnings for one in whole)
    states = {one.state for one in whole}
    counts = {"refused": 0, "fell back": 0, "same": 0}
    for one in damaged:
        if one.refused:
            counts["refused"] += 1
            assert one.refused.isprintable(), one
        elif one.state in states:
            # What was damaged says nothing that counts (a number of attempts, a note).
            assert not one.file.startswith("checkpoints") or one.warnings, one
            counts["same"] += 1
        else:
            assert one.warnings, one
            assert all("skipped" in line for line in one.warnings), one
            counts["fell back"] += 1
    return counts


@pytest.mark.slow
def test_what_is_damaged_is_noticed_wherever_it_is(
    stopped: tuple[Path, Config], tmp_path: Path
) -> None:
    run, config = stopped
    (outcomes,) = run_ranks(
        _campaign, 1, tmp_path, config, run, tmp_path, NUM_CASES, 0, timeout_seconds=500
    )
    assert len(outcomes) == NUM_CASES + 2
    counts = _judge(outcomes)
    print(counts)
    of_commits = [one for one in outcomes[2:] if one.file.startswith("checkpoints")]
    assert len(of_commits) >= 0.7 * NUM_CASES
    # The commit before is whole, so no damage to one commit ends a run.
    assert not [one for one in of_commits if one.refused]
    assert counts["same"] <= 0.1 * NUM_CASES


def test_a_run_with_a_damaged_commit_ends_as_if_nothing_had_been(
    stopped: tuple[Path, Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its newest world commit: the one before is taken, and attempts are counted right."""
    run, _ = stopped
    shutil.copytree(run, tmp_path / "damaged")
    newest = commits_in(tmp_path / "damaged" / "checkpoints" / "world")[-1]
    (newest / "state.json").write_text("{}")
    assert cli.main(["train", "--resume", str(tmp_path / "damaged")]) == 0
    shown = capsys.readouterr().out
    assert "skipped for the commit before it: checkpoint: " in shown
    shutil.copytree(run, tmp_path / "whole")
    assert cli.main(["train", "--resume", str(tmp_path / "whole")]) == 0
    assert history_of(tmp_path / "damaged") == history_of(tmp_path / "whole")
    for name in ("a", "b", "best"):
        file = f"models/{name}/model.safetensors"
        assert (tmp_path / "damaged" / file).read_bytes() == (
            tmp_path / "whole" / file
        ).read_bytes()
    assert json.loads((tmp_path / "damaged" / "run.json").read_text())["attempt"] == 2
    assert read_state(commits_in(tmp_path / "damaged" / "checkpoints" / "world")[-1])


@pytest.mark.parametrize("what", ["world", "a"])
def test_without_a_whole_commit_the_resume_is_refused_and_counts_no_attempt(
    what: str,
    stopped: tuple[Path, Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped[0], run)
    for commit in commits_in(run / "checkpoints" / what):
        (commit / "manifest.json").write_text('{"format": 1, "files": {"../../run.json": ""}}')
    (run / "fence").write_text("2\n")  # raised before commits are looked at, so that they stay
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for _ in range(2):
        assert cli.main(["train", "--resume", str(run)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "restore " in error
        assert " from a copy, or start a new run." in error
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == before
