"""Real processes for tests: `run_ranks` runs a body on every rank of a world.

A body is a top-level function of an importable module. The processes are spawned once and stay warm
for the session, because importing torch and timm costs 5 to 10 seconds each: a world of N is the
first N of one set. This module imports no torch, so that loading it is free.
"""

import faulthandler
import gc
import importlib
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, get_type_hints

from cotrain_dist.config import Config
from cotrain_dist.errors import TrainingError, UserError

GRACE_SECONDS = 3.0
"""How long the other ranks may still report after the first one has failed."""

START_SECONDS = 240.0
"""How long a fresh process may take to import torch and timm, on a busy machine."""

CLEAN_SECONDS = 30.0
"""How long per rank may take to leave its world after a body."""

ORDERLY_SECONDS = 10.0
"""How long a rank of a failed world may take to end by itself."""

NUM_PORTS_TRIED = 3

NUM_WARM = 4
"""Processes that are started together: on their own they would import one after the other."""

DEVICE = os.environ.get("COTRAIN_TEST_DEVICE", "cpu")
"""Device of the trainings that tests start: `cpu`, or `cuda` as `make test-gpu` says."""

WORLD_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"),
)


class RanksFailed(AssertionError):
    """A body raised, a rank ended or hung. `exit_codes` and `ended_at` are those of ended ranks."""

    def __init__(self, text: str, failed: "dict[int, _Outcome]") -> None:
        super().__init__(text)
        self.exit_codes = {
            rank: outcome.exit_code
            for rank, outcome in failed.items()
            if outcome.exit_code is not None
        }
        self.ended_at = {rank: outcome.at for rank, outcome in failed.items()}


@dataclass(frozen=True)
class _Outcome:
    """What a rank answered, or that it ended."""

    value: Any = None
    traceback: str | None = None
    exit_code: int | None = None
    at: float = field(default_factory=time.monotonic)

    @property
    def is_failure(self) -> bool:
        return self.traceback is not None or self.exit_code is not None


class _Rank:
    """One warm process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, list(sys.path)), daemon=True)
        self.process.start()
        theirs.close()
        self.is_awake = False
        self.send("wake")

    def send(self, step: str, **arguments: Any) -> None:
        self.pipe.send_bytes(pickle.dumps((step, arguments)))

    def end(self, *, has_answered: bool = False) -> None:
        """Kill it; one that has answered may first end by itself, and write which lines it ran."""
        if has_answered:
            self.pipe.close()
            self.process.join(timeout=ORDERLY_SECONDS)
        self.process.kill()
        self.process.join(timeout=CLEAN_SECONDS)
        self.pipe.close()


_warm: list[_Rank] = []


def run_ranks(
    body: Callable[..., Any],
    num_ranks: int,
    tmp_path: Path,
    *args: Any,
    timeout_seconds: float = 120,
) -> list[Any]:
    """Run `body(*args)` on every rank of a fresh world; returns the results by rank.

    Ranks write what they print to tmp_path/rank-N.out. A world of one has no process group. Raises
    RanksFailed with the rank and its traceback, or with the ranks that hang, and kills the world.
    """
    for attempt in range(NUM_PORTS_TRIED):
        try:
            return _run_once(body, num_ranks, tmp_path, args, timeout_seconds)
        except RanksFailed as error:
            if "EADDRINUSE" not in str(error) or attempt == NUM_PORTS_TRIED - 1:
                raise
    raise AssertionError("unreachable")


def close_ranks() -> None:
    """End all warm processes in order, so that they write down which lines they ran."""
    for rank in _warm:
        rank.pipe.close()
    for rank in _warm:
        rank.process.join(timeout=CLEAN_SECONDS)
        rank.end()
    _warm.clear()


def _run_once(
    body: Callable[..., Any], num_ranks: int, tmp_path: Path, args: Any, timeout_seconds: float
) -> list[Any]:
    _warm.extend(_Rank() for _ in range(max(num_ranks, NUM_WARM) - len(_warm)))
    ranks = _warm[:num_ranks]
    _answers([rank for rank in ranks if not rank.is_awake], START_SECONDS, tmp_path)
    for rank in ranks:
        rank.is_awake = True
    port = _free_port()
    for global_rank, rank in enumerate(ranks):
        rank.send(
            "run",
            module=body.__module__,
            name=body.__qualname__,
            paths=list(sys.path),
            args=pickle.dumps(args),
            environ=_environ(global_rank, num_ranks, port),
            output=str(tmp_path / f"rank-{global_rank}.out"),
        )
    outcomes = _answers(ranks, timeout_seconds, tmp_path)
    # In two steps, since the store that a heartbeat talks to lives in rank 0's process group.
    for step in ("hush", "leave"):
        for rank in ranks:
            rank.send(step)
        _answers(ranks, CLEAN_SECONDS, tmp_path)
    return [outcome.value for outcome in outcomes]


def _answers(ranks: list[_Rank], timeout_seconds: float, tmp_path: Path) -> list[_Outcome]:
    """One answer of every rank; else kills the ranks and raises RanksFailed."""
    deadline = time.monotonic() + timeout_seconds
    outcomes: dict[int, _Outcome] = {}
    while len(outcomes) < len(ranks) and (left := deadline - time.monotonic()) > 0:
        waiting = {
            handle: index
            for index, rank in enumerate(ranks)
            if index not in outcomes
            for handle in (rank.pipe, rank.process.sentinel)
        }
        for handle in wait(list(waiting), timeout=left):
            index = waiting[handle]  # type: ignore[index]
            if index not in outcomes:
                outcomes[index] = _outcome(ranks[index])
        if any(outcome.is_failure for outcome in outcomes.values()):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if len(outcomes) < len(ranks):
                time.sleep(0.01)
    failed = {index: outcome for index, outcome in outcomes.items() if outcome.is_failure}
    if not failed and len(outcomes) == len(ranks):
        return [outcomes[index] for index in range(len(ranks))]
    hanging = [index for index in range(len(ranks)) if index not in outcomes]
    text = _describe(ranks, failed, hanging, timeout_seconds, tmp_path)
    for index, rank in enumerate(ranks):
        rank.end(has_answered=index in outcomes)
        _warm.remove(rank)
    raise RanksFailed(text, failed)


def _outcome(rank: _Rank) -> _Outcome:
    try:
        if rank.pipe.poll():
            return _Outcome(**pickle.loads(rank.pipe.recv_bytes()))
    except (EOFError, OSError):
        pass
    rank.process.join(timeout=1)
    return _Outcome(exit_code=rank.process.exitcode)


def _describe(
    ranks: list[_Rank],
    failed: dict[int, _Outcome],
    hanging: list[int],
    timeout_seconds: float,
    tmp_path: Path,
) -> str:
    parts = []
    for index, outcome in sorted(failed.items()):
        parts.append(
            f"rank {index} ended with exit code {outcome.exit_code}"
            if outcome.traceback is None
            else f"rank {index} raised:\n{outcome.traceback}"
        )
    if hanging:
        why = "after another had failed" if failed else f"after {timeout_seconds:g} seconds"
        parts.append(f"rank(s) {hanging} did not end {why}")
        for index in hanging:
            os.kill(ranks[index].process.pid or 0, signal.SIGUSR1)  # faulthandler: their stacks
        time.sleep(0.5)
    for index in sorted({*failed, *hanging}):
        output = tmp_path / f"rank-{index}.out"
        if output.is_file():
            parts.append(f"--- {output}\n{output.read_text(errors='replace')[-3000:]}")
    return "\n".join(parts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environ(global_rank: int, num_ranks: int, port: int) -> dict[str, str]:
    if num_ranks == 1:
        return {}
    values = (global_rank, global_rank, num_ranks, num_ranks, "127.0.0.1", port, "lo")
    return dict(zip(WORLD_VARIABLES, map(str, values), strict=True))


def start_commands(
    num_ranks: int, words: Sequence[str], folder: Path, **extra_environ: str
) -> "list[subprocess.Popen[bytes]]":
    """The program as fresh ranks of one world; what rank N prints goes to `folder`/N.out."""
    port, started = _free_port(), []
    for rank in range(num_ranks):
        environ = {**os.environ, "OMP_NUM_THREADS": "1", **extra_environ}
        with (folder / f"{rank}.out").open("wb") as file:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "cotrain_dist", *words],
                    stdout=file,
                    stderr=file,
                    env=environ | _environ(rank, num_ranks, port),
                )
            )
    return started


def _serve(pipe: Connection, paths: list[str]) -> None:
    """A rank process: answers every message with a value or a traceback."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pytest ends the ranks, not the terminal
    faulthandler.register(signal.SIGUSR1)
    sys.path.extend(path for path in paths if path not in sys.path)
    steps: dict[str, Callable[..., Any]] = {
        step.__name__.lstrip("_"): step for step in (_wake, _run, _hush, _leave)
    }
    while True:
        try:
            step, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = pickle.dumps({"value": steps[step](**arguments)})
        except BaseException:
            answer = pickle.dumps({"traceback": traceback.format_exc()})
        pipe.send_bytes(answer)


def _wake() -> None:
    """Import what takes seconds."""
    importlib.import_module("cotrain_dist.training.train")


def _run(
    module: str, name: str, paths: list[str], args: bytes, environ: dict[str, str], output: str
) -> Any:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for variable in list(os.environ):
        if variable in WORLD_VARIABLES or variable.startswith("ACCELERATE_"):
            del os.environ[variable]
    os.environ |= environ
    sys.path.extend(path for path in paths if path not in sys.path)
    import torch

    torch.set_num_threads(1)
    if DEVICE == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > torch.cuda.device_count():
        _share_the_gpu()
    body = getattr(importlib.import_module(module), name)
    return body(*pickle.loads(args))


def _share_the_gpu() -> None:
    """Let all ranks use one GPU, which a training refuses, as NCCL does: gradients go over gloo."""
    from cotrain_dist.runtime import accelerator, groups

    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    accelerator.check_devices = lambda rows: None
    if not hasattr(groups, "new_group_of_tests"):
        new_group = groups.new_group_of_tests = groups.new_group  # type: ignore[attr-defined]
        groups.new_group = lambda ranks, backend, *rest: new_group(ranks, "gloo", *rest)


def _hush() -> None:
    """Stop the heartbeats of a body that ended early: one that lost its store ends the process."""
    # All of them first: a thread that has ended forgets whose it was.
    targets = [getattr(t, "_target", None) for t in threading.enumerate() if t.name == "heartbeat"]
    for target in targets:
        if target is not None:
            target.__self__.stop()


def _leave() -> None:
    """Leave the world and forget it, so that the next body starts clean."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState, GradientState

    if dist.is_initialized():
        dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()  # closes the lock file of a run whose objects refer to each other
    sys.stdout.flush()


TINY: dict[str, dict[str, Any]] = {
    "data": {
        "source": "imagefolder",
        "image_size": 32,
        "center_crop_fraction": 1.0,
        "augment": "off",
        "test_per_class": 5,
        "labeled_per_class": 4,
    },
    "model_a": {"name": "test_resnet"},
    "model_b": {"name": "test_resnet"},
    "train": {"batch_size": 16},
    "pretrain": {"num_epochs": 2, "warmup_epochs": 0, "learning_rate": 3e-3},
    "cotrain": {"num_epochs": 2, "warmup_epochs": 0, "learning_rate": 1e-3},
    "selection": {"threshold": 0.3},
    "pool": {"batch_size": 32},
    "distributed": {"timeout_seconds": 60.0, "wait_for_peer_seconds": 60.0},
}


def tiny_config(root: Path, output_dir: Path, **changes: Any) -> Config:
    """The settings of a run of seconds on `digits_folder`; `changes` are sections or plain keys.

    >>> tiny_config(Path("r"), Path("o"), model_b={"name": "test_vit"}, seed=1).model_b.name
    'test_vit'
    """
    hints = get_type_hints(Config)
    sections = {name: dict(values) for name, values in TINY.items()}
    sections["data"]["root"] = str(root)
    plain: dict[str, Any] = {"device": DEVICE, "output_dir": str(output_dir)}
    for name, value in changes.items():
        if name in plain or not isinstance(value, dict):
            plain[name] = value
        else:
            sections[name] = sections.get(name, {}) | value
    built = {name: hints[name](**values) for name, values in sections.items()}
    return Config(**built, **plain)


def with_output(config: Config, output_dir: Path) -> Config:
    """The same settings for another run directory."""
    return replace(config, output_dir=str(output_dir))


def train_run(config: Config, resume: bool = False) -> None:
    """A body: the whole training."""
    from cotrain_dist.training.train import train

    train(config, resume=resume)


def complaint(config: Config, resume: bool = False) -> tuple[str, str]:
    """A body: the whole training; the kind and the text of the error that it ends with, if any."""
    try:
        train_run(config, resume)
    except (UserError, TrainingError) as error:
        return type(error).__name__, str(error)
    return "", "no error"


def history_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's history without what clock and memory say."""
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if "seconds" not in key and "memory" not in key
        }
        for line in (run / "history.jsonl").read_text().splitlines()
    ]


class GradientRecorder:
    """In a body: stands for an optimizer, and keeps the gradient that it is given."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.gradient: dict[str, Any] = {}

    def step(self) -> None:
        for name, parameter in self._model.named_parameters():
            assert parameter.grad is not None
            self.gradient[name] = parameter.grad.cpu().clone()

    def zero_grad(self, set_to_none: bool) -> None:
        pass


def build_students(config: Config) -> tuple[list[Any], Any, Any]:
    """In a body: the students this rank holds, with their first weights, images and context.

    No run directory is made. End with `ctx.runtime.close()`.
    """
    from cotrain_dist.config import resolve_role
    from cotrain_dist.training.setup import first_models, prepare, start_world
    from cotrain_dist.training.student import build_student

    rt = start_world(config)
    ctx, images = prepare(config, rt, resume=False)
    models = first_models(config, rt.roles_here, images.table.class_names)
    students = [
        build_student(role, model, resolve_role(config, role.value), rt)
        for role, model in models.items()
    ]
    return students, images, ctx
