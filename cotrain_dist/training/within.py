"""Commits within an epoch: one model after some steps, so that a kill costs minutes of an epoch.

    checkpoints/steps/a/cotrain-00003-0000120/  model, optimizer, rank-N of each rank, state.json

Such a commit adds to the one that its epoch began with, which it names: a resume begins that epoch
again (the votes on U come out the same, bit for bit), and each model then goes on from its own last
step. The roles do not meet for it. Every draw is keyed by epoch and step, so what is left of the
epoch has the same bits. To commit changes nothing: statistics of batch normalization, which differ
between ranks within an epoch, are kept as each rank has them.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from cotrain_dist.config.text import config_digest
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.collectives import (
    RankGroup,
    all_gather_bytes,
    broadcast_json,
    max_over,
    together,
)
from cotrain_dist.runtime.stop import STOP
from cotrain_dist.store.checkpoint import (
    commit,
    commits_in,
    discard,
    keep_last,
    manifest_digest,
    read_state,
    read_tensors,
)
from cotrain_dist.store.shared import wait_until_seen
from cotrain_dist.training.context import RunContext
from cotrain_dist.training.snapshot import load_snapshot, snapshot_of
from cotrain_dist.training.student import Student
from cotrain_dist.types import Position

STEPS_BETWEEN_LOOKS = 8
"""Steps after which the ranks of a model agree on whether it is time: a collective of 16 bytes."""

FIRST_LOOKS = (1, 2, 4)
"""Steps after which they do so as well: an epoch may have fewer than eight."""


@dataclass
class Progress:
    """How far this rank has come in an epoch, and what it has counted on the way."""

    num_steps: int
    """Steps taken, of all of the epoch."""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """Scalars of this rank, by name."""


class Within:
    """The commits of one model within one epoch."""

    def __init__(self, student: Student, phase: str, start: Position, ctx: RunContext) -> None:
        self._student, self._phase, self._epoch = student, phase, start.epoch
        self._ctx, self._limits = ctx, ctx.config.checkpoint
        self._folder = ctx.store.checkpoints / "steps" / student.role.value
        self._last = time.monotonic()
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self.before_commit: Callable[[], None] = lambda: None
        """Raises where what the model has become is not to be kept."""

    def __enter__(self) -> "Within":
        STOP.begin_steps()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Nothing is written any more once the epoch has ended, by itself or by an error."""
        if kind is None:
            self.wait()
        elif self._writer is not None:
            self._writer.join()

    def restore(self, num_steps: int) -> Progress | None:
        """Collective over the role group: load what was committed last in this epoch.

        num_steps: of the whole epoch. None where nothing was, or where it does not fit: made after
        another commit, with steps cut into another number of shards, or in another precision.
        Damaged ones are left out.
        """
        group = self._student.group
        chosen = broadcast_json(self._choose() if group.index == 0 else None, group)
        if chosen is None:
            return None
        folder = self._folder / chosen["name"]
        together(lambda: wait_until_seen(folder), group)
        state = together(lambda: read_state(folder), group)
        load_snapshot(self._student, folder, state)
        own = together(lambda: _part_of_rank(folder, self._student), group)
        with torch.no_grad():
            for name, buffer in _buffers_of(self._student).items():
                buffer.copy_(own[name])
        counts = {
            name.removeprefix("count."): value
            for name, value in own.items()
            if name.startswith("count.")
        }
        name = self._student.role.name
        self._ctx.reporter.say(
            f"{self._phase} {self._epoch}: {name} goes on after step {state['num_steps']} of "
            f"{num_steps}"
        )
        return Progress(state["num_steps"], counts)

    def _choose(self) -> dict[str, Any] | None:
        """On the lead rank of the role: the newest commit that fits."""
        wanted = self._about()
        for folder in reversed(commits_in(self._folder)):
            try:
                state = read_state(folder)
            except UserError as error:
                self._ctx.reporter.warn(f"skipped: {error}")
                continue
            if all(state.get(key) == value for key, value in wanted.items()):
                return {"name": folder.name}
        return None

    def _about(self) -> dict[str, Any]:
        """What a commit has to agree with."""
        checkpoints, role = self._ctx.store.checkpoints, self._student.role.value
        part = role if self._phase == "pretrain" else "world"
        before = checkpoints / part / f"{self._phase}-{self._epoch - 1:05d}"
        return {
            "phase": self._phase,
            "epoch": self._epoch,
            "after": manifest_digest(before),
            "num_shards": self._student.num_shards,
            "precision": self._ctx.runtime.precision,
            "config_sha256": config_digest(self._ctx.config),
        }

    def look(self, progress: Progress) -> None:
        """After a step; collective over the role group where a commit is due, and now and then.

        Where a rank of the model was asked to stop, its ranks commit and end.
        """
        is_stop = False
        number, is_alone = progress.num_steps, self._student.group.size == 1
        # A lone rank has nobody to agree with.
        if is_alone or number in FIRST_LOOKS or number % STEPS_BETWEEN_LOOKS == 0:
            # Clocks differ, and so would what the ranks do.
            asked = torch.tensor([int(self._is_time()), int(STOP.is_asked)])
            is_time, is_stop = map(bool, max_over(asked, self._student.group))
        else:
            is_time = False
        every = self._limits.every_steps
        if is_time or is_stop or (every is not None and number % every == 0):
            self._commit(progress)
        if is_stop:
            self.wait()
            STOP.end(f"committed after {number} steps of the epoch; ")

    def _is_time(self) -> bool:
        minutes = self._limits.every_minutes
        return minutes is not None and time.monotonic() - self._last >= 60.0 * minutes

    def _commit(self, progress: Progress) -> None:
        """Collective over the role group. What this rank waits for is a copy of its tensors."""
        self.before_commit()
        with self._ctx.runtime.clock.measure("commit"):
            self.wait()
            own = _buffers_of(self._student)
            own |= {f"count.{name}": value for name, value in progress.counts.items()}
            packed = save({name: _copy(value) for name, value in own.items()})
            parts = all_gather_bytes(packed, self._student.group)
            self._last = time.monotonic()
            if self._student.group.index:
                return
            tensors, state = snapshot_of(self._student)
            files = {
                name: {key: _copy(value) for key, value in values.items()}
                for name, values in tensors.items()
            }
            files |= {f"rank-{index}": load(part) for index, part in enumerate(parts)}
            state |= self._about() | {"num_steps": progress.num_steps}
            name = f"{self._phase}-{self._epoch:05d}-{progress.num_steps:07d}"
            self._writer = threading.Thread(
                target=self._write, args=(self._folder / name, files, state), name="commit"
            )
            self._writer.start()

    def _write(
        self, target: Path, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        try:
            commit(target, files, state, _alone(self._student.group), self._ctx.store.fenced)
            keep_last(self._folder, self._limits.keep)
        except BaseException as error:  # raised in `wait`, by the thread that trains
            self._error = error

    def wait(self) -> None:
        """Until what was begun stands on the disk. Raises what has kept it from that."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _part_of_rank(folder: Path, student: Student) -> dict[str, Tensor]:
    """Buffers and counts that this rank goes on from.

    With `train.exact_elastic` the commit may be of another number of ranks. Their buffers are equal
    then, and what they have counted is shared out anew: sums over ranks stay.
    """
    index, size = student.group.index, student.group.size
    if student.exact is None:
        return read_tensors(folder, f"rank-{index}")
    num_parts = len(list(folder.glob("rank-*.safetensors")))
    own = read_tensors(folder, "rank-0")
    parts = [read_tensors(folder, f"rank-{part}") for part in range(index, num_parts, size)]
    for name in own:
        # Steps that were left out are counted by all ranks alike.
        if name.startswith("count.") and not name.startswith("count.num_skipped"):
            found = [part[name] for part in parts]
            own[name] = torch.stack(found).sum(dim=0) if found else torch.zeros_like(own[name])
    return own


def _buffers_of(student: Student) -> dict[str, Tensor]:
    """Statistics of the model and of its moving average, by a name for each."""
    models = {"buffer": student.model}
    if student.ema is not None:
        models["ema_buffer"] = student.ema.module
    return {
        f"{kind}.{name}": buffer
        for kind, model in models.items()
        for name, buffer in model.named_buffers()
    }


def _copy(values: Tensor) -> Tensor:
    # A clone: on a CPU `cpu()` gives the very tensor that the next step changes.
    return values.detach().cpu().clone(memory_format=torch.contiguous_format)


def _alone(group: RankGroup) -> RankGroup:
    """One rank as a group: who writes in the background meets nobody."""
    return RankGroup(group.name, (group.ranks[group.index],), 0)


def forget_steps(student: Student, checkpoints: Path) -> None:
    """On the lead rank of a role, once an epoch is committed: delete what it has within it."""
    if not student.is_lead:
        return
    folder = checkpoints / "steps" / student.role.value
    for path in commits_in(folder):
        discard(path)
    shutil.rmtree(folder, ignore_errors=True)
