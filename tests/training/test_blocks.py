"""Blocks in which T is measured: of whole chunks, and small."""

import pytest
import torch

from cotrain_dist.method.placement import chunks_of_rank
from cotrain_dist.training.evaluate import BLOCK_VALUES, blocks_of


@pytest.mark.parametrize("num_images", [1, 8, 50, 10_001])
@pytest.mark.parametrize(("num_classes", "batch_size"), [(2, 8), (1000, 256), (60_000, 256)])
@pytest.mark.parametrize("group_sizes", [[1], [1, 1], [3, 1], [2, 2]])
def test_blocks_hold_whole_chunks_and_few_values(
    num_images: int, num_classes: int, batch_size: int, group_sizes: list[int]
) -> None:
    ids = torch.arange(num_images) + 5
    blocks = blocks_of(ids, num_classes, batch_size, group_sizes)
    assert torch.equal(torch.cat(list(blocks)), ids)
    assert all(len(block) % batch_size == 0 for block in blocks[:-1])
    fewest = min(group_sizes)
    for block in blocks:
        chunks = chunks_of_rank(len(block), batch_size, 0, fewest)
        num_values = sum(stop - start for start, stop in chunks) * num_classes
        a_chunk_for_each = -(-max(group_sizes) // fewest) * batch_size * num_classes
        assert num_values <= max(BLOCK_VALUES, a_chunk_for_each)


def test_blocks_leave_no_rank_idle() -> None:
    blocks = blocks_of(torch.arange(100_000), 1000, 256, [1, 4])
    assert len(blocks) > 1
    for rank in range(4):
        assert chunks_of_rank(len(blocks[0]), 256, rank, 4)
