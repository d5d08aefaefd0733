"""cotrain_dist: two image classifiers teach each other on unlabeled images.

The names below are loaded when they are first used: importing the package imports no torch.
"""

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from cotrain_dist.runtime.threads import settle_threads
from cotrain_dist.version import __version__

# For type checkers and editors, which do not follow __getattr__.
if TYPE_CHECKING:
    from cotrain_dist.api import Run, cotrain, load_run
    from cotrain_dist.config import (
        Config,
        CotrainConfig,
        DataConfig,
        ModelConfig,
        PretrainConfig,
        SelectionConfig,
        TrainConfig,
    )
    from cotrain_dist.errors import TrainingError, UserError
    from cotrain_dist.method.selection import select_disagreement

# Where each name lives. torch takes seconds to import, and a mistyped key or `--help`
# should not wait for it.
_HOME = {
    "cotrain_dist.api": ("Run", "cotrain", "load_run"),
    "cotrain_dist.config": (
        *("Config", "CotrainConfig", "DataConfig", "ModelConfig"),
        *("PretrainConfig", "SelectionConfig", "TrainConfig"),
    ),
    "cotrain_dist.errors": ("TrainingError", "UserError"),
    "cotrain_dist.method.selection": ("select_disagreement",),
}

__all__ = [
    "Config",
    "CotrainConfig",
    "DataConfig",
    "ModelConfig",
    "PretrainConfig",
    "Run",
    "SelectionConfig",
    "TrainConfig",
    "TrainingError",
    "UserError",
    "__version__",
    "cotrain",
    "load_run",
    "select_disagreement",
]

# Without a handler Python would print errors a second time.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __dir__() -> list[str]:
    """What a user may use, and nothing else, for the completion of a notebook."""
    return __all__


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            if module == "cotrain_dist.api":  # a training may follow
                settle_threads(os.environ)
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
