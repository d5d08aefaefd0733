"""The process among its peers: device, precision, role groups.

With `tracking` and the launcher of batch scripts, the only importer of accelerate.
"""

import os
import platform
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from cotrain_dist.config import Config
from cotrain_dist.config.text import flatten
from cotrain_dist.errors import PeerLostError, TrainingError, UserError
from cotrain_dist.method.placement import Placement, RankRow, check_cards, check_devices, place
from cotrain_dist.runtime.clock import Clock
from cotrain_dist.runtime.collectives import RankGroup, barrier
from cotrain_dist.runtime.deadline import Deadline
from cotrain_dist.runtime.determinism import set_determinism
from cotrain_dist.runtime.device import Device, resolve_device
from cotrain_dist.runtime.groups import build_role_groups, control_group
from cotrain_dist.runtime.heartbeat import Heartbeat
from cotrain_dist.runtime.launch import check_environment, check_world
from cotrain_dist.runtime.roll_call import Facts, call_the_roll
from cotrain_dist.runtime.standstill import Progress
from cotrain_dist.runtime.stop import STOP, ends_after
from cotrain_dist.runtime.threads import describe_threads, usable_cores
from cotrain_dist.runtime.tracking import check_tracker, track_record
from cotrain_dist.types import Role
from cotrain_dist.version import __version__, source_digest

Precision = Literal["fp32", "bf16", "fp16"]

LAUNCHER_PREFIXES = (
    *("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "ACCELERATE_", "TORCHELASTIC_"),
    *("SLURM_NTASKS", "OMPI_COMM_", "PMI_", "MV2_COMM_"),
)
"""Variables by which a launcher tells a process of its world."""

NO_END = "others did not end within {:g} s of this rank, as they should. Ending; all is committed."

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "datasets", "safetensors")


@dataclass
class Runtime:
    """Where a process stands, whom it talks to, which roles it holds."""

    accelerator: Accelerator
    placement: Placement
    rows: list[RankRow]
    control: RankGroup
    """All ranks, on the CPU: what crosses between the roles."""
    role_groups: dict[Role, RankGroup]
    """The role groups that this process is in, on the CPU: commits, sums, what is measured."""
    gradient_handles: dict[Role, dist.ProcessGroup | None]
    """The same ranks over the device's backend, for DDP; None where a role has one rank."""
    heartbeat: Heartbeat | None
    progress: Progress = field(default_factory=Progress)
    """What the heartbeat tells the others of this rank's work."""
    clock: Clock = field(default_factory=Clock)
    deadline: Deadline | None = None
    """Of `train --time`."""
    _undo: Callable[[], None] = lambda: None

    @property
    def device(self) -> torch.device:
        """Device of this process, with its index: generators are found by it."""
        device = torch.device(self.accelerator.device)
        if device.type == "cuda" and device.index is None:  # one process without a launcher
            return torch.device("cuda", torch.cuda.current_device())
        return device

    @property
    def precision(self) -> Precision:
        """What autocast runs in."""
        mixed = str(self.accelerator.mixed_precision)
        return cast(Precision, "fp32" if mixed == "no" else mixed)

    @property
    def global_rank(self) -> int:
        """Rank among all processes."""
        return self.control.index

    @property
    def num_ranks(self) -> int:
        """Number of all processes."""
        return self.control.size

    @property
    def is_lead(self) -> bool:
        """Whether this process writes the files that a run has once."""
        return self.global_rank == 0

    @property
    def is_first_on_node(self) -> bool:
        """Whether this process does what a node needs once."""
        node = self.rows[self.global_rank].node
        return self.global_rank == min(row.global_rank for row in self.rows if row.node == node)

    @property
    def num_cpus(self) -> int:
        """CPUs that this process may count on: those it may use, shared with its node's ranks."""
        node = self.rows[self.global_rank].node
        return max(1, usable_cores() // sum(row.node == node for row in self.rows))

    @property
    def roles_here(self) -> tuple[Role, ...]:
        """The roles this process holds: both in a world of one, else one."""
        return self.placement.roles_of(self.global_rank)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on this device, under the launcher's precision; not wrapped in DDP.

        Accelerate's own DDP would span the whole world and make one model of A and B.
        """
        # evaluation_mode is the public way to device and precision without DDP.
        prepared: nn.Module = self.accelerator.prepare_model(model, evaluation_mode=True)
        return prepared

    def wait_for_all(self) -> None:
        """Collective over all ranks; what passes here is counted as idle."""
        with self.clock.measure("idle"):
            barrier(self.control)

    def track(self, record: Mapping[str, Any]) -> None:
        """Send a history line to the tracker."""
        track_record(self.accelerator, record)

    def undo_on_mistake(self, undo: Callable[[], None]) -> None:
        """Call `undo` where a user's mistake, met here or on another rank, ends this process."""
        self._undo = undo
        if self.heartbeat is not None:
            self.heartbeat.undo = undo

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End in order after the block; after an exception alone, since the peers may not come."""
        if error is None:
            self.close()
            return
        # A collective whose peer has left fails in the library's words; the peer's own say more.
        reason = error
        is_of_library = isinstance(error, RuntimeError) and not isinstance(error, TrainingError)
        if self.heartbeat is not None and is_of_library:
            reason = self.heartbeat.peer_that_left() or error
            if reason is error and "gloo" in str(error).lower():
                # A peer whose own watch has ended it leaves no word; this rank's watch sees the
                # same and ends it with the true reason, unless there is none.
                self.heartbeat.watch_on()
                reason = self.heartbeat.peer_that_left() or error
        if is_of_library and STOP.is_asked:  # a rank that was waited for has stopped before
            STOP.end()
        kind_of = UserError if isinstance(reason, UserError) else type(reason)
        self.abandon(f"{kind_of.__name__}: {reason}".splitlines()[0])
        # After the others have been told, and have ended: they may have been writing.
        if isinstance(reason, UserError):
            self._undo()
        if reason is not error:
            raise reason from error

    def close(self) -> None:
        """Collective over all ranks: end in order. The second barrier keeps the store alive."""
        try:
            barrier(self.control)
            if self.heartbeat is not None:
                self.heartbeat.stop()
                # From here on nobody watches, and the group's own limit is days.
                limit = self.heartbeat.lost_after_seconds
                with ends_after(limit, f"{self.heartbeat.label}: {NO_END.format(limit)}"):
                    barrier(self.control)
        finally:  # a peer that dies at the very end must leave no thread here
            if self.heartbeat is not None:
                self.heartbeat.stop()
            _forget_world()

    def abandon(self, why: str) -> None:
        """End without the others, and tell them: no thread, group or waiting peer is left."""
        if self.heartbeat is not None:
            self.heartbeat.leave(why)
        _forget_world()


def _forget_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    # Accelerate keeps the first precision for good; a notebook may train with another next.
    AcceleratorState._reset_state(reset_partial_state=True)


def start_runtime(config: Config, *, cost_a: float = 1.0, cost_b: float = 1.0) -> Runtime:
    """Join the world that the launcher promised, or stand alone. Collective over all ranks.

    Costs are operations per image of A and B. Use it as a context manager, which ends the world
    after an exception as well. Raises UserError for a wrong start.
    """
    check_tracker(config.tracking)
    environ = dict(os.environ)  # Accelerate writes its own view of the world over WORLD_SIZE
    check_environment(environ)
    device, mistake = _settle(config, environ)
    facts = _facts(config) | (device.facts() if device is not None else {})
    limit = config.distributed.start_seconds
    # Held until the process group stands, which then shares its store.
    roll = call_the_roll(environ, facts, limit, mistake)
    assert device is not None
    # From the same roll every rank finds the same, so groups are made by all ranks or by none.
    rows = rows_of(roll.facts)
    placement = _place_on_devices(rows, config, cost_a, cost_b)
    rank = f"rank {environ.get('RANK', '0')} on {socket.gethostname()}"
    # The groups are made by calls without a limit: one killed launcher, and they wait for ever.
    message = (
        f"{rank}: the process groups did not stand within {limit:.0f} s "
        "(distributed.start_seconds); a rank or its launcher has ended. Ending."
    )
    try:
        with ends_after(limit, message):
            rt = _join(config, environ, device, rows, placement)
    # Ctrl-C included: in a notebook, half a world must not stand in the way of the next start.
    except BaseException as error:
        _forget_world()
        if isinstance(error, RuntimeError) and "WORLD_SIZE" in environ:
            why = str(error).splitlines()[0]
            raise PeerLostError(
                f"{rank}: the process groups could not be made ({why}); where other ranks say "
                "nothing of their own, a rank or its launcher has ended"
            ) from error
        raise
    del roll
    return rt


def _settle(config: Config, environ: dict[str, str]) -> tuple[Device | None, UserError | None]:
    """Device and precision of this process, or the mistake that keeps it from starting."""
    try:
        return resolve_device(config, environ), None
    # Told to all in the roll call: the others would wait for a rank that never comes.
    except UserError as error:
        return None, error


def _place_on_devices(
    rows: list[RankRow], config: Config, cost_a: float, cost_b: float
) -> Placement:
    check_devices(rows)
    placement = place(rows, cost_a=cost_a, cost_b=cost_b, ranks_a=config.placement.ranks_a)
    check_cards(rows, placement)
    return placement


def rows_of(roll: Mapping[int, Facts]) -> list[RankRow]:
    """Where each rank runs, from what it brought to the roll call."""
    return [
        RankRow(
            rank,
            facts["node"],
            # Not the index: a scheduler may show each process another GPU as cuda:0.
            f"cuda {facts['gpu']}" if "gpu" in facts else "cpu",
            facts.get("card", ""),
            facts.get("capability", ""),
        )
        for rank, facts in sorted(roll.items())
    ]


def start_alone(config: Config) -> Runtime:
    """A world of this process, whatever launcher started it; no collective.

    For looking at a training from a login node or from within a job.
    """
    names = [name for name in os.environ if name.startswith(LAUNCHER_PREFIXES)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        environ = dict(os.environ)
        device = resolve_device(config, environ)
        rows = rows_of({0: _facts(config) | device.facts()})
        placement = _place_on_devices(rows, config, 1.0, 1.0)
        return _join(config, environ, device, rows, placement)
    finally:
        os.environ.update(hidden)


def _join(
    config: Config,
    environ: dict[str, str],
    device: Device,
    rows: list[RankRow],
    placement: Placement,
) -> Runtime:
    """Collective over all ranks: the groups, and the heartbeat that watches over them."""
    limit = timedelta(seconds=config.distributed.timeout_seconds)
    # Set in both directions: a notebook may have trained with another setting before.
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    set_determinism(config.deterministic)
    accelerator = Accelerator(
        cpu=device.on_cpu,
        mixed_precision=device.mixed_precision,
        # A loader that Accelerate prepares would broadcast its generator over the world in each
        # epoch: roles of different lengths would hang.
        rng_types=[],
        log_with=None if config.tracking == "none" else config.tracking,
        project_dir=config.output_dir,
        # Else 30 minutes with gloo and 10 with NCCL, whatever the settings say.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=limit)],
    )
    check_world(environ, accelerator.num_processes)
    # The roles may differ by hours in an epoch, so this limit is long; the heartbeat is short.
    long = timedelta(seconds=config.distributed.wait_for_peer_seconds)
    control = control_group(accelerator.num_processes, accelerator.process_index, long)
    role_groups = build_role_groups(placement, control, limit, backend="gloo")
    # NCCL takes no CPU tensors, gloo is slow on GPUs: on GPUs a role has a group of each.
    on_device = role_groups
    if not device.on_cpu:
        on_device = build_role_groups(placement, control, limit, backend=None)
    return Runtime(
        accelerator=accelerator,
        placement=placement,
        rows=rows,
        control=control,
        role_groups=role_groups,
        gradient_handles={role: group.handle for role, group in on_device.items()},
        progress=(progress := Progress()),
        heartbeat=_start_heartbeat(control, rows, placement, config, progress),
    )


def _facts(config: Config) -> dict[str, str]:
    """What every rank must bring in equal form, and the node it runs on; the device comes to it."""
    settings = {key: str(value) for key, value in flatten(asdict(config)).items()}
    return {"node": socket.gethostname(), "python": platform.python_version()} | (
        {"cotrain_dist": __version__} | _versions() | settings
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _start_heartbeat(
    control: RankGroup,
    rows: list[RankRow],
    placement: Placement,
    config: Config,
    progress: Progress,
) -> Heartbeat | None:
    if control.handle is None:
        return None
    labels = [
        f"rank {row.global_rank} "
        f"(role {placement.roles_of(row.global_rank)[0].name}, node {row.node})"
        for row in rows
    ]
    heartbeat = Heartbeat(control.index, labels, config.distributed, progress)
    # A look at the counters waits for those that are missing, so every rank must have beaten once.
    barrier(control)
    heartbeat.start()
    return heartbeat


def describe_environment(rt: Runtime) -> dict[str, object]:
    """Versions, machines and ranks: what environment.json holds."""
    return {
        "cotrain_dist": __version__,
        # The version alone would not tell a changed checkout.
        "source": source_digest(),
        "python": platform.python_version(),
        **_versions(),
        "platform": platform.platform(),
        "num_threads_per_rank": torch.get_num_threads(),
        "threads": describe_threads(os.environ),
        "precision": rt.precision,
        "distributed": str(rt.accelerator.distributed_type.value),
        "ranks": [
            asdict(row) | {"roles": [role.value for role in rt.placement.roles_of(row.global_rank)]}
            for row in rt.rows
        ],
    }
