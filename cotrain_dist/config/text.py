"""Settings as text: YAML, flat keys, and the digest that says which run they make."""

import hashlib
from dataclasses import asdict
from typing import Any

import yaml

from cotrain_dist.config.tree import Config

# data.splits_from and data.extra_labels are free: a resume reads the run's own splits.parquet.
FREE_ON_RESUME = (
    *("output_dir", "device", "placement", "distributed", "tracking"),
    *("data.root", "data.num_workers", "data.splits_from", "data.extra_labels"),
    *("data.feature_cache", "data.cache", "data.cache_gb"),
)
"""Keys (or sections) that a resume may change: where the run lies and runs, not what it is."""


def config_to_yaml(config: Config) -> str:
    """The full tree in the order of its fields, fit for `--config`."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def config_digest(config: Config) -> str:
    """SHA-256 over all settings that decide a result."""
    # A new key changes the digest, whatever its default: earlier runs are then refused on a resume.
    settings = {
        key: value for key, value in flatten(asdict(config)).items() if not is_free_on_resume(key)
    }
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted keys.

    >>> flatten({"seed": 0, "selection": {"threshold": 0.8}})
    {'seed': 0, 'selection.threshold': 0.8}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def is_free_on_resume(key: str) -> bool:
    """Whether a resume may change this setting."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_ON_RESUME)
