"""Keyed randomness: every random draw is a function of the seed and of what it is for.

No generator's history matters, so nothing depends on the world size, on workers or on a resume.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray


def derive_seed(*key: int | str) -> int:
    """63-bit seed of a key such as (seed, "order", "a", "cotrain", epoch).

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1) != derive_seed(0, "order", 2)
    True
    """
    # A change here changes every split, order, crop and dropout of every run. The separator keeps
    # ("a", "bc") and ("ab", "c") apart; hash() would not do, as Python salts it in each process.
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by the key."""
    # On the CPU in every world: a GPU draws other numbers from the same seed.
    return torch.Generator().manual_seed(derive_seed(*key))


def keyed_uniforms(ids: NDArray[np.int64], num: int, *key: int | str) -> NDArray[np.float64]:
    """`num` numbers in [0, 1) for each id, [n, num]: a function of the key and of that id alone.

    Counter-based (splitmix64, Steele et al. 2014, as a hash of seed, id and column), so that all of
    a batch are drawn at once and none depends on its neighbors.
    """
    # Whole numbers of 64 bits wrap around: the same bits on every machine.
    seed = np.array(derive_seed(*key), dtype=np.uint64)
    streams = _mixed(_mixed(ids.astype(np.uint64) * GOLDEN) ^ seed)
    columns = np.arange(1, num + 1, dtype=np.uint64) * GOLDEN
    bits = _mixed(streams[:, None] + columns[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


GOLDEN = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
"""2**64 divided by the golden ratio: splitmix64's step."""


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer: each bit of the result depends on each one given."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.array(0xBF58476D1CE4E5B9, dtype=np.uint64)
    bits = (bits ^ (bits >> np.uint64(27))) * np.array(0x94D049BB133111EB, dtype=np.uint64)
    return bits ^ (bits >> np.uint64(31))


@contextmanager
def seeded(*key: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators by the key inside the block, and restore them after it.

    For libraries that draw from the global generator: first weights, dropout.
    `device`: a CUDA device whose generator is treated alike. About 20 µs on a CPU;
    `torch.manual_seed` would take 400.
    """
    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(derive_seed(*key))
    try:
        yield
    # After an error as well: in a notebook, work goes on with the same generator.
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
