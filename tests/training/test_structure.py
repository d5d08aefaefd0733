"""What the structure of U says of the votes: the same bits in every world, and better than they."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks, tiny_config

from cotrain_dist.config import Config, StructureConfig
from cotrain_dist.data.sources.listing import listing_of
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import start_runtime
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training import structure
from cotrain_dist.training.context import Images, RunContext

NUM_IMAGES, NUM_CLASSES = 300, 3
WIDTHS = (6, 9)
"""Of the two models' features."""


def _images() -> Images:
    """Three images of each class are labeled, half of them A's; ten are T's, the rest is U's."""
    names = ["red", "green", "blue"]
    truth = [names[place % NUM_CLASSES] for place in range(NUM_IMAGES)]
    contents = [(1, f"{place:064x}") for place in range(NUM_IMAGES)]
    listing = listing_of("digits", [str(p) for p in range(NUM_IMAGES)], truth, contents, names)
    splits = torch.full((NUM_IMAGES,), int(Split.U))
    splits[100:109] = torch.tensor([Split.L_A, Split.L_B, Split.L_A] * 3)
    splits[200:210] = Split.T
    return Images(SplitTable(listing, splits), None)  # type: ignore[arg-type]


def _stores(folder: Path, images: Images) -> list[FeatureStore]:
    """Each class is a cloud, long in directions that have nothing to do with it."""
    stores = []
    for place, width in enumerate(WIDTHS):
        generator = np.random.default_rng(place)
        about = {"dtype": "float32", "model": place}
        store = FeatureStore(folder, about, images.table.listing.digests, width)
        rows = generator.normal(size=(NUM_IMAGES, width)) * ([1.0] * 3 + [0.2] * (width - 3))
        rows[np.arange(NUM_IMAGES), width - 1 - images.table.class_ids.numpy()] += 1.5
        store.look()
        for block in range(store.num_blocks):
            ids = store.missing(block)
            store.write(ids, torch.from_numpy(rows[ids.numpy()]).float())
        store.look()
        stores.append(store)
    return stores


def _vote(images: Images) -> torch.Tensor:
    """Seven of ten are right. [N, C] float16 of U."""
    generator = torch.Generator().manual_seed(0)
    truth = images.table.class_ids[images.table.sample_ids(Split.U)]
    moved = (torch.rand(len(truth), generator=generator) < 0.3).long()
    said = torch.nn.functional.one_hot((truth + moved) % NUM_CLASSES, NUM_CLASSES)
    return (0.15 + 0.55 * said).half()


def _correct(config: Config, folder: Path) -> dict[str, Any]:
    """A body: the corrected probabilities as bytes, and how many of U are right before and after.

    The stores are filled before, by the test.
    """
    images, rt = _images(), start_runtime(config)
    ctx = RunContext(config, rt, RunDirectory(folder / "run"), Reporter(show=False))
    vote = _vote(images)
    truth = images.table.class_ids[images.table.sample_ids(Split.U)]
    found = structure.correct_by_structure(vote, _stores(folder, images), images, ctx)
    rt.close()
    right = [float((probs.argmax(dim=1) == truth).double().mean()) for probs in (vote, found)]
    assert torch.allclose(found.sum(dim=1), torch.ones(len(truth)).double(), atol=1e-3)
    return {"bits": found.numpy().tobytes().hex(), "right": right}


def _config(kind: str, tmp_path: Path, vote_weight: float = 0.5) -> Config:
    config = tiny_config(tmp_path, tmp_path / "run", pool={"keep": "probabilities"})
    return Config(
        **{
            **vars(config),
            "structure": StructureConfig(
                kind=kind,  # type: ignore[arg-type]
                vote_weight=vote_weight,
            ),
        }
    )


@pytest.mark.parametrize(
    ("kind", "vote_weight", "least"),
    [("class_means", 0.5, 0.9), pytest.param("graph", 0.0, 0.75, marks=pytest.mark.slow)],
)
def test_every_world_finds_the_same_and_better_than_the_vote(
    kind: str, vote_weight: float, least: float, tmp_path: Path
) -> None:
    _stores(tmp_path, _images())
    config = _config(kind, tmp_path, vote_weight)
    found = [run_ranks(_in_small_chunks, n, tmp_path, config, tmp_path) for n in (1, 2, 3, 4)]
    outcomes = [outcome for world in found for outcome in world]
    assert len(outcomes) == 10
    assert {outcome["bits"] for outcome in outcomes} == {outcomes[0]["bits"]}
    before, after = outcomes[0]["right"]
    assert before < 0.7
    assert after > least


def _in_small_chunks(config: Config, folder: Path) -> dict[str, Any]:
    """A body: several chunks for each rank."""
    size, structure.CHUNK_SIZE = structure.CHUNK_SIZE, 32
    try:
        return _correct(config, folder)
    finally:
        structure.CHUNK_SIZE = size


def test_without_structure_the_vote_stays(tmp_path: Path) -> None:
    outcome = _correct(_config("off", tmp_path), tmp_path)
    assert outcome["bits"] == _vote(_images()).double().numpy().tobytes().hex()
