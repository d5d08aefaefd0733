"""Keyed randomness: one stable seed a key, and global generators left as they were."""

import pytest
import torch

from cotrain_dist.keys import derive_seed, keyed_generator, seeded


def test_the_key_scheme_is_stable() -> None:
    # A change here changes every group, order and augmentation of every run.
    assert derive_seed(0, "order", "a", "cotrain", 3) == 305752085098406009


@pytest.mark.parametrize(
    "other",
    [
        (1, "order", "a", "cotrain", 3),
        (0, "augment", "a", "cotrain", 3),
        (0, "order", "b", "cotrain", 3),
        (0, "order", "a", "pretrain", 3),
        (0, "order", "a", "cotrain", 4),
        (0, "order", "a", "cotrain"),
        (0, "order", "a", "cotrain", 3, 0),
        ("order", 0, "a", "cotrain", 3),
    ],
)
def test_each_part_of_a_key_counts(other: tuple[int | str, ...]) -> None:
    assert derive_seed(*other) != derive_seed(0, "order", "a", "cotrain", 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "bc"), ("ab", "c")), ((1, 23), (12, 3)), (("ab",), ("a", "b")), (("a", ""), ("a",))],
)
def test_the_bounds_of_the_parts_count(
    one: tuple[int | str, ...], other: tuple[int | str, ...]
) -> None:
    assert derive_seed(*one) != derive_seed(*other)


def test_seeds_have_63_bits_and_do_not_collide() -> None:
    seeds = [derive_seed(seed, "x", part) for seed in range(100) for part in range(100)]
    assert len(set(seeds)) == 10_000
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_keyed_generator_draws_by_its_key_alone() -> None:
    def draw(*key: int | str) -> list[float]:
        return torch.rand(4, generator=keyed_generator(*key)).tolist()

    first = draw(0, "x")
    torch.rand(3)
    assert draw(0, "x") == first
    assert draw(1, "x") != first


def test_seeded_gives_equal_draws_and_restores_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2, 3)

    torch.manual_seed(5)
    outside = [torch.rand(3)]
    with seeded(0, "dropout"):
        first = torch.rand(4)
    with seeded(0, "dropout"):
        second = torch.rand(4)
    with seeded(1, "dropout"):
        third = torch.rand(4)
    outside.append(torch.rand(3))

    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.stack(outside), expected)


def test_seeded_restores_the_global_generator_after_an_error() -> None:
    def fail_inside() -> None:
        with seeded(0):
            torch.rand(4)
            raise RuntimeError("inside")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(torch.get_rng_state(), before)
