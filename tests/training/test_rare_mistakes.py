"""Mistakes that need a large or a damaged input."""

import dataclasses
from pathlib import Path

import pytest

from cotrain_dist.config import Config, DataConfig
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import draw_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.placement import Placement
from cotrain_dist.method.scores import MAX_CLASSES
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


def test_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no saved model"):
        load_saved(tmp_path)
