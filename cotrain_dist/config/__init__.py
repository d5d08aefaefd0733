"""The settings: one tree of frozen dataclasses with every key, default, unit and rule.

Importing this package imports no torch, so that a mistyped key costs no seconds.
"""

from cotrain_dist.config.consistency import ConsistencyConfig
from cotrain_dist.config.data import DataConfig
from cotrain_dist.config.model import ModelConfig
from cotrain_dist.config.running import (
    CheckpointConfig,
    DistributedConfig,
    PlacementConfig,
    PoolConfig,
    SelectionConfig,
)
from cotrain_dist.config.structure import StructureConfig
from cotrain_dist.config.training import CotrainConfig, PretrainConfig, TrainConfig
from cotrain_dist.config.tree import Config, RoleConfig, resolve_role

__all__ = [
    "CheckpointConfig",
    "Config",
    "ConsistencyConfig",
    "CotrainConfig",
    "DataConfig",
    "DistributedConfig",
    "ModelConfig",
    "PlacementConfig",
    "PoolConfig",
    "PretrainConfig",
    "RoleConfig",
    "SelectionConfig",
    "StructureConfig",
    "TrainConfig",
    "resolve_role",
]
