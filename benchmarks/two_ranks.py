"""Two gloo ranks of one thread for benchmarks, and what they hold and receive."""

import ctypes
import gc
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

NUM_CLASSES = 1000
LIMIT_SECONDS, END_SECONDS = 900.0, 120.0


def table_of(num_images: int) -> Any:
    """A table without paths: as many images of U with a true class."""
    import torch

    from cotrain_dist.method.splits import Split

    class Table:
        class_ids = torch.randint(
            NUM_CLASSES, (num_images,), generator=torch.Generator().manual_seed(7)
        )
        class_names = tuple(map(str, range(NUM_CLASSES)))
        splits = torch.full((num_images,), Split.U, dtype=torch.int8)

        def sample_ids(self, split: Split) -> torch.Tensor:
            return (self.splits == split).nonzero().flatten()

    return Table()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Of this process within the block, beyond what it held before; Linux."""
    gc.collect()
    # Freed memory that malloc keeps would hide the peak.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
    before = status_of("VmRSS")
    peak = [0]
    yield peak
    peak[0] = max(status_of("VmHWM") - before, 0)


def status_of(name: str) -> int:
    """Bytes of this process, by their name in its status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


@contextmanager
def received_bytes() -> Iterator[list[int]]:
    """The bytes that collectives have filled from other ranks, one entry for each call."""
    import torch.distributed as dist

    received: list[int] = []
    whole = {name: getattr(dist, name) for name in ("all_gather", "all_to_all_single")}
    whole |= {name: getattr(dist, name) for name in ("broadcast", "all_reduce")}

    def all_gather(parts: list[Any], own: Any, **options: Any) -> Any:
        received.append((len(parts) - 1) * own.nbytes)
        return whole["all_gather"](parts, own, **options)

    def all_to_all_single(output: Any, *rest: Any, **options: Any) -> Any:
        received.append(output.nbytes)
        return whole["all_to_all_single"](output, *rest, **options)

    def broadcast(values: Any, src: int, **options: Any) -> Any:
        received.append(values.nbytes if dist.get_rank() != src else 0)
        return whole["broadcast"](values, src=src, **options)

    def all_reduce(values: Any, **options: Any) -> Any:
        received.append(values.nbytes)
        return whole["all_reduce"](values, **options)

    with mock.patch.multiple(
        dist,
        all_gather=all_gather,
        all_to_all_single=all_to_all_single,
        broadcast=broadcast,
        all_reduce=all_reduce,
    ):
        yield received


def in_two_ranks(body: Callable[..., Any], *args: Any) -> list[Any]:
    """`body(rt, *args)` in a world of two fresh processes; what each returned."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        pipes, processes = [], []
        for rank in range(2):
            pipe, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_serve, args=(rank, port, folder, theirs, body, args), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(pipe)
            processes.append(process)
        try:
            for rank, pipe in enumerate(pipes):
                assert pipe.poll(LIMIT_SECONDS), f"rank {rank} has not answered"
            results = [pipe.recv() for pipe in pipes]
            for process in processes:
                process.join(END_SECONDS)
        finally:
            for process in processes:
                process.kill()
    return results


def _serve(
    rank: int, port: int, folder: str, pipe: Any, body: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
        "OMP_NUM_THREADS": "1",
    }
    import torch

    from cotrain_dist.config import Config, DataConfig
    from cotrain_dist.runtime.accelerator import start_runtime

    torch.set_num_threads(1)
    config = Config(data=DataConfig(source="digits"), device="cpu", output_dir=folder)
    with start_runtime(config) as rt:
        pipe.send(body(rt, *args))
