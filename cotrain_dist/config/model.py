"""Settings of one of the two models."""

from dataclasses import dataclass
from typing import Literal

from cotrain_dist.config.data import check_image_size
from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One of the two models."""

    name: str | None = None
    """Any model name of timm. null is that of the folder in `pretrained`; with `pretrained: true`
    tf_efficientnet_lite0 for A and tf_efficientnet_lite1 for B; else efficientnet_b0."""
    pretrained: bool | str = False
    """false: random weights. true: timm's published ones (a download). FOLDER: the weights of a
    folder with config.json and model.safetensors, as timm's `local-dir`, of any classes; the last
    layer starts anew."""
    init_from: str | None = None
    """Start from a folder such as RUN/models/best, with its last layer: of the same classes."""
    train: Literal["all", "head"] = "all"
    """all: the whole model. head: its last layer alone, on features that the rest of it gives once
    for every image; for pretrained starts. A fit is then a matter of seconds."""
    head_penalty: float | None = None
    """train head: factor on half the squared norm of its weights; null chooses it by
    cross-validation on the labeled images."""
    drop_rate: float = 0.0
    """Dropout before the classifier, 0 to 1."""
    drop_path_rate: float = 0.0
    """Stochastic depth, 0 to 1, for the models that have it."""
    image_size: int | None = None
    """Instead of `data.image_size`, for this model."""
    augment: Literal["auto", "crop_flip", "strong", "off"] | None = None
    """Instead of `data.augment`, for this model."""
    crop_min_area: float | None = None
    """Instead of `data.crop_min_area`, for this model."""
    optimizer: str | None = None
    """Instead of `train.optimizer`, for this model."""
    weight_decay: float | None = None
    """Instead of `train.weight_decay`, for this model."""
    learning_rate_scale: float = 1.0
    """Factor on this model's learning rates, in both phases."""

    def __post_init__(self) -> None:
        # Keys are named without their section: this class is in the tree twice and cannot know
        # where. The parser puts model_a or model_b before them.
        if self.pretrained and self.init_from:
            raise UserError(
                "init_from",
                self.init_from,
                f"the same model asks for pretrained: {str(self.pretrained).lower()}",
                "keep one of the two",
            )
        if self.head_penalty is not None and self.head_penalty <= 0.0:
            raise UserError(
                "head_penalty", self.head_penalty, "must be above 0", "try 0.001, or null"
            )
        if self.train == "head" and not (self.pretrained or self.init_from):
            raise UserError(
                "train",
                self.train,
                "needs a start, since random weights give no features",
                "give pretrained or init_from as well",
            )
        check_image_size("image_size", self.image_size)
        if self.crop_min_area is not None and not 0.0 < self.crop_min_area <= 1.0:
            raise UserError(
                "crop_min_area",
                self.crop_min_area,
                "must be above 0 and at most 1",
                "null takes data.crop_min_area",
            )
        if self.weight_decay is not None and self.weight_decay < 0.0:
            raise UserError(
                "weight_decay",
                self.weight_decay,
                "must not be negative",
                "0 switches it off, null takes train.weight_decay",
            )
        if self.learning_rate_scale <= 0.0:
            raise UserError(
                "learning_rate_scale", self.learning_rate_scale, "must be above 0", "try 1"
            )
        for name in ("drop_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(
                    name, getattr(self, name), "must be at least 0 and below 1", "0 drops nothing"
                )
