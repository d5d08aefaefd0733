"""Settings of one of the two models."""

from dataclasses import dataclass
from typing import Literal

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One of the two models."""

    name: str = "efficientnet_b0"
    """Any model name of timm."""
    pretrained: bool = False
    """Start from timm's published weights (a download) instead of random ones."""
    init_from: str | None = None
    """Start from a folder such as RUN/models/best: model.safetensors and config.json."""
    drop_rate: float = 0.0
    """Dropout before the classifier, 0 to 1."""
    drop_path_rate: float = 0.0
    """Stochastic depth, 0 to 1, for the models that have it."""
    image_size: int | None = None
    """Instead of `data.image_size`, for this model."""
    augment: Literal["auto", "crop_flip", "off"] | None = None
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
        if self.pretrained and self.init_from:
            raise UserError(
                "init_from",
                self.init_from,
                "the same model asks for pretrained: true",
                "keep one of the two",
            )
        if self.image_size is not None and self.image_size < 8:
            raise UserError(
                "image_size", self.image_size, "must be at least 8 pixels", "try 64 or 224"
            )
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
