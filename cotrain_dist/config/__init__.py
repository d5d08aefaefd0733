"""The settings: one tree of frozen dataclasses with every key, default, unit and rule.

Importing this package imports no torch, so that a mistyped key costs no seconds.
"""

from cotrain_dist.config.data import DataConfig, augments
from cotrain_dist.config.model import ModelConfig
from cotrain_dist.config.running import (
    DistributedConfig,
    PlacementConfig,
    PoolConfig,
    SelectionConfig,
)
from cotrain_dist.config.training import CotrainConfig, PretrainConfig, TrainConfig
from cotrain_dist.config.tree import Config, resolve_model

__all__ = [
    "Config",
    "CotrainConfig",
    "DataConfig",
    "DistributedConfig",
    "ModelConfig",
    "PlacementConfig",
    "PoolConfig",
    "PretrainConfig",
    "SelectionConfig",
    "TrainConfig",
    "augments",
    "resolve_model",
]
