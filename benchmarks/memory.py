"""Memory of a pass over U, of measuring T and of the table of images, on two gloo ranks.

    python benchmarks/memory.py

Peak memory by number of images, with 1,000 classes: what a further image adds to it.
"""

import ctypes
import gc
import hashlib
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from targets import Target, print_all
from two_ranks import NUM_CLASSES, in_two_ranks, peak_memory, status_of, table_of

PASSES = {"a pass over U": 16.0, "measuring T": 100.0}
"""Bytes that a further image may cost; a row of probabilities has 4,000, one model's."""
PASS_SIZES = (20_000, 200_000)
NUM_REPEATS_OF_PASSES = 3
NUM_ROWS = 1_000_000
"""Of the table of images."""


def targets() -> list[Target]:
    """Measured now."""
    return [*memory_targets(), *table_targets()]


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
    return status_of("RssAnon")


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
                images = SimpleNamespace(table=table_of(size), pixels=None)
                ids = torch.arange(size)
                with peak_memory() as peak:
                    action(images, ids)
                if repeat > 0:  # the first one also pays for what the libraries set up
                    peaks.setdefault((name, size), []).append(peak[0])
                if repeat == 0:
                    break
    return peaks


if __name__ == "__main__":
    print_all(targets())
