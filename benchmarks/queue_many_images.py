"""How long `queue` takes to choose from a large pool, and how much memory: on made-up features.

    python benchmarks/queue_many_images.py [--num_images 100000] [--size 1000] [--num_ranks 2]

Writes features of 2 x 1,280 numbers, in clusters, to a temporary folder, and lets ranks of one
thread each choose by herding, as `queue` does once it has features. Prints seconds and the largest
resident memory of a rank.
"""

import argparse
import hashlib
import multiprocessing
import os
import resource
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH, NUM_CLUSTERS, SPREAD = 1280, 300, 0.7


def digests_of(num_images: int) -> list[str]:
    """Made-up images."""
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(num_images)]


def open_filled(folder: Path, seed: int, digests: list[str], *, fill: bool) -> Any:
    """A store of the features of a made-up backbone."""
    import torch

    from cotrain_dist.store.features import FeatureStore

    store = FeatureStore(folder, {"weights": seed, "dtype": "float32"}, digests, WIDTH)
    if fill:
        generator = torch.Generator().manual_seed(seed)
        centers = torch.randn(NUM_CLUSTERS, WIDTH, generator=generator)
        for block in range(store.num_blocks):
            ids = store.missing(block)
            noise = torch.randn(len(ids), WIDTH, generator=generator)
            store.write(ids, centers[ids % NUM_CLUSTERS] + SPREAD * noise)
    store.look()
    return store


def choose_on_rank(rank: int, own: argparse.Namespace, folder: Path, port: int) -> None:
    """One rank: join, choose, and print on the first."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"WORLD_SIZE": str(own.num_ranks), "MASTER_PORT": str(port)}
    if own.num_ranks == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
    import torch

    from cotrain_dist.config import Config
    from cotrain_dist.inference.choose import JointFeatures, Query, choose
    from cotrain_dist.runtime.accelerator import start_runtime

    torch.set_num_threads(1)
    digests = digests_of(own.num_images)
    stores = tuple(open_filled(folder, seed, digests, fill=False) for seed in (1, 2))
    with start_runtime(Config(device="cpu")) as rt:
        started = time.monotonic()
        ids = torch.arange(own.num_images)
        features = JointFeatures.of((stores[0], stores[1]), ids)
        query = Query("herding", own.size, seed=0, near=0.2)
        chosen = choose(query, ids, ids[:0], features, None, rt.control)
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    what = f"rank {rank}: {len(chosen)} of {own.num_images} images in {seconds:.0f} s"
    print(f"{what}, at most {peak:.0f} MiB, first {chosen[:3]}", flush=True)


def main() -> None:
    """Make the features, start the ranks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--num_ranks", type=int, default=2)
    own = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        digests = digests_of(own.num_images)
        for seed in (1, 2):
            open_filled(Path(name), seed, digests, fill=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")
        ranks = [
            spawn.Process(target=choose_on_rank, args=(rank, own, Path(name), port))
            for rank in range(own.num_ranks)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()


if __name__ == "__main__":
    main()
