"""The exchange, its record, T and the table of images at scale, on two gloo ranks of one thread.

    python benchmarks/exchange.py [--num 1000000 10000000]

Synthetic votes of both models on U, 1,000 classes, a tenth of U in R. In turns: the exchange as it
is, the plain one with all votes on every rank, and what the record of an epoch counts. Bytes
received are those of the tensors that torch.distributed fills from another rank.
"""

import argparse
import ctypes
import gc
import hashlib
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from targets import Target, ratios

NUM_CLASSES = 1000
NUM_REPEATS = 7
THRESHOLD = 0.8
SIZES = (10**6, 10**7)
PASSES = {"a pass over U": 16.0, "measuring T": 100.0}
"""Bytes that a further image may cost; a row of probabilities has 4,000, one model's."""
PASS_SIZES = (20_000, 200_000)
NUM_REPEATS_OF_PASSES = 3
NUM_ROWS = 1_000_000
"""Of the table of images."""
START_SECONDS = 120.0


def targets(sizes: tuple[int, ...] = SIZES) -> list[Target]:
    """Measured now. The largest of `sizes` is compared with the smallest."""
    found = in_two_ranks(_measure_exchange, sizes)
    listed = []
    for size in sizes:
        # Of two ranks, the one that had more.
        worst = {
            name: [max(both) for both in zip(*(rank[size][name] for rank in found), strict=True)]
            for name in found[0][size]
        }
        listed += _targets_of(size, worst)
        found[0][size]["exchange, s"] = worst["exchange, s"]
    few, many = min(sizes), max(sizes)
    if few < many:
        slower = ratios(found[0][many]["exchange, s"], found[0][few]["exchange, s"])
        name = f"exchange, time of {many:,} votes to that of {few:,}"
        bound = 1.1 * many / few
        listed.append(Target(name=name, values=slower, bound=bound, is_least=False))
    return listed + memory_targets() + table_targets()


def _targets_of(size: int, worst: dict[str, list[float]]) -> list[Target]:
    what = f"exchange of {size:,} votes"
    times = {name: worst[name] for name in worst if name.endswith(", s")}
    return [
        Target(
            name=f"{what}, received for each",
            values=[value / size for value in worst["received, B"]],
            bound=4.2,
            is_least=False,
            unit="B",
            measured={"plain, B": [value / size for value in worst["plain received, B"]]},
        ),
        Target(
            name=f"{what}, peak memory for each",
            values=[value / size for value in worst["peak, B"]],
            bound=16.0,
            is_least=False,
            unit="B",
            measured={"plain, B": [value / size for value in worst["plain peak, B"]]},
        ),
        Target(
            name=f"{what}, time of the record to that of the exchange",
            values=ratios(worst["record, s"], worst["exchange, s"]),
            bound=1.0,
            is_least=False,
            measured=times,
        ),
    ]


def _measure_exchange(rt: Any, sizes: tuple[int, ...]) -> dict[int, dict[str, list[float]]]:
    """On one rank: what each repeat took, by size, and by name with its unit."""
    found: dict[int, dict[str, list[float]]] = {size: {} for size in sizes}
    repeats = {size: _repeats_of(size, found[size], rt) for size in sizes}
    for number in range(NUM_REPEATS):
        for size in sizes if number % 2 == 0 else reversed(sizes):
            next(repeats[size])
    return found


def _repeats_of(num_images: int, found: dict[str, list[float]], rt: Any) -> Iterator[None]:
    """Each step is one repeat: both exchanges, and the record of one."""
    import torch

    from cotrain_dist.config import SelectionConfig
    from cotrain_dist.training import pool
    from cotrain_dist.training.evaluate import bring_together

    selection = SelectionConfig(threshold=THRESHOLD)
    role, table = rt.roles_here[0], _table_of(num_images)
    shards = {role: _votes_of(role, num_images)}
    pool_ids = torch.arange(num_images)

    def exchange() -> Any:
        votes = pool.PoolVotes(tuple(bring_together(shards, num_images, 1024, rt)))
        own = pool.select_here(votes, pool_ids, selection)
        return votes, pool.hand_over(own, rt.control)

    def plain() -> Any:
        return pool.exchange_plainly(shards, pool_ids, selection, rt)

    for repeat in range(NUM_REPEATS):
        expected = None if repeat % 2 == 0 else _watch(plain, "plain", "plain ", found, rt)
        votes, exchanged = _watch(exchange, "exchange", "", found, rt)
        record = _record_of(votes, exchanged, table, pool_ids, rt)
        _watch(record, "record", "record ", found, rt)
        del votes
        if expected is None:
            expected = _watch(plain, "plain", "plain ", found, rt)
        assert _equal(exchanged, expected)
        yield


def _watch(
    action: Callable[[], Any], name: str, prefix: str, found: dict[str, list[float]], rt: Any
) -> Any:
    """Time, peak memory and bytes received of an action that both ranks do."""
    from cotrain_dist.runtime.collectives import barrier

    barrier(rt.control)
    with _peak_memory() as peak, _received_bytes() as received:
        started = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - started
    for key, value in (
        (f"{name}, s", seconds),
        (f"{prefix}peak, B", peak[0]),
        (f"{prefix}received, B", sum(received)),
    ):
        found.setdefault(key, []).append(value)
    return result


def memory_targets() -> list[Target]:
    """Peak memory of a pass over U and of measuring T: what each further image adds to it."""
    found = in_two_ranks(_measure_passes)
    listed = []
    few, many = PASS_SIZES
    for name, bound in PASSES.items():
        peaks = {
            size: [max(both) for both in zip(*(rank[name, size] for rank in found), strict=True)]
            for size in (few, many)
        }
        pairs = zip(peaks[few], peaks[many], strict=True)
        listed.append(
            Target(
                name=f"{name}, {NUM_CLASSES:,} classes: peak memory for each further image",
                values=[(more - less) / (many - few) for less, more in pairs],
                bound=bound,
                is_least=False,
                unit="B",
                measured={
                    f"{size:,} images, MiB": [value / 2**20 for value in values]
                    for size, values in peaks.items()
                },
            )
        )
    return listed


def table_targets() -> list[Target]:
    """The table of images on each of two ranks: memory that is the rank's own, by image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "splits.parquet"
        _write_table(path)
        found = in_two_ranks(_measure_table, str(path))
    values = [max(both) / NUM_ROWS for both in zip(*found, strict=True)]
    name = f"table of {NUM_ROWS:,} images, own memory of a rank for each"
    return [Target(name=name, values=values, bound=64.0, is_least=False, unit="B")]


def _write_table(path: Path) -> None:
    """A splits.parquet of images in class folders."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"class_{number:04d}" for number in range(NUM_CLASSES)]
    rows = range(NUM_ROWS)
    columns = {
        "source": ["imagefolder"] * NUM_ROWS,
        "path": [f"{names[i % NUM_CLASSES]}/image_{i:08d}.jpg" for i in rows],
        "class": [names[i % NUM_CLASSES] for i in rows],
        "split": ["U"] * NUM_ROWS,
        "size": [10_000 + i % 5000 for i in rows],
        "sha256": [hashlib.sha256(i.to_bytes(8, "big")).hexdigest() for i in rows],
    }
    table = pa.table(columns).replace_schema_metadata({"class_names": json.dumps(names)})
    pq.write_table(table, path)


def _measure_table(rt: Any, path: str) -> list[int]:
    """On one rank: bytes of its own for the table, once its rows have been looked at."""
    import pyarrow as pa

    from cotrain_dist.data.splits import load_split_table
    from cotrain_dist.runtime.collectives import barrier

    found = []
    for repeat in range(1 + NUM_REPEATS_OF_PASSES):
        before = _own_memory(pa.default_memory_pool())
        table = load_split_table(Path(path))
        looked_at = sum(len(path) for path in table.listing.paths)
        looked_at += sum(len(digest) for digest in table.listing.digests)
        assert looked_at == NUM_ROWS * (len("class_0000/image_00000000.jpg") + 64)
        barrier(rt.control)  # both hold it now
        if repeat > 0:
            found.append(max(_own_memory(pa.default_memory_pool()) - before, 0))
        del table
    return found


def _own_memory(arrow: Any) -> int:
    """Bytes of this process that are no file's; what allocators keep for later is given back."""
    gc.collect()
    arrow.release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("RssAnon")


def _measure_passes(rt: Any) -> dict[tuple[str, int], list[float]]:
    """On one rank: peak memory by name and number of images, one value for each repeat."""
    import torch

    from cotrain_dist.method.splits import Split
    from cotrain_dist.training.evaluate import measure_split, pass_over
    from cotrain_dist.training.pool import packed_votes

    torch.manual_seed(0)
    role = rt.roles_here[0]
    student: Any = SimpleNamespace(
        role=role,
        group=rt.role_groups[role],
        model=torch.nn.Linear(16, NUM_CLASSES),
        inputs=lambda batches, *rest: (torch.rand(len(batch), 16) for batch in batches),
    )
    ctx: Any = SimpleNamespace(
        runtime=rt,
        config=SimpleNamespace(pool=SimpleNamespace(batch_size=256)),
        reporter=SimpleNamespace(track=lambda *what: nullcontext(lambda num_done: None)),
    )

    def label(images: Any, ids: torch.Tensor) -> Any:
        return pass_over(student, ids, packed_votes, "label U:", images, ctx)

    def measure(images: Any, ids: torch.Tensor) -> Any:
        return measure_split([student], Split.U, images, ctx)

    peaks: dict[tuple[str, int], list[float]] = {}
    for repeat in range(1 + NUM_REPEATS_OF_PASSES):
        for name, action in zip(PASSES, (label, measure), strict=True):
            for size in PASS_SIZES:
                images = SimpleNamespace(table=_table_of(size), pixels=None)
                ids = torch.arange(size)
                with _peak_memory() as peak:
                    action(images, ids)
                if repeat > 0:  # the first one also pays for what the libraries set up
                    peaks.setdefault((name, size), []).append(peak[0])
                if repeat == 0:
                    break
    return peaks


def _record_of(votes: Any, exchanged: Any, table: Any, pool_ids: Any, rt: Any) -> Callable[[], Any]:
    """What the lead rank does at the end of an epoch with votes and R."""
    import torch

    from cotrain_dist.training import epochs
    from cotrain_dist.training.commits import CotrainState
    from cotrain_dist.types import ROLES

    ever_selected = CotrainState.at_start(len(pool_ids)).ever_selected

    def record() -> Any:
        counts = epochs.count_votes(votes, table, pool_ids, THRESHOLD, rt.control)
        epochs.note_selected(ever_selected, exchanged, pool_ids)
        described = [epochs.describe_selected(exchanged.selected_by(r), table) for r in ROLES]
        return (
            counts.agreement_rate,
            counts.num_equal_codes,
            counts.describe(),
            described,
            int(torch.count_nonzero(ever_selected)),
        )

    return record


def _votes_of(role: Any, num_images: int) -> Any:
    """Packed votes on U: both models name one class on six images of ten; [N] int32."""
    import torch

    from cotrain_dist.method.scores import encode_uncertainty

    shared, own = (torch.Generator().manual_seed(seed) for seed in (7, role.index))
    packed = torch.empty(num_images, dtype=torch.int32)
    for rows in packed.split(1 << 18):
        size = len(rows)
        common = torch.randint(NUM_CLASSES, (size,), generator=shared)
        is_common = torch.rand(size, generator=shared) < 0.6
        other = torch.randint(NUM_CLASSES, (size,), generator=own)
        labels = torch.where(is_common, common, other)
        # Sure in about one case of six, so that a tenth of U is in an R.
        codes = encode_uncertainty(torch.rand(size, generator=own).double() ** 0.9)
        halves = torch.stack([labels.to(torch.uint16).view(torch.int16), codes], dim=1)
        rows.copy_(halves.view(torch.int32)[:, 0])
    return packed


def _table_of(num_images: int) -> Any:
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


def _equal(first: Any, second: Any) -> bool:
    import torch

    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for one, other in ((first.a, second.a), (first.b, second.b))
        for name in ("sample_ids", "labels")
    )


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Of this process within the block, beyond what it held before; Linux."""
    gc.collect()
    # Freed memory that malloc keeps would hide the peak.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
    before = _status("VmRSS")
    peak = [0]
    yield peak
    peak[0] = max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


@contextmanager
def _received_bytes() -> Iterator[list[int]]:
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
            results = [pipe.recv() for pipe in pipes]
            for process in processes:
                process.join(START_SECONDS)
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


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, nargs="+", default=list(SIZES))
    for target in targets(tuple(parser.parse_args().num)):
        print(target.line(), flush=True)
        for name, values in target.measured.items():
            print(f"    {name}: {', '.join(f'{value:.3g}' for value in values)}")


if __name__ == "__main__":
    main()
