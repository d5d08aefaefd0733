"""Mistakes that need a large or a damaged input."""

import dataclasses
from pathlib import Path

import pytest
import torch

from cotrain_dist.config import Config, ConsistencyConfig, DataConfig, PretrainConfig
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import draw_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.placement import Placement
from cotrain_dist.method.scores import MAX_CLASSES
from cotrain_dist.method.splits import Split
from cotrain_dist.models import load_saved
from cotrain_dist.training.setup import check_table

ALONE = Placement((0,), (0,))


def test_more_classes_than_a_vote_can_name() -> None:
    config = Config(data=DataConfig(labeled_per_class=2))
    table = draw_split_table(list_images(config.data), config.data, seed=0)
    names = tuple(str(number) for number in range(MAX_CLASSES + 1))
    many = dataclasses.replace(table, listing=dataclasses.replace(table.listing, class_names=names))
    with pytest.raises(UserError, match=r"65536 classes, a vote's label has 16 bits"):
        check_table(many, config, ALONE)


def test_groups_of_another_source_or_without_v() -> None:
    digits = DataConfig(labeled_per_class=2)
    table = draw_split_table(list_images(digits), digits, seed=0)
    folder = Config(data=DataConfig(source="imagefolder", root="x", labeled_per_class=2))
    with pytest.raises(UserError, match=r"holds splits of digits, data\.source is imagefolder"):
        check_table(table, folder, ALONE)
    with_v = Config(data=DataConfig(labeled_per_class=2, validation_fraction=0.1))
    with pytest.raises(UserError, match="hold 0 images of V"):
        check_table(table, with_v, ALONE)


def test_consistency_needs_images_without_labels() -> None:
    data = DataConfig(labeled_per_class=2, augment="crop_flip")
    config = Config(data=data, consistency=ConsistencyConfig(teacher="own"))
    table = draw_split_table(list_images(data), data, seed=0)
    check_table(table, config, ALONE)
    splits = torch.where(table.splits == Split.U, Split.L_A, table.splits)
    with pytest.raises(UserError, match=r"consistency\.teacher: own: there are no images in U"):
        check_table(dataclasses.replace(table, splits=splits), config, ALONE)


@pytest.mark.parametrize(
    ("num_epochs", "num_ranks", "is_right"), [(0, 31, True), (0, 33, False), (1, 31, False)]
)
def test_without_step_one_all_steps_of_consistency_are_whole(
    num_epochs: int, num_ranks: int, is_right: bool
) -> None:
    """20 labeled images are too few for 11 ranks, but steps of 64 images serve 32."""
    data = DataConfig(labeled_per_class=2, augment="crop_flip")
    config = Config(
        data=data,
        pretrain=PretrainConfig(num_epochs=num_epochs),
        consistency=ConsistencyConfig(teacher="own"),
    )
    table = draw_split_table(list_images(data), data, seed=0)
    placement = Placement((0,), tuple(range(1, 1 + num_ranks)))
    if is_right:
        check_table(table, config, placement)
        return
    with pytest.raises(UserError, match=r"per rank and micro-batch: an epoch of B has"):
        check_table(table, config, placement)


def test_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no saved model"):
        load_saved(tmp_path)
