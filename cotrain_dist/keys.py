"""Keyed randomness: every random draw is a function of the seed and of what it is for.

No generator's history matters, so nothing depends on the world size, on workers or on a resume.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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


@contextmanager
def seeded(*key: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators by the key inside the block, and restore them after it.

    For libraries that draw from the global generator: first weights, dropout, random crops.
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
